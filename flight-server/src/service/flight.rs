//! The outer Flight service: every RPC of a client arrives here.
//!
//! arrow-flight's own SQL trait answers for GetSchema, PollFlightInfo and most
//! actions itself, so this implements the plain Flight service and sorts the
//! commands by hand: statements go to `statement`, what describes the database
//! to `metadata`, values that are bound to `parameters`, rows that are loaded to
//! `ingest`, actions to `actions`.
//!
//! Deliberately absent: DoExchange and ListFlights, which Flight SQL does not
//! use; transactions and Substrait, which say so when asked for.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{Any, Command, DoPutPreparedStatementResult, DoPutUpdateResult};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use prost::Message;
use tonic::{Code, Request, Response, Status, Streaming};

use super::metadata::{self, Described};
use super::sessions::{Lease, Sessions};
use super::statement::{announced_schema, flight_info, prepare};
use super::stream::{encoded_schema, one_block};
use super::tickets::Tickets;
use super::updates::Updates;
use super::{ServiceSettings, actions, parameters};
use crate::status::{malformed, refuse};

/// What DoGet gives.
pub type FlightStream = BoxStream<'static, Result<FlightData, Status>>;

/// The service, shared by all connections.
pub struct FlightFront {
    pub(super) sessions: Arc<Sessions>,
    pub(super) tickets: Arc<Tickets>,
    pub(super) updates: Arc<Updates>,
    pub(super) settings: ServiceSettings,
}

#[tonic::async_trait]
impl FlightService for FlightFront {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = FlightStream;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;

    /// Gives a token for a fresh session, in the header and in the payload:
    /// drivers look at the one or the other. Any user is let in.
    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        let (token, _lease) = self.sessions.open_token()?;
        let header = format!("Bearer {token}")
            .parse()
            .map_err(|_| crate::status::internal("a token is no header text"))?;
        let answer = HandshakeResponse {
            protocol_version: 0,
            payload: token.into(),
        };
        let mut response = Response::new(one(answer));
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(unsupported("ListFlights is not part of Flight SQL"))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.info(request).await.map(Response::new)
    }

    /// Answers like GetFlightInfo: a query's ticket is there once it is planned,
    /// so there is never a second poll.
    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        let info = self.info(request).await?;
        Ok(Response::new(PollInfo {
            info: Some(info),
            flight_descriptor: None,
            progress: Some(1.0),
            expiration_time: None,
        }))
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let lease = self.lease(&request)?;
        let schema = match command(&request.get_ref().cmd)? {
            Command::CommandStatementQuery(asked) => {
                let planned = prepare(&lease.session, &asked.query).await?;
                announced_schema(planned.kind, &planned.schema)
            }
            Command::CommandPreparedStatementQuery(asked) => {
                let planned = lease.prepared.look(&asked.prepared_statement_handle)?;
                announced_schema(planned.kind, &planned.schema)
            }
            other => self.described(&lease, other)?.schema(),
        };
        Ok(Response::new(SchemaResult {
            schema: encoded_schema(&schema)?,
        }))
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let stream = match command(&request.get_ref().ticket)? {
            Command::TicketStatementQuery(ticket) => self.read(&ticket)?,
            other => {
                let lease = self.lease(&request)?;
                let block = self.described(&lease, other)?.block().await?;
                one_block(block, self.settings.wire_batch_bytes)
            }
        };
        Ok(Response::new(stream))
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let lease = self.lease(&request)?;
        let app_metadata = self.put(lease, request.into_inner()).await?.into();
        Ok(Response::new(one(PutResult { app_metadata })))
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let answer = self.act(request).await?;
        let stream = futures::stream::iter(answer.map(arrow_flight::Result::new).map(Ok));
        Ok(Response::new(stream.boxed()))
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        let all = actions::ACTIONS.iter().map(|action| {
            Ok(ActionType {
                r#type: action.name.to_owned(),
                description: action.description.to_owned(),
            })
        });
        Ok(Response::new(futures::stream::iter(all).boxed()))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(unsupported("DoExchange is not part of Flight SQL"))
    }
}

impl FlightFront {
    /// The session of a call.
    pub(super) fn lease<T>(&self, request: &Request<T>) -> Result<Lease, Status> {
        self.sessions.of(request.metadata(), request.extensions())
    }

