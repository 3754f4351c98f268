//! Tasks of this process: the base's worker, its sessions and its output.
//!
//! A plan arrives over the base's coordinator channel with our query header;
//! [`TaskSessions`] builds the session it runs in: the query's options and
//! object stores, our codec, our transport towards other executors, and the
//! [`TaskHost`] through which operators reach worker processes. Output leaves
//! through [`TaskSource::open`], or to a task of this process through
//! [`TaskSource::outputs`]; both are counted.

use std::sync::{Arc, Weak};

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
use mobula_plan::{Interactive, MobulaCodec, MobulaOptions, QueryId, TaskHost, TaskHostHandle};
use mobula_proto::cluster::{HEADER_QUERY, QueryHeader, TaskHead, TaskTicket};
use prost::Message;
use url::Url;
use uuid::Uuid;

use super::channel::PeerChannels;
use super::plan_watch::PlanWatch;
use super::task_header;
use crate::exchange::channels::ChannelPool;
use crate::exchange::traffic::Traffic;
use crate::executor::task_output::TaskOutput;
use crate::executor::task_run::{InputMeter, TaskRun, TaskStart};
use crate::executor::tasks::TaskRuns;
use crate::functions::RustFunctions;
use crate::pool::directory::{extension, from_wire};
use crate::query_header;
use crate::stores::ObjectStores;

/// No executor's address. The base reaches a task of its own process by itself where the
/// addresses are equal, unseen by us: it shall believe that it is here.
const NOWHERE: &str = "mobula://nowhere";

/// What the session of each task that arrives is built from.
#[derive(Clone)]
pub struct TaskSessions {
    pub options: MobulaOptions,
    pub host: Arc<dyn TaskHost>,
    pub functions: RustFunctions,
    pub stores: Arc<ObjectStores>,
    pub channels: ChannelPool,
    pub traffic: Arc<Traffic>,
    pub tasks: Arc<TaskRuns>,
}

/// Builds the session of each task that arrives.
struct SessionBuilder {
    parts: TaskSessions,
    /// It owns this builder.
    worker: Weak<Worker>,
}

#[async_trait]
impl WorkerSessionBuilder for SessionBuilder {
    async fn build_session_state(&self, context: WorkerQueryContext) -> Result<SessionState> {
        let header = read_header(&context.headers)?;
        let task = task_header::read(&context.headers).ok_or_else(|| malformed("task header"))?;
        let parts = &self.parts;
        parts.stores.register_all(&header.stores)?;
        let mut builder = context.builder;
        parts.functions.register(&mut builder);
        let config: &mut SessionConfig = builder.config().get_or_insert_default();
        let mut options = config.options().as_ref().clone();
        options.extensions.insert(parts.options.clone());
        query_header::apply(&mut options, &header)?;
        *config.options_mut() = options;
        config.set_extension(Arc::new(TaskHostHandle(Arc::clone(&parts.host))));
        config.set_extension(Arc::new(QueryId(header.query_id.clone())));
        config.set_extension(extension(from_wire(header.pools)));
        config.set_extension(Arc::new(Interactive(header.is_interactive)));
        config.set_distributed_user_codec(MobulaCodec);
        self.set_channels(config, &task.url)?;
        let run = parts.tasks.arrived(TaskStart {
            id: task_header::named(&task),
            query_id: header.query_id,
            n_tasks: task.n_tasks,
        });
        config.set_extension(run.end());
        config.set_extension(run);
        parts.traffic.task_started();
        Ok(builder.build())
    }
}

impl SessionBuilder {
    /// The ways to other tasks: those of this process, which the query knows as `here`,
    /// and of others.
    fn set_channels(&self, config: &mut SessionConfig, here: &str) -> Result<()> {
        let parse = |text: &str| Url::parse(text).map_err(|_| malformed("task header"));
        let Some(worker) = self.worker.upgrade() else {
            return datafusion::common::exec_err!("this executor is ending");
        };
        config.set_extension(Arc::new(worker.to_local_worker_context(parse(NOWHERE)?)));
        let tasks = TaskSource {
            worker,
            runs: Arc::clone(&self.parts.tasks),
        };
        config.set_distributed_channel_resolver(PeerChannels::of_executor(
            self.parts.channels.clone(),
            Arc::clone(&self.parts.traffic),
            (parse(here)?, tasks),
        ));
        Ok(())
    }
}

