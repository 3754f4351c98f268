//! Where calls wait for their turn: those of one pool, or of one named actor.
//!
//! A call gets a permit, the right to one of the pool's workers, or goes ahead: its
//! block is sent to a worker that is still at work on another, which hands it the
//! worker and its permit when it is through. Of one query who came first is served first,
//! whatever it gets, so that the one worker of a pool sees blocks in order; several queries
//! take turns (`turns`).
//!
//! A pool may start with fewer workers than it may have: one more is made ready when a
//! call has waited so long that more will have to, and its permit comes with it.
//!
//! Batch calls wait a moment longer where the next interactive one is likely to come
//! (`linger`).
//!
//! `W` is the worker with its permit.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::linger::Linger;
use crate::sender::Sender;
use crate::spawn::spawn_detached;
use crate::turns::{Turn, Turns};

/// How often, at most, a pool grows by a worker.
const GROW_EVERY: Duration = Duration::from_millis(100);
/// How long a call waits for its turn before the pool grows, if nothing is known of how
/// long blocks take.
const UNKNOWN: Duration = Duration::from_secs(10);

/// The calls of one pool that wait, and what there is for them.
#[derive(Debug)]
pub(crate) struct Line<W: Send + 'static> {
    state: Mutex<State<W>>,
}

#[derive(Debug)]
struct State<W: Send + 'static> {
    permits: usize,
    /// Permits that there may be besides.
    growth: usize,
    /// Permits that have come besides.
    grown: usize,
    /// Whether one of them is being made ready.
    is_growing: bool,
    grown_at: Option<Instant>,
    /// Workers whose next block may be sent, the longest at work first.
    openings: VecDeque<Opening<W>>,
    opened: u64,
    waiting: Turns<oneshot::Sender<Ticket<W>>>,
    linger: Linger,
    /// Whether somebody will look again when batch calls have waited for interactive ones.
    looks_again: bool,
}

/// What a call gets.
#[derive(Debug)]
pub(crate) enum Ticket<W: Send + 'static> {
    Permit(Permit<W>),
    Ahead(Opening<W>),
}

/// The right to one worker; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit<W: Send + 'static> {
    line: Arc<Line<W>>,
    /// Whose time it is, from then on.
    turn: Option<Turn>,
    since: Instant,
}

/// The place behind the block that a worker is at work on.
#[derive(Debug)]
pub(crate) struct Opening<W: Send + 'static> {
    id: u64,
    pub(crate) sender: Arc<tokio::sync::Mutex<Sender>>,
    /// The worker, when it is through; closed if it is lost instead.
    pub(crate) worker: oneshot::Receiver<W>,
}

/// The same place, as the call sees it that is at work. Dropped, nobody may take it
/// any more, and who has taken it is told that the worker is lost.
#[derive(Debug)]
pub(crate) struct Offer<W: Send + 'static> {
    line: Arc<Line<W>>,
    id: u64,
    worker: Option<oneshot::Sender<W>>,
}

