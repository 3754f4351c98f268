//! The Flight service of a cluster listener.
//!
//! `DoGet` serves one partition of one task (the ticket is an encoded
//! `TaskTicket`), `DoExchange` brings blocks to actors that live here, `DoAction`
//! starts and ends those of queries, tells what this process does and takes what the
//! coordinator listens for: register, heartbeat, leave. Everything else is unimplemented on purpose: clients speak
//! Flight SQL on another port. The caller is already past the token gate.
//!
//! Memory: the encoder holds one block; the transport at most a stream window.
//! Cancel: a consumer that goes away drops the stream and with it the plan.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::IpcWriteOptions;
use datafusion::common::Result as PlanResult;
use datafusion::execution::SendableRecordBatchStream;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use mobula_proto::cluster::{KeptTicket, TaskHead, TaskTicket};
use mobula_proto::pool::{
    ACTION_ACTOR_END, ACTION_ACTOR_START, ACTION_ACTORS_LOAD, ACTION_POOLS_END, ACTION_POOLS_LOADS,
    ACTION_POOLS_START, AskLoads, AskPoolLoads, EndActor, EndPools, PoolLoads, StartActor,
};
use mobula_proto::report::ACTION_REPORT;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::compact::compact_block;
use super::traffic::Traffic;
use crate::actor_calls::serve::ActorCalls;
use crate::base::worker::TaskSource;
use crate::coordinator::control::Control;
use crate::executor::report::Reporter;
use crate::kept::store::KeptStore;
use crate::pool::loads;
use crate::wire_error;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// Serves blocks, reports and, on the coordinator, control calls.
pub struct ClusterFlightService {
    pub tasks: TaskSource,
    /// On the coordinator.
    pub control: Option<Arc<Control>>,
    pub reporter: Reporter,
    pub actors: ActorCalls,
    pub kept: Arc<KeptStore>,
    pub traffic: Arc<Traffic>,
    /// Where others reach this listener: errors name it.
    pub this_url: String,
    /// Size a message aims at, in bytes.
    pub message_bytes: usize,
}

impl ClusterFlightService {
    /// The messages that answer an action.
    async fn act(&self, action: &Action) -> Result<Vec<Vec<u8>>, Status> {
        match (action.r#type.as_str(), &self.control) {
            (ACTION_REPORT, _) => self.reporter.answer(&action.body),
            (ACTION_POOLS_START, _) => {
                self.actors.hosting.start(decoded(action)?).await?;
                Ok(vec![])
            }
            (ACTION_ACTOR_START, _) => {
                let request: StartActor = decoded(action)?;
                self.actors.build(request).await?;
                Ok(vec![])
            }
            (ACTION_ACTOR_END, _) => {
                let request: EndActor = decoded(action)?;
                let actors = &self.actors.actors;
                let retire = request.retire_ms.map(Duration::from_millis);
                match retire {
                    Some(limit) => {
                        if let Some(actor) = actors.take(&request.key) {
                            actors.retire(actor, limit).await;
                        }
                    }
                    None => actors.end_by_key(&request.key).await,
                }
                Ok(vec![])
            }
            (ACTION_ACTORS_LOAD, _) => {
                let asked: AskLoads = decoded(action)?;
                Ok(vec![loads::answer(&self.actors.actors, &asked)])
            }
            (ACTION_POOLS_END, _) => {
                let request: EndPools = decoded(action)?;
                let (hosting, query_id) = (&self.actors.hosting, &request.query_id);
                let limit = Duration::from_millis(request.retire_ms);
                match request.part {
                    Some(part) => hosting.retire(query_id, part, limit).await,
                    None => hosting.end(query_id),
                }
                Ok(vec![])
            }
            (ACTION_POOLS_LOADS, _) => {
                let request: AskPoolLoads = decoded(action)?;
                let loads = self.actors.hosting.loads(&request.query_ids);
                Ok(vec![PoolLoads { loads }.encode_to_vec()])
            }
            (other, Some(control)) => Ok(vec![control.handle(other, &action.body)?]),
            (_, None) => absent("DoAction"),
        }
    }