fn read_header(headers: &http::HeaderMap) -> Result<QueryHeader> {
    let malformed = || malformed("query header");
    let value = headers.get(HEADER_QUERY).ok_or_else(malformed)?;
    let bytes = STANDARD.decode(value.as_bytes()).map_err(|_| malformed())?;
    QueryHeader::decode(bytes.as_slice()).map_err(|_| malformed())
}

fn malformed(what: &'static str) -> DataFusionError {
    DataFusionError::External(Box::new(crate::ExecutionError::Malformed { what }))
}

/// The tasks of this process and their output.
#[derive(Clone)]
pub struct TaskSource {
    worker: Arc<Worker>,
    runs: Arc<TaskRuns>,
}

impl TaskSource {
    pub fn new(
        sessions: TaskSessions,
        runtime: Arc<datafusion::execution::runtime_env::RuntimeEnv>,
    ) -> Self {
        let runs = Arc::clone(&sessions.tasks);
        let worker = Arc::new_cyclic(|worker| {
            Worker::from_session_builder(SessionBuilder {
                parts: sessions,
                worker: Weak::clone(worker),
            })
            .with_runtime_env(runtime)
            .with_version(crate::VERSION)
        });
        Self { worker, runs }
    }

    /// The base's own service (plans in, metrics out) for this worker.
    pub fn plan_service(&self) -> impl PlanService {
        let service = Worker::clone(&self.worker).into_worker_server();
        PlanWatch::new(service, Arc::clone(&self.runs))
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(super) fn runs(&self) -> &Arc<TaskRuns> {
        &self.runs
    }

    /// Opens one partition of one task's output. Waits up to 10 s for the
    /// task's plan, which travels on another stream.
    ///
    /// # Errors
    /// A malformed ticket, an unknown task, or what the task failed with.
    pub async fn open(&self, ticket: TaskTicket) -> Result<SendableRecordBatchStream> {
        let n_outputs = ticket.n_partitions;
        let request = execute_request(ticket)?;
        let mut streams = self.outputs(request, n_outputs, None).await?;
        match (streams.pop(), streams.is_empty()) {
            (Some(stream), true) => Ok(stream),
            _ => datafusion::common::internal_err!("a ticket opens exactly one stream"),
        }
    }

    /// Opens what `request` asks for, of the `n_outputs` that the task has (0: unknown), as
    /// input of a task of this process if `reader` is one.
    pub(super) async fn outputs(
        &self,
        request: ExecuteTaskRequest,
        n_outputs: u64,
        reader: Option<InputMeter>,
    ) -> Result<Vec<SendableRecordBatchStream>> {
        let id = task_header::task_id(&request.task_key);
        let opened = self.worker.execute_task(request).await;
        let (streams, context) = opened.inspect_err(|_| {
            if let Some(run) = self.runs.running(&id) {
                run.failed();
            }
        })?;
        let Some(run) = TaskRun::of(&context) else {
            return datafusion::common::internal_err!("a task that is not listed");
        };
        let streams = streams.into_iter();
        let counted = streams
            .map(|blocks| TaskOutput::wrap(blocks, Arc::clone(&run), n_outputs, reader.clone()));
        Ok(counted.collect())
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
    let malformed = || malformed("task ticket");
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
            // Whoever opens it has no task for it.
            TaskHead::Kept(_) => return Err(malformed()),
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

/// Which of its stage's tasks `context` is of.
pub fn task_idx(context: &TaskContext) -> usize {
    let config = context.session_config();
    let task = config.get_extension::<DistributedTaskContext>();
    task.map_or(0, |task| task.task_index)
}

/// Which of `total` keyed actors are this task's: the first one's number, and how many. No
/// two tasks have the same one, where there are as many as tasks.
pub fn task_lanes(context: &TaskContext, total: usize) -> (usize, usize) {
    let task = context
        .session_config()
        .get_extension::<DistributedTaskContext>();
    let (task_idx, n_tasks) = task.map_or((0, 1), |task| (task.task_index, task.task_count));
    lanes(total, task_idx, n_tasks)
}

fn lanes(total: usize, task_idx: usize, n_tasks: usize) -> (usize, usize) {
    let first = (0..task_idx).map(|task| share(total, task, n_tasks)).sum();
    (first, share(total, task_idx, n_tasks))
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
    fn each_lane_is_one_tasks() {
        for (total, n_tasks) in [(4, 2), (5, 3), (3, 3), (7, 1)] {
            let mut next = 0;
            for task in 0..n_tasks {
                let (first, count) = lanes(total, task, n_tasks);
                assert_eq!(first, next);
                next += count;
            }
            assert_eq!(next, total);
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