impl<W: Send + 'static> Line<W> {
    /// With `permits`, at least 1, and up to `growth` more; where some are more urgent,
    /// others get at least every `every`-th turn, and wait up to `linger` for who may come
    /// back.
    pub(crate) fn new(permits: usize, growth: usize, every: u32, linger: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                permits,
                growth,
                grown: 0,
                is_growing: false,
                grown_at: None,
                openings: VecDeque::new(),
                opened: 0,
                waiting: Turns::new(every),
                linger: Linger::new(linger),
                looks_again: false,
            }),
        })
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        let waiting = &mut self.state.lock().waiting;
        waiting.retain(|who| !who.is_closed());
        waiting.len()
    }

    /// About how many are served before one that comes now.
    pub(crate) fn ahead(&self, turn: &Turn) -> usize {
        self.state.lock().waiting.ahead(turn)
    }

    /// How much longer one that comes now with that `turn` is to wait for who may come back.
    pub(crate) fn lingers(&self, turn: &Turn) -> Duration {
        let now = Instant::now();
        let until = match turn.is_batch() {
            true => self.state.lock().linger.until(now),
            false => None,
        };
        until.map_or(Duration::ZERO, |until| until - now)
    }

    /// Waits in line for a `turn`; before all others if `again`, for it has been through
    /// once.
    pub(crate) async fn wait(self: &Arc<Self>, turn: &Turn, again: bool) -> Ticket<W> {
        loop {
            let (who, mine) = oneshot::channel();
            {
                let waiting = &mut self.state.lock().waiting;
                match again {
                    true => waiting.push_first(who),
                    false => waiting.push(turn, who),
                }
            }
            self.serve();
            // The line is there, so the turn comes.
            if let Ok(ticket) = mine.await {
                return ticket;
            }
        }
    }

    /// As [`Self::wait`]; meanwhile `grow` is called if one more worker is worth it, and
    /// says by [`Self::grown`] when there is one. `block`: what a block takes lately.
    pub(crate) async fn wait_or_grow(
        self: &Arc<Self>,
        turn: &Turn,
        again: bool,
        block: impl Fn() -> Option<Duration>,
        grow: impl Fn(),
    ) -> Ticket<W> {
        let since = Instant::now();
        let mut ticket = pin!(self.wait(turn, again));
        loop {
            let may_grow = self.state.lock().growth > 0;
            tokio::select! {
                biased;
                ticket = &mut ticket => return ticket,
                () = sleep(GROW_EVERY), if may_grow => {
                    if self.begins_to_grow(since.elapsed(), block()) {
                        grow();
                    }
                }
            }
        }
    }

    fn begins_to_grow(&self, waited: Duration, block: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        let last = state.grown_at.map(|at| at.elapsed());
        let grows = state.growth > 0 && !state.is_growing && is_worth_a_worker(waited, last, block);
        if grows {
            state.growth -= 1;
            state.is_growing = true;
        }
        grows
    }

    /// One more worker is ready, or could not be made.
    pub(crate) fn grown(self: &Arc<Self>, is_ready: bool) {
        {
            let mut state = self.state.lock();
            state.is_growing = false;
            state.grown_at = Some(Instant::now());
            state.permits += usize::from(is_ready);
            state.grown += usize::from(is_ready);
        }
        self.serve();
    }

    /// Whether there are more than at first.
    pub(crate) fn has_grown(&self) -> bool {
        self.state.lock().grown > 0
    }

    /// Takes back a permit of those that came besides, if nobody wants it now. One more may
    /// come again.
    pub(crate) fn shrink(&self) -> bool {
        let mut state = self.state.lock();
        let is_free = state.permits > 0 && state.grown > 0;
        if is_free {
            state.permits -= 1;
            state.grown -= 1;
            state.growth += 1;
            // A worker less: whether another one is worth it is to be seen anew.
            state.grown_at = Some(Instant::now());
        }
        is_free
    }

    /// Offers the place behind a block that a worker is at work on.
    pub(crate) fn offer(self: &Arc<Self>, sender: &Arc<tokio::sync::Mutex<Sender>>) -> Offer<W> {
        let (hand_over, worker) = oneshot::channel();
        let id = {
            let mut state = self.state.lock();
            state.opened += 1;
            let opening = Opening {
                id: state.opened,
                sender: Arc::clone(sender),
                worker,
            };
            state.openings.push_back(opening);
            state.opened
        };
        self.serve();
        Offer {
            line: Arc::clone(self),
            id,
            worker: Some(hand_over),
        }
    }

    /// Gives what there is to those who wait.
    fn serve(self: &Arc<Self>) {
        loop {
            let (who, ticket) = {
                let mut state = self.state.lock();
                state.waiting.retain(|who| !who.is_closed());
                if state.permits == 0 && state.openings.is_empty() {
                    return;
                }
                if let Some(until) = state.lingers()
                    && self.looks_again(&mut state, until)
                {
                    return;
                }
                let Some((who, turn)) = state.waiting.pop() else {
                    return;
                };
                match &turn {
                    Some(turn) if turn.is_question() => state.linger.asked(),
                    _ => state.linger.stop(),
                }
                (who, state.ticket(self, turn))
            };
            let unwanted = match ticket {
                Some(ticket) => who.send(ticket).err(),
                None => return,
            };
            // Who waited has just gone. A permit gives itself back.
            if let Some(Ticket::Ahead(opening)) = unwanted {
                self.state.lock().openings.push_front(opening);
            }
        }
    }

    /// Serves those who wait once they have waited `until` then; `false` if nobody is there to
    /// do it, as while a process ends.
    fn looks_again(self: &Arc<Self>, state: &mut State<W>, until: Instant) -> bool {
        if Handle::try_current().is_err() {
            return false;
        }
        if std::mem::replace(&mut state.looks_again, true) {
            return true;
        }
        let line = Arc::downgrade(self);
        spawn_detached("udf-linger", async move {
            sleep(until.saturating_duration_since(Instant::now())).await;
            if let Some(line) = line.upgrade() {
                line.state.lock().looks_again = false;
                line.serve();
            }
        });
        true
    }
}