    async fn open_task(&self, ticket: Ticket) -> Result<Answers<FlightData>, Status> {
        let ticket = TaskTicket::decode(ticket.ticket)
            .map_err(|e| Status::invalid_argument(format!("not a task ticket: {e}")))?;
        let compression = compression(&ticket.compression)?;
        let blocks = match &ticket.head {
            Some(TaskHead::Kept(kept)) => self.open_kept(kept),
            _ => self.tasks.open(ticket).await,
        };
        let blocks = blocks.map_err(|e| wire_error::to_status(&e, &self.this_url))?;
        self.encode(blocks, compression)
    }

    fn open_kept(&self, asked: &KeptTicket) -> PlanResult<SendableRecordBatchStream> {
        let KeptTicket { id, name, part, .. } = asked;
        let projection = asked.projection.iter().map(|column| *column as usize);
        self.kept
            .read(id, name, *part, &projection.collect::<Vec<_>>())
    }

    fn encode(
        &self,
        blocks: SendableRecordBatchStream,
        compression: Option<CompressionType>,
    ) -> Result<Answers<FlightData>, Status> {
        let options = IpcWriteOptions::default()
            .try_with_compression(compression)
            .map_err(|e| Status::internal(e.to_string()))?;
        let schema: SchemaRef = blocks.schema();
        let url = self.this_url.clone();
        let blocks = blocks
            .and_then(|block| std::future::ready(compact_block(block)))
            .map_err(move |e| FlightError::Tonic(Box::new(wire_error::to_status(&e, &url))));
        let open = self.traffic.open_stream();
        let traffic = Arc::clone(&self.traffic);
        let encoded = FlightDataEncoderBuilder::new()
            .with_options(options)
            .with_schema(schema)
            // Executors share our version: dictionaries need not be unpacked.
            .with_dictionary_handling(DictionaryHandling::Resend)
            .with_max_flight_data_size(self.message_bytes)
            .build(blocks)
            .map(move |message| {
                let _while_open = &open;
                match message {
                    Ok(data) => {
                        traffic.sent(&data);
                        Ok(data)
                    }
                    Err(FlightError::Tonic(status)) => Err(*status),
                    Err(e) => Err(Status::internal(e.to_string())),
                }
            });
        Ok(encoded.boxed())
    }
}

fn compression(name: &str) -> Result<Option<CompressionType>, Status> {
    match name {
        "lz4" => Ok(Some(CompressionType::LZ4_FRAME)),
        "zstd" => Ok(Some(CompressionType::ZSTD)),
        "none" => Ok(None),
        other => Err(Status::invalid_argument(format!(
            "unknown compression \"{other}\""
        ))),
    }
}

fn decoded<M: Message + Default>(action: &Action) -> Result<M, Status> {
    M::decode(action.body.clone())
        .map_err(|e| Status::invalid_argument(format!("malformed action body: {e}")))
}

fn absent<T>(rpc: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{rpc} is not served on the cluster listener; clients connect to the client listener"
    )))
}

#[tonic::async_trait]
impl FlightService for ClusterFlightService {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        Ok(Response::new(self.open_task(request.into_inner()).await?))
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let messages = self.act(&request.into_inner()).await?.into_iter();
        let answer = messages.map(|body| Ok(arrow_flight::Result { body: body.into() }));
        Ok(Response::new(futures::stream::iter(answer).boxed()))
    }

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        absent("Handshake")
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        absent("ListFlights")
    }

    async fn get_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        absent("GetFlightInfo")
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        absent("PollFlightInfo")
    }

    async fn get_schema(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        absent("GetSchema")
    }

    async fn do_put(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        absent("DoPut")
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Ok(Response::new(self.actors.open(request.into_inner()).await?))
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        absent("ListActions")
    }
}
