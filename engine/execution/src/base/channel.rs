//! How the base reaches a task: plans over its own RPC, blocks over our Flight.
//!
//! One [`PeerChannels`] is made per query on the coordinator (it remembers
//! which executors the query uses, so that the loss of one ends it at once) and
//! per task on executors. On the coordinator the local executor is reached in
//! process, but its plans are encoded all the same: the base's planner relies
//! on that to forget orderings that do not hold across an exchange.

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

use super::worker::TaskSource;
use crate::exchange::channels::ChannelPool;
use crate::exchange::fetch::fetch;
use crate::exchange::traffic::Traffic;
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
    /// For tasks: their process's own worker is reached by the base itself.
    pub fn of_executor(pool: ChannelPool, traffic: Arc<Traffic>) -> Self {
        Self {
            pool,
            traffic,
            local: None,
            used: UsedExecutors::default(),
        }
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
        headers: HeaderMap,
        plan: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
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
        let tickets = tickets(request, context)?;
        fetch(&self.pool, &self.url, tickets, &self.traffic, &metrics).await
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

fn tickets(request: ExecuteTaskRequest, context: &Arc<TaskContext>) -> Result<Vec<TaskTicket>> {
    let config = DistributedConfig::from_session_config(context.session_config())?;
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
        })
        .collect())
}

/// The coordinator's own executor, without a socket.
struct LocalChannel {
    tasks: TaskSource,
}

#[async_trait]
impl WorkerChannel for LocalChannel {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        mut plan: SetPlanRequest,
        messages: BoxStream<'static, CoordinatorToWorkerMsg>,
        _metrics: ExecutionPlanMetricsSet,
        context: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        plan.plan = MaybeEncoded::Encoded(plan.plan.encode(context)?);
        self.tasks
            .worker()
            .coordinator_channel(headers, plan, messages.map(Ok).boxed())
            .await
    }

    async fn execute_task(
        &mut self,
        _headers: HeaderMap,
        request: ExecuteTaskRequest,
        _metrics: ExecutionPlanMetricsSet,
        _context: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let (streams, _context) = self.tasks.worker().execute_task(request).await?;
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
