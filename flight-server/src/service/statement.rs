//! One statement: planned once, described, then run or applied.
//!
//! GetFlightInfo of a query plans it and hands out a ticket; the query runs when
//! the ticket is read. A statement without rows (DDL, DML, SET, COPY) is applied
//! at GetFlightInfo, exactly once, since stock drivers send everything this way
//! and may never read the result; its ticket yields nothing and applies nothing.
//! GetSchema and Prepare never run anything.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use bytes::Bytes;
use prost::Message;
use tonic::Status;

use super::flight::{FlightFront, FlightStream};
use super::sessions::Lease;
use super::stream::{ResultStream, encoded_schema, no_rows};
use super::tickets::NO_ROWS;
use crate::status::{malformed, status};
use crate::wire_schema::wire_schema;
use crate::{Bound, Prepared, Session, StatementKind};

/// Parses and plans one statement.
///
/// # Errors
/// The statement is wrong, or too long.
pub async fn prepare(session: &Session, sql: &str) -> Result<Arc<Prepared>, Status> {
    session.prepare(sql).await.map_err(|error| status(&error))
}

/// `prepared` with the rows of its values.
///
/// # Errors
/// They are not what its parameters take.
pub async fn bind(
    session: &Session,
    prepared: &Arc<Prepared>,
    given: Option<RecordBatch>,
) -> Result<Arc<Bound>, Status> {
    let bound = session.bind(prepared, given).await;
    bound.map_err(|error| status(&error))
}

/// True for queries: only they have a stream of rows.
pub fn returns_rows(kind: StatementKind) -> bool {
    matches!(kind, StatementKind::Query)
}

/// What clients are told of the rows of a statement, whose own have `schema`.
pub fn announced_schema(kind: StatementKind, schema: &Schema) -> SchemaRef {
    if returns_rows(kind) {
        wire_schema(schema)
    } else {
        Arc::new(Schema::empty())
    }
}

/// A result that is read with `ticket`. `records` is -1 where unknown.
pub fn flight_info(
    descriptor: FlightDescriptor,
    schema: &Schema,
    ticket: impl Into<Bytes>,
    records: i64,
) -> Result<FlightInfo, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    Ok(FlightInfo {
        schema: encoded_schema(schema)?,
        ..FlightInfo::new()
            .with_descriptor(descriptor)
            .with_endpoint(endpoint)
            .with_total_records(records)
            .with_total_bytes(-1)
    })
}

/// A count as Flight SQL writes it: -1 for "no such number".
pub fn record_count(rows: Option<u64>) -> i64 {
    rows.map_or(-1, |rows| i64::try_from(rows).unwrap_or(i64::MAX))
}

impl FlightFront {
    /// Plans `sql`, which is not prepared and so has no parameters, for a session.
    pub(super) async fn plan(&self, lease: &Lease, sql: &str) -> Result<Arc<Bound>, Status> {
        let prepared = prepare(&lease.session, sql).await?;
        bind(&lease.session, &prepared, None).await
    }

    /// Answers GetFlightInfo for a planned statement.
    pub(super) async fn start(
        &self,
        lease: Lease,
        bound: Arc<Bound>,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo, Status> {
        let schema = announced_schema(bound.kind(), &bound.schema);
        let (handle, records) = if returns_rows(bound.kind()) {
            (self.tickets.issue(lease.session(), bound), -1)
        } else {
            let rows = self.updates.apply(lease, bound).await?;
            (Bytes::from_static(NO_ROWS), record_count(rows))
        };
        let ticket = TicketStatementQuery {
            statement_handle: handle,
        };
        flight_info(
            descriptor,
            &schema,
            ticket.as_any().encode_to_vec(),
            records,
        )
    }

    /// Answers DoGet for a statement's ticket.
    pub(super) fn read(&self, ticket: &TicketStatementQuery) -> Result<FlightStream, Status> {
        if ticket.statement_handle == NO_ROWS {
            return Ok(no_rows());
        }
        let (lease, bound, running) = self.tickets.redeem(&ticket.statement_handle)?;
        let schema = announced_schema(bound.kind(), &bound.schema);
        let bytes = self.settings.wire_batch_bytes;
        Ok(Box::pin(ResultStream::run(
            lease, bound, running, schema, bytes,
        )))
    }

    /// Answers DoPut for an update: applies it and gives the count.
    pub(super) async fn update(&self, lease: Lease, bound: Arc<Bound>) -> Result<i64, Status> {
        if returns_rows(bound.kind()) {
            return Err(malformed(
                "the statement returns rows. Run it as a query, not as an update",
            ));
        }
        Ok(record_count(self.updates.apply(lease, bound).await?))
    }
}
