//! Prepared statements of one session: planned once, run as often as asked.
//!
//! A run uses the plan made at Prepare, so a driver that prepares every statement
//! pays for one planning, unless what it was made of has changed since: tables,
//! functions, settings. Then the text is planned anew, as it is for each run but the
//! first where it reads what may change unseen (`session/keep`). Values that were bound
//! stay until others are; those of one session are limited by `parameter_bytes_max`.
//! Handles are random and belong to a session;
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

use super::parameters::{Given, parameter_schema};
use super::statement::{bind, prepare, returns_rows};
use super::stream::encoded_schema;
use crate::status::refuse;
use crate::wire_schema::wire_schema;
use crate::{Bound, Prepared, Session};

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
    /// The plan has been used.
    ran: bool,
    /// The values of the next runs, and the statement with them, as it was then.
    given: Option<(Given, Arc<Bound>)>,
    used: Instant,
}

/// The prepared statements of a session.
pub struct PreparedStatements {
    open: Mutex<HashMap<Bytes, Entry>>,
    max: usize,
    parameter_bytes_max: usize,
}

impl PreparedStatements {
    /// At most `max` at a time, with values of at most `parameter_bytes_max` together.
    pub fn new(max: usize, parameter_bytes_max: usize) -> Self {
        Self {
            open: Mutex::new(HashMap::new()),
            max,
            parameter_bytes_max,
        }
    }

    /// Keeps `prepared` and describes it.
    ///
    /// # Errors
    /// Too many are open.
    pub fn create(&self, prepared: Arc<Prepared>) -> Result<CreatePreparedResult, Status> {
        let rows = returns_rows(prepared.kind);
        let dataset_schema = if rows {
            encoded_schema(&wire_schema(&prepared.schema))?
        } else {
            Bytes::new()
        };
        let parameter_schema = match prepared.parameters.is_empty() {
            true => Bytes::new(),
            false => encoded_schema(&parameter_schema(&prepared))?,
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
            given: None,
            used: Instant::now(),
        };
        open.insert(handle.clone(), entry);
        Ok(CreatePreparedResult {
            prepared_statement_handle: handle,
            dataset_schema,
            parameter_schema,
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

    /// Gives a statement the values of its next runs, instead of those it had.
    ///
    /// # Errors
    /// The handle is unknown, the values are too many for the session, or not what the
    /// statement takes.
    pub async fn give(
        &self,
        session: &Session,
        handle: &Bytes,
        given: Option<Given>,
    ) -> Result<(), Status> {
        let prepared = self.current(session, handle).await?;
        let given = match given {
            Some(given) => {
                // What is wrong with them is told to whoever sent them.
                let bound = bind(session, &prepared, Some(given.block.clone())).await?;
                Some((given, bound))
            }
            None => None,
        };
        let mut open = self.open.lock();
        let others = open.iter().filter(|(other, _)| *other != handle);
        let others = others.filter_map(|(_, entry)| entry.given.as_ref());
        let bytes: usize = others
            .chain(given.as_ref())
            .map(|(given, _)| given.bytes)
            .sum();
        if bytes > self.parameter_bytes_max {
            return Err(refuse(
                Code::ResourceExhausted,
                format!(
                    "the values bound to the statements of this session have {bytes} bytes. Close some, or raise mobula.parameter_bytes_max"
                ),
            ));
        }
        let entry = open.get_mut(handle).ok_or_else(unknown)?;
        entry.given = given;
        Ok(())
    }

    /// What is to run, with `given` or else the values it was given before.
    ///
    /// # Errors
    /// The handle is unknown, the statement can no longer be planned, or its values are
    /// not what it takes.
    pub async fn take(
        &self,
        session: &Session,
        handle: &Bytes,
        given: Option<Given>,
    ) -> Result<Arc<Bound>, Status> {
        let prepared = self.current(session, handle).await?;
        let block = {
            let mut open = self.open.lock();
            let entry = open.get_mut(handle).ok_or_else(unknown)?;
            entry.ran = true;
            match (given, &entry.given) {
                (Some(given), _) => Some(given.block),
                (None, Some((_, bound))) if Arc::ptr_eq(bound.prepared(), &prepared) => {
                    return Ok(Arc::clone(bound));
                }
                (None, Some((given, _))) => Some(given.block.clone()),
                (None, None) => None,
            }
        };
        bind(session, &prepared, block).await
    }

    /// The statement as it would be planned now.
    async fn current(&self, session: &Session, handle: &Bytes) -> Result<Arc<Prepared>, Status> {
        let (prepared, ran) = {
            let mut open = self.open.lock();
            let entry = open.get_mut(handle).ok_or_else(unknown)?;
            entry.used = Instant::now();
            (Arc::clone(&entry.prepared), entry.ran)
        };
        if session.is_current(&prepared) && (prepared.is_lasting() || !ran) {
            return Ok(prepared);
        }
        let anew = prepare(session, &prepared.sql).await?;
        let mut open = self.open.lock();
        let entry = open.get_mut(handle).ok_or_else(unknown)?;
        entry.prepared = Arc::clone(&anew);
        entry.ran = false;
        Ok(anew)
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
