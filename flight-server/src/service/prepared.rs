//! Prepared statements of one session: planned once, run as often as asked.
//!
//! The first run uses the plan made at Prepare, so a driver that prepares every
//! statement pays for one planning. Later runs plan anew from the text, because
//! tables may have changed since. Handles are random and belong to a session;
//! drivers that leak them are stopped by `prepared_max`, after handles idle for
//! the session's TTL have been dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tonic::{Code, Status};
use uuid::Uuid;

use super::statement::{prepare, returns_rows};
use super::stream::encoded_schema;
use crate::status::refuse;
use crate::wire_schema::wire_schema;
use crate::{Prepared, Session};

/// The answer to CreatePreparedStatement, with the field that arrow-flight's
/// message lacks: without it drivers take every statement whose schema is not
/// empty for a query.
#[derive(Clone, PartialEq, Message)]
pub struct CreatePreparedResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub prepared_statement_handle: Bytes,
    /// Empty for statements without rows.
    #[prost(bytes = "bytes", tag = "2")]
    pub dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    pub is_update: Option<bool>,
}

struct Entry {
    prepared: Arc<Prepared>,
    /// The plan of Prepare has been used.
    ran: bool,
    used: Instant,
}

/// The prepared statements of a session.
pub struct PreparedStatements {
    open: Mutex<HashMap<Bytes, Entry>>,
    max: usize,
}

impl PreparedStatements {
    /// At most `max` at a time.
    pub fn new(max: usize) -> Self {
        Self {
            open: Mutex::new(HashMap::new()),
            max,
        }
    }

    /// Keeps `prepared` and describes it.
    ///
    /// # Errors
    /// Too many are open.
    pub fn create(&self, prepared: Arc<Prepared>) -> Result<CreatePreparedResult, Status> {
        let rows = returns_rows(&prepared);
        let dataset_schema = if rows {
            encoded_schema(&wire_schema(&prepared.schema))?
        } else {
            Bytes::new()
        };
        let handle = Bytes::from(Uuid::new_v4().into_bytes().to_vec());
        let mut open = self.open.lock();
        if open.len() >= self.max {
            return Err(refuse(
                Code::ResourceExhausted,
                format!(
                    "this session has {} prepared statements open. Close some, or raise mobula.prepared_max",
                    self.max
                ),
            ));
        }
        let entry = Entry {
            prepared,
            ran: false,
            used: Instant::now(),
        };
        open.insert(handle.clone(), entry);
        Ok(CreatePreparedResult {
            prepared_statement_handle: handle,
            dataset_schema,
            parameter_schema: Bytes::new(),
            is_update: Some(!rows),
        })
    }

    /// What was planned at Prepare, to describe it.
    ///
    /// # Errors
    /// The handle is unknown.
    pub fn look(&self, handle: &Bytes) -> Result<Arc<Prepared>, Status> {
        let mut open = self.open.lock();
        let entry = open.get_mut(handle).ok_or_else(unknown)?;
        entry.used = Instant::now();
        Ok(Arc::clone(&entry.prepared))
    }

    /// The plan for one run.
    ///
    /// # Errors
    /// The handle is unknown, or the statement can no longer be planned.
    pub async fn take(&self, session: &Session, handle: &Bytes) -> Result<Arc<Prepared>, Status> {
        let (prepared, ran) = {
            let mut open = self.open.lock();
            let entry = open.get_mut(handle).ok_or_else(unknown)?;
            entry.used = Instant::now();
            (
                Arc::clone(&entry.prepared),
                std::mem::replace(&mut entry.ran, true),
            )
        };
        if ran {
            prepare(session, &prepared.sql).await
        } else {
            Ok(prepared)
        }
    }

    /// Forgets a statement. An unknown handle is no error: closing twice, or
    /// after the server has forgotten it, leaves nothing to do.
    pub fn close(&self, handle: &Bytes) {
        self.open.lock().remove(handle);
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.open.lock().clear();
    }

    /// Forgets those not used for longer than `ttl`.
    pub fn sweep(&self, now: Instant, ttl: Duration) {
        self.open
            .lock()
            .retain(|_, entry| now.saturating_duration_since(entry.used) <= ttl);
    }
}

fn unknown() -> Status {
    refuse(
        Code::NotFound,
        "the prepared statement is unknown: it was closed, has expired, or belongs to another session. Prepare it again",
    )
}
