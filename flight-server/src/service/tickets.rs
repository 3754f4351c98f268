//! Planned queries that wait to be read, and running ones that can be cancelled.
//!
//! GetFlightInfo hands out a ticket; the query runs when the ticket is read, and
//! a ticket is read once. Its handle is random, so whoever holds it may read it
//! on any connection. A statement that has no rows gets the constant ticket
//! [`NO_ROWS`], which costs no memory and can be read again and again.
//!
//! Invariants: at most `per_session_max` unread tickets a session, the oldest
//! give way; a ticket is dropped with its session and after its TTL; dropping
//! [`Running`] takes the query off the list.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

use super::sessions::{ClientSession, Lease};
use crate::Bound;
use crate::status::refuse;

/// The handle of a result without columns and rows.
pub const NO_ROWS: &[u8] = b"no-rows";

/// A query to run, and whose it is.
pub struct Waiting {
    pub session: Arc<ClientSession>,
    pub bound: Arc<Bound>,
    since: Instant,
}

enum Ticket {
    Waiting(Waiting),
    Running(CancellationToken),
}

/// All tickets of a server.
pub struct Tickets {
    open: Mutex<HashMap<Bytes, Ticket>>,
    per_session_max: usize,
}

/// A query on the list of running ones, until this is dropped.
pub struct Running {
    tickets: Arc<Tickets>,
    handle: Bytes,
    /// Cancelled by a CancelFlightInfo.
    pub cancelled: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tickets.open.lock().remove(&self.handle);
    }
}

impl Tickets {
    pub fn new(per_session_max: usize) -> Self {
        Self {
            open: Mutex::new(HashMap::new()),
            per_session_max,
        }
    }

    /// A ticket to read `bound` with.
    pub fn issue(&self, session: &Arc<ClientSession>, bound: Arc<Bound>) -> Bytes {
        let handle = Bytes::from(Uuid::new_v4().into_bytes().to_vec());
        let waiting = Waiting {
            session: Arc::clone(session),
            bound,
            since: Instant::now(),
        };
        let oldest = {
            let mut unread = session.unread.lock();
            unread.push_back(handle.clone());
            (unread.len() > self.per_session_max)
                .then(|| unread.pop_front())
                .flatten()
        };
        let mut open = self.open.lock();
        if let Some(oldest) = oldest {
            open.remove(&oldest);
        }
        open.insert(handle.clone(), Ticket::Waiting(waiting));
        handle
    }

    /// Takes the query of a ticket to run it.
    ///
    /// # Errors
    /// The ticket is unknown, has been read, or its session has ended.
    pub fn redeem(
        self: &Arc<Self>,
        handle: &Bytes,
    ) -> Result<(Lease, Arc<Bound>, Running), Status> {
        let mut open = self.open.lock();
        let Some(Ticket::Waiting(waiting)) = open.remove(handle) else {
            drop(open);
            return Err(unknown());
        };
        let cancelled = CancellationToken::new();
        open.insert(handle.clone(), Ticket::Running(cancelled.clone()));
        drop(open);
        waiting
            .session
            .unread
            .lock()
            .retain(|other| other != handle);
        let running = Running {
            tickets: Arc::clone(self),
            handle: handle.clone(),
            cancelled,
        };
        Ok((Lease::new(waiting.session), waiting.bound, running))
    }

    /// Cancels the query of a ticket, unread or running. False if it is unknown.
    pub fn cancel(&self, handle: &Bytes) -> bool {
        let found = self.open.lock().remove(handle);
        match found {
            Some(Ticket::Waiting(waiting)) => {
                waiting
                    .session
                    .unread
                    .lock()
                    .retain(|other| other != handle);
                true
            }
            Some(Ticket::Running(cancelled)) => {
                cancelled.cancel();
                true
            }
            None => false,
        }
    }

    /// Drops the unread tickets of a session that ends.
    pub fn forget(&self, session: &ClientSession) {
        let unread: Vec<Bytes> = session.unread.lock().drain(..).collect();
        let mut open = self.open.lock();
        for handle in unread {
            open.remove(&handle);
        }
    }

    /// Drops tickets that nobody has read for longer than `ttl`.
    pub fn sweep(&self, now: Instant, ttl: Duration) {
        let old: Vec<Bytes> = {
            let open = self.open.lock();
            open.iter()
                .filter(|(_, ticket)| match ticket {
                    Ticket::Waiting(waiting) => now.saturating_duration_since(waiting.since) > ttl,
                    Ticket::Running(_) => false,
                })
                .map(|(handle, _)| handle.clone())
                .collect()
        };
        for handle in &old {
            self.cancel(handle);
        }
    }

    /// How many are waiting or running.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.open.lock().len()
    }
}

fn unknown() -> Status {
    refuse(
        Code::NotFound,
        "the ticket is unknown: it has been read, has expired, or its session has ended. Run the statement again",
    )
}
