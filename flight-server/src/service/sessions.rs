//! Who is calling: a bearer token's session, else the connection's own.
//!
//! A shared default session would let one client's settings reach another, so
//! every call resolves to exactly one [`ClientSession`]: the one its token was
//! made for, or the one of its HTTP/2 connection, made on the first call that
//! needs it. A token's session ends when it has been idle for `session_ttl`, or
//! by CloseSession; a connection's with the connection as well. A [`Lease`]
//! keeps a session in use while a call or a stream works for it.
//!
//! Invariants: a connection that has closed gets no session any more; at most `max_sessions` at a time; an unknown token is an error,
//! never a new session; ending a session drops its prepared statements and its
//! unread tickets.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tonic::{Code, Extensions, Status, metadata::MetadataMap};
use uuid::Uuid;

use super::connection::ConnectionId;
use super::prepared::PreparedStatements;
use super::tickets::Tickets;
use crate::status::{malformed, refuse, status};
use crate::{Database, Session};

/// What a call is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    Token(String),
    Connection(ConnectionId),
}

impl Identity {
    /// Reads it from a call's headers, else from its connection.
    pub fn of(metadata: &MetadataMap, extensions: &Extensions) -> Result<Self, Status> {
        if let Some(header) = metadata.get("authorization") {
            let header = header
                .to_str()
                .map_err(|_| malformed("the authorization header is no text"))?;
            if let Some((scheme, token)) = header.split_once(' ')
                && scheme.eq_ignore_ascii_case("bearer")
                && !token.trim().is_empty()
            {
                return Ok(Self::Token(token.trim().to_owned()));
            }
        }
        extensions
            .get::<ConnectionId>()
            .map(|id| Self::Connection(*id))
            .ok_or_else(|| crate::status::internal("the call has no connection"))
    }
}

/// One client's session and what it has open.
pub struct ClientSession {
    pub identity: Identity,
    pub session: Arc<Session>,
    pub prepared: PreparedStatements,
    /// Handles of tickets not yet read, oldest first.
    pub unread: Mutex<VecDeque<Bytes>>,
    used: Mutex<Instant>,
    leases: AtomicUsize,
}

impl ClientSession {
    fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.leases.load(Ordering::Acquire) > 0 {
            return None;
        }
        let idle = now.saturating_duration_since(*self.used.lock());
        // Others read for it.
        let splits = self.session.splits_idle_for(now);
        Some(splits.map_or(idle, |splits| splits.min(idle)))
    }
}

/// A session in use. Dropping it starts the idle time anew.
pub struct Lease(Arc<ClientSession>);

impl Lease {
    pub fn new(session: Arc<ClientSession>) -> Self {
        session.leases.fetch_add(1, Ordering::AcqRel);
        Self(session)
    }

    pub fn session(&self) -> &Arc<ClientSession> {
        &self.0
    }
}

impl Deref for Lease {
    type Target = ClientSession;

