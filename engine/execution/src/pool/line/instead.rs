//! One in line gets what another has, at once: for who is to take its place.
//!
//! Given back first, it might go to somebody else in line, and then neither would be there.

use super::{Claimed, ClusterLine, State, classes, demands};

impl ClusterLine {
    /// Gives `query`, which waits in line, what it waits for out of what is free and what `old`
    /// has, which has nothing then. Not if that is not enough; nor, if it asks for other or
    /// more than `old` has, where somebody before it waits for some of that.
    pub fn take_over(&self, query: &str, old: &str) -> bool {
        self.state.lock().take_over(query, old).is_some()
    }
}

impl State {
    fn take_over(&mut self, query: &str, old: &str) -> Option<()> {
        let at = self.line.iter().position(|waiter| waiter.query == query)?;
        let waiter = self.line.get(at)?;
        let (groups, given) = (waiter.groups.clone(), self.claims.get(old)?);
        let has_all = groups.len() == given.groups.len()
            && groups.iter().zip(&given.groups).zip(&given.seats).all(
                |((wanted, given), seats)| {
                    wanted.demand == given.demand && wanted.least <= seats.len()
                },
            );
        let asked = demands(&groups);
        let mine = classes(&asked);
        let mut before = self.line.iter().take(at);
        let in_the_way = before.any(|w| !classes(&demands(&w.groups)).is_disjoint(&mine));
        if in_the_way && !has_all {
            return None;
        }
        let seats: Vec<_> = given.seats.iter().flatten().cloned().collect();
        let rooms = self.rooms();
        seats.iter().for_each(|held| self.put_back(held));
        let Some(placed) = self.place(&groups) else {
            for (host, room) in self.hosts.values_mut().zip(rooms) {
                host.room = room;
            }
            return None;
        };
        self.claims.remove(old);
        self.moved.remove(old);
        let waiter = self.line.remove(at)?;
        let claimed = Claimed::new(groups, placed);
        self.claims.insert(waiter.query, claimed);
        // Who has gone meanwhile gives it back by dropping its claim.
        let _ = waiter.granted.send(());
        // It may have been more than that.
        self.serve();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::tests::{LONG, SOON, gpus, host, hosts_of};
    use super::super::{ClusterClaim, Group, TimedOut};
    use super::*;

    type Waits = std::pin::Pin<Box<dyn Future<Output = Result<(ClusterClaim, bool), TimedOut>>>>;

    /// `query` in line for `groups`, which are not there.
    async fn waiting(line: &Arc<ClusterLine>, query: &'static str, groups: Vec<Group>) -> Waits {
        let line = Arc::clone(line);
        let mut waits: Waits = Box::pin(async move { line.claim(query, groups, LONG).await });
        let soon = tokio::time::timeout(Duration::from_millis(5), &mut waits);
        assert!(soon.await.is_err());
        waits
    }

    #[tokio::test]
    async fn the_new_one_gets_what_the_old_one_has_and_nobody_else() {
        let line = Arc::new(ClusterLine::default());
        line.set_hosts(vec![host("a", 1, 1), host("b", 2, 1)]);
        let (old, _) = line.claim("old", gpus(2), SOON).await.unwrap();
        let other = waiting(&line, "other", gpus(1)).await;
        let new = waiting(&line, "new", gpus(2)).await;
        assert!(!line.take_over("new", "nobody"));
        assert!(!line.take_over("nobody", "old"));
        assert!(line.take_over("new", "old"));
        assert!(!line.take_over("new", "old"), "it has it");
        let (new, waited) = new.await.unwrap();
        assert!(waited);
        assert_eq!(hosts_of(&line, "new"), ["a", "b"]);
        assert!(hosts_of(&line, "old").is_empty());
        // It gives back nothing that is not its own.
        drop(old);
        assert_eq!(line.waiting().len(), 1);
        drop(new);
        assert!(other.await.is_ok());
    }

    #[tokio::test]
    async fn one_that_asks_for_more_passes_nobody() {
        let line = Arc::new(ClusterLine::default());
        line.set_hosts(vec![host("a", 1, 3)]);
        let (_old, _) = line.claim("old", gpus(2), SOON).await.unwrap();
        let other = waiting(&line, "other", gpus(2)).await;
        let new = waiting(&line, "new", gpus(3)).await;
        assert!(!line.take_over("new", "old"));
        assert_eq!(hosts_of(&line, "old"), ["a", "a"]);
        drop(other);
        assert!(line.take_over("new", "old"));
        let (_new, _) = new.await.unwrap();
        assert_eq!(hosts_of(&line, "new").len(), 3);
        // Four there are not, whoever goes.
        let more = waiting(&line, "more", gpus(4)).await;
        assert!(!line.take_over("more", "new"));
        assert_eq!(hosts_of(&line, "new").len(), 3);
        drop(more);
    }

    #[tokio::test]
    async fn what_it_does_not_need_is_for_who_waits() {
        let line = Arc::new(ClusterLine::default());
        line.set_hosts(vec![host("a", 1, 2)]);
        let (_old, _) = line.claim("old", gpus(2), SOON).await.unwrap();
        let other = waiting(&line, "other", gpus(1)).await;
        let new = waiting(&line, "new", gpus(1)).await;
        assert!(line.take_over("new", "old"));
        assert!(new.await.is_ok());
        assert!(other.await.is_ok());
    }
}
