//! The jobs of a pool that wait for a worker, and how many workers there are for them.
//!
//! Streams of blocks take turns: else all blocks that one may have open would go before the
//! first of another, and what is slow in that would begin as much later.

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
    /// They were with a worker before, or are too long for a frame: before all others.
    again: VecDeque<Job>,
    /// Those of each stream in their order, and the stream that is next first; none is empty.
    streams: VecDeque<VecDeque<Job>>,
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
                again: VecDeque::new(),
                streams: VecDeque::new(),
                hands: 0,
                ready: 0,
                least,
                most,
                closed: false,
            }),
            changed: Notify::new(),
        }
    }

    /// Adds a job, the last one of its stream; whether there should be one more hand, which counts from
    /// now on.
    pub(super) fn push(&self, job: Job) -> bool {
        let wants = {
            let mut state = self.state.lock();
            state.push(job);
            // Where all have a worker and something waits, all have as much as they take.
            let is_short = state.ready == state.hands && state.waiting() > 1;
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
            jobs.rev().for_each(|job| state.again.push_front(job));
        }
        self.changed.notify_waiters();
    }

    /// The next job, if `takes` it.
    pub(super) fn pop(&self, takes: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let mut state = self.state.lock();
        state.drop_abandoned();
        state.pop(takes)
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
        (state.ready > 0, state.waiting())
    }

    /// Whether nothing waits, and nothing will.
    pub(super) fn is_over(&self) -> bool {
        let mut state = self.state.lock();
        state.drop_abandoned();
        state.closed && state.waiting() == 0
    }

    /// Waits until that is so.
    pub(super) async fn over(&self) {
        self.until(|| self.is_over().then_some(())).await;
    }

    /// Waits for a job; false if there will be none.
    pub(super) async fn has_work(&self) -> bool {
        let found = || {
            let is_over = self.is_over();
            (is_over || self.state.lock().waiting() > 0).then_some(!is_over)
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
        let may = state.hands > state.least && state.waiting() == 0;
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

impl State {
    fn push(&mut self, job: Job) {
        let stream = job.block.stream();
        let is_its = |jobs: &&mut VecDeque<Job>| {
            let first = jobs.front();
            first.is_some_and(|first| first.block.stream() == stream)
        };
        match self.streams.iter_mut().find(is_its) {
            Some(jobs) => jobs.push_back(job),
            None => self.streams.push_back(VecDeque::from([job])),
        }
    }

    /// How many wait.
    fn waiting(&self) -> usize {
        self.again.len() + self.streams.iter().map(VecDeque::len).sum::<usize>()
    }

    fn drop_abandoned(&mut self) {
        let is_wanted = |job: &Job| !job.block.is_abandoned();
        self.again.retain(is_wanted);
        self.streams
            .iter_mut()
            .for_each(|jobs| jobs.retain(is_wanted));
        self.streams.retain(|jobs| !jobs.is_empty());
    }

    fn pop(&mut self, takes: impl FnOnce(&Job) -> bool) -> Option<Job> {
        if !self.again.is_empty() {
            return self.again.pop_front_if(|job| takes(job));
        }
        let job = self.streams.front_mut()?.pop_front_if(|job| takes(job))?;
        // The others come before its next one.
        if let Some(rest) = self.streams.pop_front().filter(|rest| !rest.is_empty()) {
            self.streams.push_back(rest);
        }
        Some(job)
    }
}
