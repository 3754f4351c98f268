//! Where the actors of running queries are: what the coordinator tells who asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_plan::{PlacedPool, PlacedPools, PoolHost};
use mobula_proto::pool as proto;
use parking_lot::Mutex;

/// For how long a task that has said that its blocks wait is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// The placed pools of all queries that have some, and named actors as `actor NAME`.
#[derive(Debug, Default)]
pub struct Directory {
    pools: Mutex<HashMap<String, Vec<PlacedPool>>>,
    /// Blocks that tasks could not send when they asked, by what they asked for.
    waiting: Mutex<HashMap<String, Askers>>,
    /// Why named actors are not there, nor soon will be.
    failed: Mutex<HashMap<String, String>>,
}

/// When each of those that ask for pools last did, and how many blocks it could not send.
type Askers = HashMap<Asker, (Instant, u64)>;

/// Who asks where actors are: one call in one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asker {
    /// As of the pool; 0 where named actors are called.
    pub call_id: u64,
    /// Tells it from others; 0: nobody who waits.
    pub number: u64,
}

impl Directory {
    /// From now on these are the pools of `query`.
    pub fn set(&self, query: &str, pools: Vec<PlacedPool>) {
        if pools.iter().any(|pool| !pool.hosts.is_empty()) {
            self.failed.lock().remove(query);
        }
        self.pools.lock().insert(query.to_owned(), pools);
    }

    /// The query has ended.
    pub fn remove(&self, query: &str) {
        self.pools.lock().remove(query);
        self.waiting.lock().remove(query);
        self.failed.lock().remove(query);
    }

    /// The actors that `query` stands for cannot be built, for that `reason`; until some are.
    pub fn fail(&self, query: &str, reason: String) {
        self.failed.lock().insert(query.to_owned(), reason);
    }

    /// Why there are none of these actors, if they cannot be built.
    pub fn failure(&self, query: &str) -> Option<String> {
        self.failed.lock().get(query).cloned()
    }

    /// The pools of `query`; none once it has ended.
    pub fn find(&self, query: &str) -> Option<Vec<PlacedPool>> {
        self.pools.lock().get(query).cloned()
    }

    /// As [`Self::find`], for a task, `asker`, that has so many blocks `waiting`.
    pub fn find_for(&self, query: &str, asker: Asker, waiting: u64) -> Option<Vec<PlacedPool>> {
        let found = self.find(query)?;
        if asker.number != 0 {
            let mut all = self.waiting.lock();
            let of_query = all.entry(query.to_owned()).or_default();
            of_query.insert(asker, (Instant::now(), waiting));
        }
        Some(found)
    }

    /// Blocks of all tasks that wait for room at the actors that `query` has for call
    /// `call_id`, as far as they have said so lately.
    pub fn waiting(&self, query: &str, call_id: u64) -> usize {
        let mut all = self.waiting.lock();
        let Some(of_query) = all.get_mut(query) else {
            return 0;
        };
        of_query.retain(|_, (at, _)| at.elapsed() < BELIEVED_FOR);
        let of_call = of_query
            .iter()
            .filter(|(asker, _)| asker.call_id == call_id);
        let blocks = of_call.map(|(_, (_, waiting))| *waiting);
        usize::try_from(blocks.sum::<u64>()).unwrap_or(usize::MAX)
    }

    /// Those of `queries` that have ended.
    pub fn ended(&self, mut queries: Vec<String>) -> Vec<String> {
        let running = self.pools.lock();
        queries.retain(|query| !running.contains_key(query));
        queries
    }
}

/// As a query's header and answers carry it.
pub fn to_wire(pools: &[PlacedPool]) -> Vec<proto::PlacedPool> {
    let host = |host: &PoolHost| proto::PoolHost {
        executor_id: host.executor_id.clone(),
        url: host.url.clone(),
        actors: host.actors as u64,
        part: host.part,
        slots: host.slots.clone(),
    };
    let pools = pools.iter().map(|pool| proto::PlacedPool {
        call_id: pool.call_id,
        actor: pool.actor.clone(),
        hosts: pool.hosts.iter().map(host).collect(),
        follows: pool.follows,
    });
    pools.collect()
}

/// What [`to_wire`] made.
pub fn from_wire(pools: Vec<proto::PlacedPool>) -> Vec<PlacedPool> {
    let host = |host: proto::PoolHost| PoolHost {
        executor_id: host.executor_id,
        url: host.url,
        actors: usize::try_from(host.actors).unwrap_or(1).max(1),
        part: host.part,
        slots: host.slots,
    };
    let pools = pools.into_iter().map(|pool| PlacedPool {
        call_id: pool.call_id,
        actor: pool.actor,
        hosts: pool.hosts.into_iter().map(host).collect(),
        follows: pool.follows,
    });
    pools.collect()
}

/// For the session of a task.
pub fn extension(pools: Vec<PlacedPool>) -> Arc<PlacedPools> {
    Arc::new(PlacedPools(pools.into_iter().map(Arc::new).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_placed_is_found_until_the_query_ends() {
        let pools = vec![PlacedPool {
            call_id: 7,
            actor: String::new(),
            hosts: vec![PoolHost {
                executor_id: "e".into(),
                url: "http://e:1/".into(),
                actors: 2,
                part: 3,
                slots: vec![0, 1],
            }],
            follows: true,
        }];
        assert_eq!(from_wire(to_wire(&pools)), pools);
        let directory = Directory::default();
        directory.set("q", pools.clone());
        assert_eq!(directory.find("q"), Some(pools.clone()));
        assert_eq!(directory.ended(vec!["q".into(), "p".into()]), ["p"]);
        // Who asks again says it again.
        let asker = |call_id, number| Asker { call_id, number };
        for (asker, waiting) in [
            (asker(7, 1), 2),
            (asker(7, 2), 3),
            (asker(7, 1), 4),
            (asker(7, 0), 9),
            (asker(8, 3), 5),
        ] {
            assert!(directory.find_for("q", asker, waiting).is_some());
        }
        let waiting = [("q", 7), ("q", 8), ("q", 9), ("p", 7)];
        let waiting = waiting.map(|(query, call)| directory.waiting(query, call));
        assert_eq!(waiting, [7, 5, 0, 0]);
        assert_eq!(directory.find_for("p", asker(7, 1), 1), None);
        directory.fail("q", "no model".into());
        directory.set("q", vec![]);
        assert_eq!(directory.failure("q").as_deref(), Some("no model"));
        directory.set("q", pools.clone());
        assert_eq!(directory.failure("q"), None);
        directory.fail("q", "no model".into());
        directory.remove("q");
        assert_eq!(directory.failure("q"), None);
        assert_eq!(directory.find("q"), None);
        assert_eq!(directory.waiting("q", 7), 0);
    }
}