    fn deref(&self) -> &ClientSession {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.used.lock() = Instant::now();
        self.0.leases.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct Open {
    sessions: HashMap<Identity, Arc<ClientSession>>,
    /// Connections that have not closed.
    connections: HashSet<ConnectionId>,
}

/// All open sessions.
pub struct Sessions {
    db: Arc<Database>,
    tickets: Arc<Tickets>,
    open: Mutex<Open>,
    max_sessions: usize,
    /// Prepared statements of a session, and bytes of values bound to them.
    prepared_max: (usize, usize),
    ttl: Duration,
    draining: AtomicBool,
}

impl Sessions {
    /// `prepared_max`: statements of a session, and bytes of values bound to them. `ttl` is
    /// how long a session may be idle.
    pub fn new(
        db: Arc<Database>,
        tickets: Arc<Tickets>,
        max_sessions: usize,
        prepared_max: (usize, usize),
        ttl: Duration,
    ) -> Self {
        Self {
            db,
            tickets,
            open: Mutex::new(Open::default()),
            max_sessions,
            prepared_max,
            ttl,
            draining: AtomicBool::new(false),
        }
    }

    /// The session of a call; a connection's is made when it has none.
    ///
    /// # Errors
    /// An unknown token, too many sessions, or a server that is stopping.
    pub fn of(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<Lease, Status> {
        let identity = Identity::of(metadata, extensions)?;
        match self.existing(&identity)? {
            Some(lease) => Ok(lease),
            None => self.open(identity),
        }
    }

    /// The session of a call if it is open; an unknown token is an error.
    pub fn existing(&self, identity: &Identity) -> Result<Option<Lease>, Status> {
        let found = self.open.lock().sessions.get(identity).map(Arc::clone);
        match (found, identity) {
            (Some(session), _) => Ok(Some(Lease::new(session))),
            (None, Identity::Connection(_)) => Ok(None),
            (None, Identity::Token(_)) => Err(refuse(
                Code::Unauthenticated,
                "the token is unknown or its session has ended. Log in again",
            )),
        }
    }

    /// Makes a session with a token of its own.
    pub fn open_token(&self) -> Result<(String, Lease), Status> {
        let token = Uuid::new_v4().simple().to_string();
        let lease = self.open(Identity::Token(token.clone()))?;
        Ok((token, lease))
    }

    /// Ends a session. False if there was none.
    pub fn close(&self, identity: &Identity) -> bool {
        let closed = self.open.lock().sessions.remove(identity);
        match closed {
            Some(session) => {
                self.tickets.forget(&session);
                session.prepared.clear();
                true
            }
            None => false,
        }
    }

    /// A connection has been accepted.
    pub fn begin_connection(&self, id: ConnectionId) {
        self.open.lock().connections.insert(id);
    }

    /// Ends what is bound to a connection that has closed.
    pub fn end_connection(&self, id: ConnectionId) {
        self.open.lock().connections.remove(&id);
        self.close(&Identity::Connection(id));
    }

    /// From now on opens no session.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends sessions that are idle too long at `now`, and forgets what open ones
    /// have not used for as long.
    pub fn sweep(&self, now: Instant) {
        let idle: Vec<Identity> = {
            let open = self.open.lock();
            open.sessions
                .values()
                .filter(|session| session.idle_for(now).is_some_and(|idle| idle > self.ttl))
                .map(|session| session.identity.clone())
                .collect()
        };
        for identity in &idle {
            self.close(identity);
        }
        let open: Vec<_> = self.open.lock().sessions.values().map(Arc::clone).collect();
        for session in open {
            session.prepared.sweep(now, self.ttl);
        }
        self.tickets.sweep(now, self.ttl);
    }

    /// How many are open.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.open.lock().sessions.len()
    }

    fn open(&self, identity: Identity) -> Result<Lease, Status> {
        if self.draining.load(Ordering::Acquire) {
            return Err(refuse(Code::Unavailable, "the server is stopping"));
        }
        if self.open.lock().sessions.len() >= self.max_sessions {
            return Err(self.too_many());
        }
        // Made outside the lock: it registers every function of the catalog.
        let session = self.db.new_session().map_err(|error| status(&error))?;
        let made = Arc::new(ClientSession {
            identity: identity.clone(),
            session,
            prepared: PreparedStatements::new(self.prepared_max.0, self.prepared_max.1),
            unread: Mutex::new(VecDeque::new()),
            used: Mutex::new(Instant::now()),
            leases: AtomicUsize::new(0),
        });
        let mut open = self.open.lock();
        // Two first calls of one connection: the earlier one's session holds.
        if let Some(other) = open.sessions.get(&identity) {
            return Ok(Lease::new(Arc::clone(other)));
        }
        if open.sessions.len() >= self.max_sessions {
            return Err(self.too_many());
        }
        if let Identity::Connection(id) = &identity
            && !open.connections.contains(id)
        {
            return Err(refuse(Code::Cancelled, "the connection has closed"));
        }
        open.sessions.insert(identity, Arc::clone(&made));
        Ok(Lease::new(made))
    }

    fn too_many(&self) -> Status {
        refuse(
            Code::ResourceExhausted,
            format!(
                "all {} sessions are in use. Close one, or raise mobula.max_sessions",
                self.max_sessions
            ),
        )
    }
}
