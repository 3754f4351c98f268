//! How the base reaches a task: plans over its own RPC, blocks over our Flight.
//!
//! One [`PeerChannels`] is made per query on the coordinator (it remembers
//! which executors the query uses, so that the loss of one ends it at once) and
//! per task on executors. Tasks of the same process are reached without a socket,
//! but plans for them are encoded all the same: the base's planner relies
//! on that to forget orderings that do not hold across an exchange. What a task reads is
//! counted on either way.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::grpc::create_worker_client;
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, DistributedConfig, ExecuteTaskRequest,
    GetWorkerInfoRequest, GetWorkerInfoResponse, MaybeEncoded, ProducerHead, SetPlanRequest,
    WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::HeaderMap;
use mobula_proto::cluster::{TaskHead, TaskTicket};
use parking_lot::Mutex;
use url::Url;

use super::task_header;
use super::worker::TaskSource;
use crate::exchange::channels::ChannelPool;
use crate::exchange::fetch::fetch;
use crate::exchange::traffic::Traffic;
use crate::executor::task_run::{InputMeter, TaskRun};
use crate::wire_error;

/// Executors that a query has sent tasks to.
pub type UsedExecutors = Arc<Mutex<BTreeSet<Url>>>;

/// Opens channels to executors.
#[derive(Clone)]
pub struct PeerChannels {
    pool: ChannelPool,
    traffic: Arc<Traffic>,
    local: Option<(Url, TaskSource)>,
    used: UsedExecutors,
}

impl PeerChannels {
    /// For one task: `local` are those of its process.
    pub fn of_executor(pool: ChannelPool, traffic: Arc<Traffic>, local: (Url, TaskSource)) -> Self {
        Self::of_query(pool, traffic, Some(local))
    }

    /// For one query: `local` is the coordinator's own executor.
    pub fn of_query(
        pool: ChannelPool,
        traffic: Arc<Traffic>,
        local: Option<(Url, TaskSource)>,
    ) -> Self {
        Self {
            pool,
            traffic,
            local,
            used: UsedExecutors::default(),
        }
    }

    /// Grows while the query opens channels.
    pub fn used(&self) -> UsedExecutors {
        Arc::clone(&self.used)
    }
}

#[async_trait]
impl ChannelResolver for PeerChannels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        if let Some((local_url, tasks)) = &self.local
            && local_url == url
        {
            return Ok(Box::new(LocalChannel {
                tasks: tasks.clone(),
                url: url.clone(),
            }));
        }
        self.used.lock().insert(url.clone());
        let channel = self
            .pool
            .channel(url)
            .map_err(|e| DataFusionError::External(Box::new(e)))?;
        Ok(Box::new(RemoteChannel {
            plans: create_worker_client(channel),
            pool: self.pool.clone(),
            traffic: Arc::clone(&self.traffic),
            url: url.clone(),
        }))
    }
}

/// Another process.
struct RemoteChannel {
    plans: Box<dyn WorkerChannel>,
    pool: ChannelPool,
    traffic: Arc<Traffic>,
    url: Url,
}

#[async_trait]
impl WorkerChannel for RemoteChannel {
    async fn coordinator_channel(
        &mut self,
        mut headers: HeaderMap,
        plan: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        task_header::add(&mut headers, &plan)?;
        let url = self.url.to_string();
        let answers = self
            .plans
            .coordinator_channel(headers, plan, messages, metrics, context)
            .await
            .map_err(|e| name_lost(e, &url))?;
        Ok(answers
            .map(move |answer| answer.map_err(|e| name_lost(e, &url)))
            .boxed())
    }

    async fn execute_task(
        &mut self,
        _headers: HeaderMap,
        request: ExecuteTaskRequest,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let meter = meter(&request, context, &self.url, false);
        let tickets = tickets(request, context)?;
        let (pool, url, traffic) = (&self.pool, &self.url, &self.traffic);
        fetch(pool, url, tickets, traffic, &metrics, meter).await
    }