impl<W: Send + 'static> State<W> {
    /// Until when who is next is to wait for who may come back.
    fn lingers(&mut self) -> Option<Instant> {
        match self.waiting.next_may_wait() {
            true => self.linger.until(Instant::now()),
            false => None,
        }
    }

    /// What there is, for who has this `turn`.
    fn ticket(&mut self, line: &Arc<Line<W>>, turn: Option<Turn>) -> Option<Ticket<W>> {
        if let Some(left) = self.permits.checked_sub(1) {
            self.permits = left;
            return Some(Ticket::Permit(Permit {
                line: Arc::clone(line),
                turn,
                since: Instant::now(),
            }));
        }
        // Its time is counted with that of the block it goes behind, which is of its query.
        if let Some(turn) = turn {
            self.waiting.ended(&turn, Duration::ZERO);
        }
        self.openings.pop_front().map(Ticket::Ahead)
    }
}

impl<W: Send + 'static> Drop for Permit<W> {
    fn drop(&mut self) {
        {
            let mut state = self.line.state.lock();
            state.permits += 1;
            if let Some(turn) = &self.turn {
                let took = self.since.elapsed();
                state.waiting.ended(turn, took);
                match turn.is_batch() {
                    true => state.linger.batch_ended(took),
                    false if turn.is_question() => state.linger.answered(Instant::now()),
                    false => {}
                }
            }
        }
        self.line.serve();
    }
}

impl<W: Send + 'static> Offer<W> {
    /// Gives the worker to who has taken the place; `Err` where nobody has. If who
    /// has is gone, so is the worker: it may be at work on what nobody wants.
    pub(crate) fn hand_over(mut self, worker: W) -> Result<(), W> {
        match self.withdraw() {
            true => Err(worker),
            false => {
                if let Some(next) = self.worker.take() {
                    drop(next.send(worker));
                }
                Ok(())
            }
        }
    }

    /// Whether the place was still to be had.
    fn withdraw(&self) -> bool {
        let mut state = self.line.state.lock();
        let at = state.openings.iter().position(|o| o.id == self.id);
        at.and_then(|at| state.openings.remove(at)).is_some()
    }
}

