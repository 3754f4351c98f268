//! What an operator sees of the process it runs in.
//!
//! Execs find the host in the session's extensions and ask it for worker
//! processes; they know neither processes nor executors. The engine implements
//! it, tests use one made of closures.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::TaskContext;
use mobula_udfs::{Priority, UdfCall, UdfError, UdfPool};
use tokio::sync::Notify;

use crate::config::MobulaOptions;
use crate::kept::KeptBlocks;
use crate::operator_run::OperatorRun;

/// Rows of one block that user code failed on.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedRows {
    pub function: String,
    /// The operator that called it, as in SQL.
    pub operator: &'static str,
    pub count: u64,
    /// Each of them, if they are to be listed; else empty.
    pub rows: Vec<ListedRow>,
}

/// A failed row as `system.errors` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRow {
    /// A JSON object of all columns that the query read.
    pub row: String,
    pub error_type: String,
    pub message: String,
    pub traceback: String,
}

/// The id of the query that a task belongs to, as an extension of DataFusion's
/// session configuration.
#[derive(Debug, Clone)]
pub struct QueryId(pub String);

impl QueryId {
    /// The query of `context`; empty where nobody has named it.
    pub fn of(context: &TaskContext) -> String {
        let id = context.session_config().get_extension::<Self>();
        id.map(|id| id.0.clone()).unwrap_or_default()
    }
}

/// Whether a task has ended, as an extension of DataFusion's session configuration: its query
/// has, or nobody reads its output any more.
#[derive(Debug, Default)]
pub struct TaskEnd {
    is_over: AtomicBool,
    changed: Notify,
}

impl TaskEnd {
    /// It has; twice does no harm.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Ready once it has.
    pub async fn wait(self: Arc<Self>) {
        let mut changed = std::pin::pin!(self.changed.notified());
        // From here on it is not missed.
        changed.as_mut().enable();
        if !self.is_over() {
            changed.await;
        }
    }
}

/// Whether somebody seems to wait for a task's query, as an extension of DataFusion's
/// session configuration: see `is_interactive`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Interactive(pub bool);

impl Interactive {
    /// How urgent calls of `context` are under `options`.
    pub fn priority(context: &TaskContext, options: &MobulaOptions) -> Priority {
        let seems = context.session_config().get_extension::<Self>();
        let said = match options.udf_priority() {
            "interactive" => Some(true),
            "batch" => Some(false),
            _ => None,
        };
        Priority {
            is_interactive: said.unwrap_or_else(|| seems.is_some_and(|seems| seems.0)),
            is_said: said.is_some(),
        }
    }
}

/// Some actors of a pool, in one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolHost {
    pub executor_id: String,
    /// Where other processes reach it.
    pub url: String,
    /// At least 1.
    pub actors: usize,
    /// Which of the query's actors there: some may have come later, instead of lost ones.
    /// Of named actors, which member.
    pub part: u64,
    /// Which of the query's actors they are, counted over all hosts. Those that come instead
    /// of lost ones have their numbers.
    pub slots: Vec<u64>,
}

/// The actors of one operator, which were placed when its query started, or named ones,
/// which were there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedPool {
    /// See `MapBatchesExec::call_id`; 0 for named actors.
    pub call_id: u64,
    /// The named actor, or named pool, that it is; empty: its query's own.
    pub actor: String,
    pub hosts: Vec<PoolHost>,
    /// Whether there may be more or fewer of them while the query runs: as a named pool, or
    /// as a call that may have more than it needs.
    pub follows: bool,
}

impl PlacedPool {
    /// All of them together, at least 1.
    pub fn actors(&self) -> usize {
        let actors: usize = self.hosts.iter().map(|host| host.actors).sum();
        actors.max(1)
    }
}

/// The placed pools of a query, as an extension of DataFusion's session configuration.
#[derive(Debug, Clone, Default)]
pub struct PlacedPools(pub Vec<Arc<PlacedPool>>);

