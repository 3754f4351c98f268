//! Tasks of this process: the base's worker, its sessions and its output.
//!
//! A plan arrives over the base's coordinator channel with our query header;
//! [`TaskSessions`] builds the session it runs in: the query's options and
//! object stores, our codec, our transport towards other executors, and the
//! [`TaskHost`] through which operators reach worker processes. Output leaves
//! through [`TaskSource::open`].

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DistributedExt, DistributedTaskContext, ExecuteTaskRequest, MaybeEncoded, ProducerHead,
    TaskKey, Worker, WorkerQueryContext, WorkerSessionBuilder,
};
use mobula_plan::{MobulaCodec, MobulaOptions, QueryId, TaskHost, TaskHostHandle};
use mobula_proto::cluster::{HEADER_QUERY, QueryHeader, TaskHead, TaskTicket};
use prost::Message;
use uuid::Uuid;

use super::channel::PeerChannels;
use crate::exchange::channels::ChannelPool;
use crate::exchange::traffic::Traffic;
use crate::functions::RustFunctions;
use crate::pool::directory::{extension, from_wire};
use crate::query_header;
use crate::stores::ObjectStores;

/// Builds the session of each task that arrives.
#[derive(Clone)]
pub struct TaskSessions {
    pub options: MobulaOptions,
    pub host: Arc<dyn TaskHost>,
    pub functions: RustFunctions,
    pub stores: Arc<ObjectStores>,
    pub channels: ChannelPool,
    pub traffic: Arc<Traffic>,
}

#[async_trait]
impl WorkerSessionBuilder for TaskSessions {
    async fn build_session_state(&self, context: WorkerQueryContext) -> Result<SessionState> {
        let header = read_header(&context.headers)?;
        self.stores.register_all(&header.stores)?;
        let mut builder = context.builder;
        self.functions.register(&mut builder);
        let config: &mut SessionConfig = builder.config().get_or_insert_default();
        let mut options = config.options().as_ref().clone();
        options.extensions.insert(self.options.clone());
        query_header::apply(&mut options, &header)?;
        *config.options_mut() = options;
        config.set_extension(Arc::new(TaskHostHandle(Arc::clone(&self.host))));
        config.set_extension(Arc::new(QueryId(header.query_id.clone())));
        config.set_extension(extension(from_wire(header.pools)));
        config.set_distributed_user_codec(MobulaCodec);
        config.set_distributed_channel_resolver(PeerChannels::of_executor(
            self.channels.clone(),
            Arc::clone(&self.traffic),
        ));
        self.traffic.task_started();
        Ok(builder.build())
    }
}

fn read_header(headers: &http::HeaderMap) -> Result<QueryHeader> {
    let malformed = || {
        DataFusionError::External(Box::new(crate::ExecutionError::Malformed {
            what: "query header",
        }))
    };
    let value = headers.get(HEADER_QUERY).ok_or_else(malformed)?;
    let bytes = STANDARD.decode(value.as_bytes()).map_err(|_| malformed())?;
    QueryHeader::decode(bytes.as_slice()).map_err(|_| malformed())
}

/// The tasks of this process and their output.
#[derive(Clone)]
pub struct TaskSource {
    worker: Worker,
}

impl TaskSource {
    pub fn new(
        sessions: TaskSessions,
        runtime: Arc<datafusion::execution::runtime_env::RuntimeEnv>,
    ) -> Self {
        let worker = Worker::from_session_builder(sessions)
            .with_runtime_env(runtime)
            .with_version(crate::VERSION);
        Self { worker }
    }

    /// The base's own service (plans in, metrics out) for this worker.
    pub fn plan_service(&self) -> impl PlanService {
        self.worker.clone().into_worker_server()
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Opens one partition of one task's output. Waits up to 10 s for the
    /// task's plan, which travels on another stream.
    ///
    /// # Errors
    /// A malformed ticket, an unknown task, or what the task failed with.
    pub async fn open(&self, ticket: TaskTicket) -> Result<SendableRecordBatchStream> {
        let request = execute_request(ticket)?;
        let (mut streams, _context) = self.worker.execute_task(request).await?;
        match (streams.pop(), streams.is_empty()) {
            (Some(stream), true) => Ok(stream),
            _ => datafusion::common::internal_err!("a ticket opens exactly one stream"),
        }
    }
}

/// A tonic service, nameable without the base's generated code.
pub trait PlanService:
    tower::Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<tonic::body::Body>,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + tonic::server::NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> PlanService for S where
    S: tower::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

fn execute_request(ticket: TaskTicket) -> Result<ExecuteTaskRequest> {
    let malformed = || {
        DataFusionError::External(Box::new(crate::ExecutionError::Malformed {
            what: "task ticket",
        }))
    };
    let partition = ticket.partition as usize;
    Ok(ExecuteTaskRequest {
        task_key: TaskKey {
            query_id: Uuid::from_slice(&ticket.query_id).map_err(|_| malformed())?,
            stage_id: ticket.stage_id as usize,
            task_number: ticket.task_idx as usize,
        },
        target_partition_start: partition,
        target_partition_end: partition.checked_add(1).ok_or_else(malformed)?,
        producer_head: match ticket.head.ok_or_else(malformed)? {
            TaskHead::Gather(_) => ProducerHead::None,
            TaskHead::Broadcast(partitions) => ProducerHead::BroadcastExec {
                output_partitions: partitions as usize,
            },
            TaskHead::Shuffle(encoded) => ProducerHead::RepartitionExec {
                partitioning: MaybeEncoded::Encoded(encoded),
            },
        },
    })
}

/// This task's share of `total` workers, when tasks split them evenly and the
/// first ones take the rest. At least 1: the planner never makes more tasks
/// than workers.
pub fn task_share(context: &TaskContext, total: usize) -> usize {
    let Some(task) = context
        .session_config()
        .get_extension::<DistributedTaskContext>()
    else {
        return total;
    };
    share(total, task.task_index, task.task_count)
}

fn share(total: usize, task_idx: usize, n_tasks: usize) -> usize {
    let n_tasks = n_tasks.max(1);
    (total / n_tasks + usize::from(task_idx < total % n_tasks)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_the_total() {
        for (total, n_tasks) in [(4, 2), (5, 3), (3, 3), (7, 1)] {
            let sum: usize = (0..n_tasks).map(|i| share(total, i, n_tasks)).sum();
            assert_eq!(sum, total);
        }
    }

    #[test]
    fn a_ticket_without_head_or_query_is_refused() {
        assert!(execute_request(TaskTicket::default()).is_err());
        let whole = TaskTicket {
            query_id: vec![7; 16],
            head: Some(TaskHead::Gather(true)),
            ..Default::default()
        };
        assert!(execute_request(whole.clone()).is_ok());
        let overflowing = TaskTicket {
            partition: u64::MAX,
            ..whole
        };
        assert!(execute_request(overflowing).is_err());
    }
}