    async fn get_worker_info(
        &mut self,
        request: GetWorkerInfoRequest,
    ) -> Result<GetWorkerInfoResponse> {
        self.plans.get_worker_info(request).await
    }
}

/// The base hands transport failures on as opaque errors: say who is gone.
fn name_lost(error: DataFusionError, url: &str) -> DataFusionError {
    match wire_error::is_transport_failure(&error) {
        true => wire_error::executor_lost(url),
        false => error,
    }
}

/// Counts what the task of `context` reads by `request`.
fn meter(
    request: &ExecuteTaskRequest,
    context: &TaskContext,
    url: &Url,
    is_local: bool,
) -> Option<InputMeter> {
    let stage_id = request.task_key.stage_id as u64;
    TaskRun::of(context).map(|run| run.input(stage_id, url, is_local))
}

/// How many partitions all readers of the task open together; 0: unknown.
fn n_partitions(request: &ExecuteTaskRequest) -> u64 {
    let partitions = match &request.producer_head {
        // It has one reader, which opens all.
        ProducerHead::None => request.target_partition_end,
        ProducerHead::BroadcastExec { output_partitions } => *output_partitions,
        ProducerHead::RepartitionExec { partitioning } => match partitioning {
            MaybeEncoded::Decoded(partitioning) => partitioning.partition_count(),
            MaybeEncoded::Encoded(_) => 0,
        },
    };
    partitions as u64
}

fn tickets(request: ExecuteTaskRequest, context: &Arc<TaskContext>) -> Result<Vec<TaskTicket>> {
    let config = DistributedConfig::from_session_config(context.session_config())?;
    let n_partitions = n_partitions(&request);
    let head = match request.producer_head {
        ProducerHead::None => TaskHead::Gather(true),
        ProducerHead::BroadcastExec { output_partitions } => {
            TaskHead::Broadcast(output_partitions as u64)
        }
        ProducerHead::RepartitionExec { partitioning } => {
            TaskHead::Shuffle(partitioning.encode(context)?)
        }
    };
    let partitions = request.target_partition_start..request.target_partition_end;
    Ok(partitions
        .map(|partition| TaskTicket {
            query_id: request.task_key.query_id.as_bytes().to_vec(),
            stage_id: request.task_key.stage_id as u64,
            task_idx: request.task_key.task_number as u64,
            partition: partition as u64,
            head: Some(head.clone()),
            compression: config.compression.clone(),
            n_partitions,
        })
        .collect())
}

/// This process, without a socket.
struct LocalChannel {
    tasks: TaskSource,
    url: Url,
}

#[async_trait]
impl WorkerChannel for LocalChannel {
    async fn coordinator_channel(
        &mut self,
        mut headers: HeaderMap,
        mut plan: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        _metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        task_header::add(&mut headers, &plan)?;
        plan.plan = MaybeEncoded::Encoded(plan.plan.encode(context)?);
        // The base lets go of the messages when the query has ended.
        let id = task_header::task_id(&plan.task_key);
        let close = self.tasks.runs().close_on_drop(id);
        let messages = messages.map(move |message| {
            let _until_then = &close;
            Ok(message)
        });
        self.tasks
            .worker()
            .coordinator_channel(headers, plan, messages.boxed())
            .await
    }

    async fn execute_task(
        &mut self,
        _headers: HeaderMap,
        request: ExecuteTaskRequest,
        _metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let reader = meter(&request, context, &self.url, true);
        let n_outputs = n_partitions(&request);
        let streams = self.tasks.outputs(request, n_outputs, reader).await?;
        Ok(streams.into_iter().map(StreamExt::boxed).collect())
    }

    async fn get_worker_info(
        &mut self,
        _request: GetWorkerInfoRequest,
    ) -> Result<GetWorkerInfoResponse> {
        Ok(GetWorkerInfoResponse {
            version: crate::VERSION.to_owned(),
        })
    }
}