impl<W: Send + 'static> Drop for Offer<W> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// Whether a pool should have one more worker: for a call that has `waited` for its
/// turn, the `last` one having been added so long ago, when a block takes so long.
fn is_worth_a_worker(waited: Duration, last: Option<Duration>, block: Option<Duration>) -> bool {
    // Before the first answer nobody knows: workers take their time to start.
    let Some(block) = block else {
        return waited >= UNKNOWN;
    };
    let long = block.max(GROW_EVERY);
    // What the last one makes of it is to be seen first.
    waited >= long && last.is_none_or(|last| last >= long)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use tokio::net::UnixStream;

    use super::*;
    use crate::call::Priority;

    type Calls = Arc<Line<u32>>;

    fn way_out() -> Arc<tokio::sync::Mutex<Sender>> {
        let (socket, _) = UnixStream::pair().unwrap();
        let sender = Sender::new(socket.into_split().1, 100);
        Arc::new(tokio::sync::Mutex::new(sender))
    }

    /// A call in line.
    fn stand(line: &Calls, again: bool) -> BoxFuture<'static, Ticket<u32>> {
        let line = Arc::clone(line);
        let mut call = async move { line.wait(&Turn::of_keeper(), again).await }.boxed();
        assert!((&mut call).now_or_never().is_none());
        call
    }

    async fn permit(line: &Calls) -> Permit<u32> {
        match line.wait(&Turn::of_keeper(), false).await {
            Ticket::Permit(permit) => permit,
            Ticket::Ahead(_) => panic!("no permit"),
        }
    }

    #[test]
    fn a_pool_grows_while_calls_wait_longer_than_a_block_takes() {
        let ms = Duration::from_millis;
        for (waited, last, block, grows) in [
            (99, None, Some(1), false),
            (100, None, Some(1), true),
            (100, Some(99), Some(1), false),
            (150, Some(100), Some(1), true),
            (2_000, None, Some(3_000), false),
            (3_000, Some(2_000), Some(3_000), false),
            (4_000, Some(3_000), Some(3_000), true),
            (5_000, None, None, false),
            (10_000, None, None, true),
        ] {
            let found = is_worth_a_worker(ms(waited), last.map(ms), block.map(ms));
            assert_eq!(found, grows, "{waited} {last:?} {block:?}");
        }
    }

    #[tokio::test]
    async fn only_what_came_besides_and_is_free_is_taken_back() {
        let line = Line::new(1, 1, 8, Duration::ZERO);
        assert!(!line.has_grown() && !line.shrink());
        let first = permit(&line).await;
        let waits = stand(&line, false);
        assert_eq!(line.len(), 1);
        let long = Duration::from_secs(1);
        assert!(line.begins_to_grow(long, Some(GROW_EVERY)));
        assert!(!line.begins_to_grow(long, Some(GROW_EVERY)));
        line.grown(true);
        // It is had by who waited.
        assert!(line.has_grown() && !line.shrink());
        drop(waits);
        assert!(line.shrink() && !line.shrink());
        assert!(!line.has_grown());
        let waits = stand(&line, false);
        drop(first);
        drop(waits);
        assert_eq!(line.len(), 0);
        let state = line.state.lock();
        assert_eq!((state.permits, state.growth), (1, 1));
    }

    #[tokio::test]
    async fn batch_calls_wait_a_moment_for_who_may_come_back() {
        let line = Line::<u32>::new(1, 0, 3, Duration::from_secs(60));
        let of = |query, is_interactive| {
            let is_said = false;
            let priority = Priority {
                is_said,
                is_interactive,
            };
            Turn::new(query, priority, true)
        };
        let (question, batch) = (of("q", true), of("b", false));
        let call = |turn: &Turn| {
            let (line, turn) = (Arc::clone(&line), turn.clone());
            async move { line.wait(&turn, false).await }.boxed()
        };
        // Nothing is known yet of what batch calls take.
        drop(call(&question).await);
        let first = call(&batch).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(first);
        drop(call(&question).await);
        let mut waits = call(&batch);
        assert!((&mut waits).now_or_never().is_none());
        assert!(line.lingers(&batch) > Duration::ZERO);
        assert_eq!(line.lingers(&question), Duration::ZERO);
        // Who comes back is served at once.
        drop((&mut call(&question)).now_or_never().unwrap());
        assert!((&mut waits).now_or_never().is_none());
        // Nobody does.
        let began = Instant::now();
        drop(waits.await);
        assert!(began.elapsed() > Duration::from_millis(5));
        // So it does not wait after the next answer. A turn is due to it after so many.
        drop(call(&question).await);
        drop((&mut call(&batch)).now_or_never().unwrap());
        drop(call(&question).await);
        let mut waits = call(&batch);
        assert!((&mut waits).now_or_never().is_none());
        drop(call(&question).await);
        drop(call(&question).await);
        drop((&mut waits).now_or_never().unwrap());
    }

    #[tokio::test]
    async fn calls_are_served_in_the_order_they_came() {
        let line = Line::new(1, 0, 8, Duration::ZERO);
        let first = permit(&line).await;
        let (mut second, mut third) = (stand(&line, false), stand(&line, false));
        let offer = line.offer(&way_out());
        let Some(Ticket::Ahead(opening)) = (&mut second).now_or_never() else {
            panic!("it was first");
        };
        assert!((&mut third).now_or_never().is_none());
        // Through once, before those who wait.
        let mut again = stand(&line, true);
        drop(first);
        assert!(matches!(
            (&mut again).now_or_never(),
            Some(Ticket::Permit(_))
        ));
        assert!(matches!(
            (&mut third).now_or_never(),
            Some(Ticket::Permit(_))
        ));
        assert_eq!(offer.hand_over(7), Ok(()));
        assert_eq!(opening.worker.await, Ok(7));
    }

    #[tokio::test]
    async fn a_worker_that_nobody_follows_comes_back() {
        let line = Line::new(1, 0, 8, Duration::ZERO);
        let first = permit(&line).await;
        assert_eq!(line.offer(&way_out()).hand_over(7), Err(7));
        // Who gave up waiting takes nothing.
        drop(stand(&line, false));
        let offer = line.offer(&way_out());
        assert_eq!(offer.hand_over(7), Err(7));
        drop(line.offer(&way_out()));
        let mut waits = stand(&line, false);
        drop(first);
        assert!(matches!(
            (&mut waits).now_or_never(),
            Some(Ticket::Permit(_))
        ));
    }

    #[tokio::test]
    async fn who_follows_a_lost_worker_is_told() {
        let line = Line::new(0, 0, 8, Duration::ZERO);
        let mut second = stand(&line, false);
        let offer = line.offer(&way_out());
        let Some(Ticket::Ahead(opening)) = (&mut second).now_or_never() else {
            panic!("it was first");
        };
        drop(offer);
        assert!(opening.worker.await.is_err());
        // And who was to follow and is gone takes the worker along.
        let mut third = stand(&line, false);
        let offer = line.offer(&way_out());
        drop((&mut third).now_or_never());
        assert_eq!(offer.hand_over(7), Ok(()));
    }
}