    async fn info(&self, request: Request<FlightDescriptor>) -> Result<FlightInfo, Status> {
        let lease = self.lease(&request)?;
        let descriptor = request.into_inner();
        match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(asked) => {
                refuse_transaction(asked.transaction_id.as_ref())?;
                let bound = self.plan(&lease, &asked.query).await?;
                self.start(lease, bound, descriptor).await
            }
            Command::CommandPreparedStatementQuery(asked) => {
                let handle = &asked.prepared_statement_handle;
                let bound = lease.prepared.take(&lease.session, handle, None).await?;
                self.start(lease, bound, descriptor).await
            }
            other => {
                let schema: SchemaRef = self.described(&lease, other)?.schema();
                // The command is its own ticket: it says all there is to know.
                let ticket = descriptor.cmd.clone();
                flight_info(descriptor, &schema, ticket, -1)
            }
        }
    }

    fn described(&self, lease: &Lease, command: Command) -> Result<Described, Status> {
        let name = short_name(command.type_url()).to_owned();
        metadata::describe(lease.session.state(), &self.settings, command)
            .ok_or_else(|| unsupported(format!("{name} is not supported yet")))
    }

    /// Does what the first message names, an update, a load or the binding of values, and gives the
    /// metadata of the answer.
    async fn put(&self, lease: Lease, mut data: Streaming<FlightData>) -> Result<Vec<u8>, Status> {
        let first = data
            .message()
            .await?
            .ok_or_else(|| malformed("DoPut came without a message"))?;
        let named = first
            .flight_descriptor
            .as_ref()
            .ok_or_else(|| malformed("the first message of DoPut has no descriptor"))?;
        let bound = match command(&named.cmd)? {
            Command::CommandStatementUpdate(asked) => {
                refuse_transaction(asked.transaction_id.as_ref())?;
                self.plan(&lease, &asked.query).await?
            }
            Command::CommandPreparedStatementUpdate(asked) => {
                let given = parameters::read(first, data, &self.settings).await?;
                let handle = &asked.prepared_statement_handle;
                lease.prepared.take(&lease.session, handle, given).await?
            }
            Command::CommandPreparedStatementQuery(asked) => {
                let given = parameters::read(first, data, &self.settings).await?;
                let handle = asked.prepared_statement_handle;
                lease.prepared.give(&lease.session, &handle, given).await?;
                let answer = DoPutPreparedStatementResult {
                    prepared_statement_handle: Some(handle),
                };
                return Ok(answer.encode_to_vec());
            }
            Command::CommandStatementIngest(asked) => {
                let record_count = self.ingest(lease, asked, first, data).await?;
                return Ok(DoPutUpdateResult { record_count }.encode_to_vec());
            }
            other => {
                return Err(unsupported(format!(
                    "DoPut of {} is not supported yet",
                    short_name(other.type_url())
                )));
            }
        };
        let record_count = self.update(lease, bound).await?;
        Ok(DoPutUpdateResult { record_count }.encode_to_vec())
    }

    /// Plans a statement and keeps it for the session.
    pub(super) async fn create_prepared(
        &self,
        lease: &Lease,
        sql: &str,
    ) -> Result<super::prepared::CreatePreparedResult, Status> {
        let prepared = prepare(&lease.session, sql).await?;
        lease.prepared.create(prepared)
    }
}

/// To await when the messages of a call have ended, before anything is done that lasts: a call
/// that was cancelled looks the same to tonic, and it is dropped here.
pub(super) async fn not_cancelled() {
    // hyper looks for a reset of the stream each time that the call has to wait.
    tokio::task::yield_now().await;
}

/// Reads the command that a descriptor or a ticket carries.
fn command(bytes: &Bytes) -> Result<Command, Status> {
    let any = Any::decode(bytes.as_ref())
        .map_err(|error| malformed(format!("not a Flight SQL command: {error}")))?;
    Command::try_from(any).map_err(|error| malformed(format!("not a Flight SQL command: {error}")))
}

fn short_name(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

/// Refuses transactions: statements commit by themselves.
pub(super) fn refuse_transaction(id: Option<&Bytes>) -> Result<(), Status> {
    match id {
        Some(id) if !id.is_empty() => Err(unsupported(
            "transactions are not supported yet. Every statement commits by itself",
        )),
        _ => Ok(()),
    }
}

pub(super) fn unsupported(text: impl std::fmt::Display) -> Status {
    refuse(Code::Unimplemented, text)
}

fn one<T: Send + 'static>(item: T) -> BoxStream<'static, Result<T, Status>> {
    futures::stream::iter([Ok(item)]).boxed()
}
