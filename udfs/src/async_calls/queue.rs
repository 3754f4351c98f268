//! The jobs of a pool that wait for a worker, and how many workers there are for them.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::block::Job;
use crate::error::UdfError;

/// What waits, shared by a pool and its hands.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// A job came or went, or its reader did.
    pub(super) changed: Notify,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Job>,
    hands: usize,
    /// Of those, the ones with a worker.
    ready: usize,
    /// Hands to start with, and most.
    least: usize,
    most: usize,
    closed: bool,
}

impl Queue {
    /// For `least` hands at first and up to `most`.
    pub(super) fn new(least: usize, most: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                hands: 0,
                ready: 0,
                least,
                most,
                closed: false,
            }),
            changed: Notify::new(),
        }
    }

    /// Adds a job at the end; whether there should be one more hand, which counts from
    /// now on.
    pub(super) fn push(&self, job: Job) -> bool {
        let wants = {
            let mut state = self.state.lock();
            state.waiting.push_back(job);
            // Where all have a worker and something waits, all have as much as they take.
            let is_short = state.ready == state.hands && state.waiting.len() > 1;
            let wants = state.hands < state.least || (is_short && state.hands < state.most);
            state.hands += usize::from(wants);
            wants
        };
        self.changed.notify_waiters();
        wants
    }

    /// Puts jobs before all others.
    pub(super) fn push_front(&self, jobs: impl DoubleEndedIterator<Item = Job>) {
        {
            let mut state = self.state.lock();
            jobs.rev().for_each(|job| state.waiting.push_front(job));
        }
        self.changed.notify_waiters();
    }

    /// The next job, if `takes` it.
    pub(super) fn pop(&self, takes: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let mut state = self.state.lock();
        state.waiting.retain(|job| !job.block.is_abandoned());
        state.waiting.pop_front_if(|job| takes(job))
    }

    /// Whether there is one hand and will be no other.
    pub(super) fn is_alone(&self) -> bool {
        self.state.lock().most == 1
    }

    /// Nothing new will come.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// Whether nothing new comes.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Whether a hand has a worker, and how many jobs wait.
    pub(super) fn load(&self) -> (bool, usize) {
        let state = self.state.lock();
        (state.ready > 0, state.waiting.len())
    }

    /// Whether nothing waits, and nothing will.
    pub(super) fn is_over(&self) -> bool {
        let mut state = self.state.lock();
        state.waiting.retain(|job| !job.block.is_abandoned());
        state.closed && state.waiting.is_empty()
    }

    /// Waits until that is so.
    pub(super) async fn over(&self) {
        self.until(|| self.is_over().then_some(())).await;
    }

    /// Waits for a job; false if there will be none.
    pub(super) async fn has_work(&self) -> bool {
        let found = || {
            let is_over = self.is_over();
            (is_over || !self.state.lock().waiting.is_empty()).then_some(!is_over)
        };
        self.until(found).await
    }

    async fn until<T>(&self, found: impl Fn() -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(found) = found() {
                return found;
            }
            changed.await;
        }
    }

    /// A hand has a worker, or no more.
    pub(super) fn ready(&self, is_ready: bool) {
        let mut state = self.state.lock();
        match is_ready {
            true => state.ready += 1,
            false => state.ready -= 1,
        }
    }

    /// Whether a hand whose worker has nothing to do may go, and with it the worker: there are
    /// enough without it. It does not count from then on.
    pub(super) fn leave(&self) -> bool {
        let mut state = self.state.lock();
        let may = state.hands > state.least && state.waiting.is_empty();
        state.hands -= usize::from(may);
        state.ready -= usize::from(may);
        may
    }

    /// A hand is gone.
    pub(super) fn gone(&self) {
        self.state.lock().hands -= 1;
    }

    /// A hand can have no worker. Others go on without it, if there are; else the error
    /// comes back, for a job.
    pub(super) fn cannot_grow(&self, error: UdfError) -> Option<UdfError> {
        let mut state = self.state.lock();
        if state.ready == 0 {
            return Some(error);
        }
        state.most = state.ready;
        state.least = state.least.min(state.ready);
        tracing::warn!(%error, "the workers there are go on without one more");
        None
    }
}