impl PlacedPools {
    /// That of operator `call_id`, which makes `call`; `None`: its tasks have workers of
    /// their own, or its actor lives with the coordinator.
    pub fn find(context: &TaskContext, call_id: u64, call: &UdfCall) -> Option<Arc<PlacedPool>> {
        let pools = context.session_config().get_extension::<Self>()?;
        let mut pools = pools.0.iter();
        let found = match &call.spec.actor {
            Some(method) => pools.find(|pool| pool.actor == method.actor),
            None => pools.find(|pool| pool.actor.is_empty() && pool.call_id == call_id),
        };
        found.cloned()
    }
}

/// The process around a task.
#[async_trait]
pub trait TaskHost: Send + Sync + Debug {
    /// Opens the workers of one call in this task, at most `concurrency`.
    /// Starts none yet.
    ///
    /// # Errors
    /// What the worker manager refuses.
    fn open_pool(
        &self,
        call: Arc<UdfCall>,
        concurrency: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError>;

    /// Opens the way of one call in this task to the actors that `placed` names.
    ///
    /// # Errors
    /// What keeps it from them. A host that knows no other processes has none.
    fn open_placed_pool(
        &self,
        call: Arc<UdfCall>,
        placed: &Arc<PlacedPool>,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        self.open_pool(call, placed.actors())
    }

    /// Where blocks are kept for later queries; `None`: nowhere.
    fn kept(&self) -> Option<Arc<dyn KeptBlocks>> {
        None
    }

    /// How many of `total` workers, wanted over the whole cluster, this task
    /// gets; at least 1. In one process: all of them.
    fn task_share(&self, context: &TaskContext, total: usize) -> usize;

    /// Which of its stage's tasks this one is, from 0.
    fn task_idx(&self, _context: &TaskContext) -> usize {
        0
    }

    /// Of `total` keyed actors, wanted over the whole cluster, those of this task: the first
    /// one's number, and how many, at least 1. In one process: all of them.
    fn task_lanes(&self, _context: &TaskContext, total: usize) -> (usize, usize) {
        (0, total.max(1))
    }

    /// Takes note of an operator that has opened its workers, so that others can
    /// look at it.
    fn operator_started(&self, _run: &Arc<OperatorRun>) {}

    /// Takes note that `run` ends now; its workers can still be asked what they did.
    fn operator_ended(&self, _run: &Arc<OperatorRun>) {}

    /// Takes note of failed rows, for good: once it returns they are listed. How
    /// many rows this function has failed on in the query of `context` so far,
    /// over all its tasks; 0 where each task counts for itself.
    ///
    /// # Errors
    /// When there is no room for them, or who keeps them cannot be reached. A host
    /// without a list refuses what is to be listed.
    async fn report_failed_rows(
        &self,
        _context: &TaskContext,
        failed: FailedRows,
    ) -> Result<u64, UdfError> {
        match failed.rows.is_empty() {
            true => Ok(0),
            false => Err(UdfError::DeadLetter {
                function: failed.function,
                problem: "this program keeps no list. Use on_error => 'drop'".into(),
            }),
        }
    }
}

/// A [`TaskHost`] as an extension of DataFusion's session configuration.
#[derive(Debug, Clone)]
pub struct TaskHostHandle(pub Arc<dyn TaskHost>);

impl TaskHostHandle {
    /// The host of the task that `context` belongs to.
    ///
    /// # Errors
    /// An internal error when the session was built without one.
    pub fn of(context: &TaskContext) -> Result<Arc<dyn TaskHost>> {
        let handle = context.session_config().get_extension::<Self>();
        handle.map(|handle| Arc::clone(&handle.0)).ok_or_else(|| {
            internal_datafusion_err!(
                "this session has no TaskHost: build its SessionConfig with_extension(Arc::new(TaskHostHandle(..)))"
            )
        })
    }
}
