//! How a plan starts: who takes part, what it needs first, where its tasks find that.
//!
//! Planning is repeated whenever the query has waited, because the set of executors may
//! have changed. What it has waited for it keeps: places for workers, and what its
//! actors ask for. These are started last, when nothing is waited for any more.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use mobula_plan::operator::keep::KeepNode;
use mobula_plan::operator::map_batches::{actors_called, demanding_calls, demands, is_interactive};
use mobula_plan::{Interactive, MobulaOptions, PlacedPool, QueryId};
use mobula_proto::cluster::QueryHeader;
use url::Url;

use crate::admission::{Admitted, Places};
use crate::base::channel::PeerChannels;
use crate::base::planner::{distributed_state, set_header};
use crate::coordinator::query::{LossGuard, QueryRun, suspect_lost};
use crate::engine::{Cluster, Engine};
use crate::error::ExecutionError;
use crate::executor::task_output::TaskOutput;
use crate::executor::task_run::TaskRun;
use crate::explain;
use crate::pool::directory::{extension, to_wire};
use crate::pool::starter::NotStarted;
use crate::query_header::query_header;
use crate::resource_check::{Has, check};
use crate::split::reads_split;
use crate::system_tables::SYSTEM_SCHEMA;

/// Who runs a query.
enum Participants {
    /// This process alone.
    Here,
    Executors(Vec<Url>),
}

/// A query on its way to its start.
struct Starting<'a> {
    query_id: String,
    plan: &'a LogicalPlan,
    /// The rules have been over `plan`.
    is_optimised: bool,
    places: &'a mut Places,
    /// What its tasks on executors are told.
    header: Option<QueryHeader>,
}

impl Engine {
    /// Starts `plan` under the settings of `state`. EXPLAIN shows what would
    /// run, distributed or not.
    ///
    /// # Errors
    /// What planning fails with, and UNAVAILABLE when the plan needs an
    /// executor and there is none.
    pub async fn run(&self, state: &SessionState, plan: LogicalPlan) -> Result<QueryRun> {
        self.run_statement(state, plan, "").await
    }

    /// As [`Self::run`], of the statement `sql`, which `system.queries` shows.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_statement(
        &self,
        state: &SessionState,
        plan: LogicalPlan,
        sql: &str,
    ) -> Result<QueryRun> {
        self.start(state, plan, false, sql).await
    }

    /// As [`Self::run_statement`], of a plan that `state` has optimised: it is planned
    /// physically alone.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_optimised(
        &self,
        state: &SessionState,
        plan: LogicalPlan,
        sql: &str,
    ) -> Result<QueryRun> {
        self.start(state, plan, true, sql).await
    }

    async fn start(
        &self,
        state: &SessionState,
        plan: LogicalPlan,
        is_optimised: bool,
        sql: &str,
    ) -> Result<QueryRun> {
        let query_id = uuid::Uuid::new_v4().simple().to_string();
        let mut places = Places::new(self.queries().list(&query_id, sql));
        loop {
            let starting = Starting {
                query_id: query_id.clone(),
                plan: &plan,
                is_optimised,
                places: &mut places,
                header: None,
            };
            let started = match self.participants(&plan)? {
                Participants::Here => self.run_here(state, starting).await,
                Participants::Executors(urls) => self.run_on(state, starting, urls).await,
            };
            if let Some(mut run) = started? {
                let tasks = self.process().tasks();
                run.stream = TaskOutput::of_last_stage(run.stream, tasks, &run.query_id);
                return Ok(run);
            }
        }
    }

    /// Whether anybody would run a query now that reads tables or calls functions.
    pub fn takes_tasks(&self) -> bool {
        let takes = |cluster: &Cluster| cluster.local.is_some() || !task_takers(cluster).is_empty();
        self.cluster().is_none_or(takes)
    }

    fn participants(&self, plan: &LogicalPlan) -> Result<Participants> {
        let Some(cluster) = self.cluster() else {
            return Ok(Participants::Here);
        };
        // A UNION would send each of its inputs to an executor of its own.
        if !needs_executor(plan)? || reads_split(plan)? {
            return Ok(Participants::Here);
        }
        let mut urls = task_takers(cluster);
        if cluster.local.is_some() {
            urls.push(cluster.url.clone());
        }
        match urls.len() {
            0 => Err(DataFusionError::External(Box::new(
                match cluster.control.members().is_empty() {
                    true => ExecutionError::NoExecutors {
                        coordinator: format!("grpc://{}", cluster.address),
                    },
                    false => ExecutionError::NoTaskTakers {
                        coordinator: format!("grpc://{}", cluster.address),
                    },
                },
            ))),
            1 => Ok(Participants::Here),
            _ => Ok(Participants::Executors(urls)),
        }
    }

    async fn run_on(
        &self,
        state: &SessionState,
        starting: Starting<'_>,
        urls: Vec<Url>,
    ) -> Result<Option<QueryRun>> {
        let Some(cluster) = self.cluster() else {
            return self.run_here(state, starting).await;
        };
        let process = self.process();
        let local = cluster
            .local
            .clone()
            .map(|tasks| (cluster.url.clone(), tasks));
        let channels = PeerChannels::of_query(
            process.channels().clone(),
            Arc::clone(process.traffic()),
            local,
        );
        let used = channels.used();
        let header = query_header(
            &starting.query_id,
            state.config_options(),
            process.stores().wire(starting.plan),
        );
        let alive = cluster.control.watch_alive();
        let state = distributed_state(state, urls, channels, &header)?;
        let starting = Starting {
            header: Some(header),
            ..starting
        };
        let started = self.run_here(&state, starting).await;
        let control = Arc::clone(&cluster.control);
        let started = started.inspect_err(|error| suspect_lost(&control, error))?;
        Ok(started.map(|mut run| {
            run.stream = Box::pin(LossGuard::new(run.stream, alive, used, control));
            run
        }))
    }

    /// Plans by the planner of `state` and starts. `None` when the query is to be
    /// planned again: it had to wait, and who takes part may have changed.
    async fn run_here(
        &self,
        state: &SessionState,
        starting: Starting<'_>,
    ) -> Result<Option<QueryRun>> {
        let Starting {
            query_id,
            plan,
            is_optimised,
            places,
            header,
        } = starting;
        if let Some(explain) = explain::explained(plan) {
            return explain::run(query_id, state, plan, explain, |plan| self.may_run(plan)).await;
        }
        let plan = match is_optimised {
            true => {
                state
                    .query_planner()
                    .create_physical_plan(plan, state)
                    .await?
            }
            false => state.create_physical_plan(plan).await?,
        };
        self.may_run(&plan)?;
        let line = self.cluster().map(|cluster| &cluster.starter.line);
        let admitted = self.admission().admit(&query_id, &plan, places, line);
        if admitted.await? {
            return Ok(None);
        }
        let Some(mut placed) = self.start_pools(state, &plan, places).await? else {
            return Ok(None);
        };
        let called = actors_called(&plan)?;
        places.calls(called.iter().cloned().collect());
        placed.extend(self.actors().placed(called));
        let last = self.process().tasks().last_stage(&query_id);
        let interactive = Interactive(is_interactive(&plan)?);
        let context = task_context(
            state,
            &query_id,
            Arc::clone(&last),
            (placed, interactive),
            header,
        )?;
        let stream = execute_stream(Arc::clone(&plan), context);
        let stream = stream.inspect_err(|_| last.failed_to_start())?;
        Ok(Some(QueryRun {
            query_id,
            stream: Admitted::wrap(stream, places),
            plan,
        }))
    }

    /// Starts what `places` has claimed of the cluster; `None`: later.
    async fn start_pools(
        &self,
        state: &SessionState,
        plan: &Arc<dyn ExecutionPlan>,
        places: &mut Places,
    ) -> Result<Option<Vec<PlacedPool>>> {
        let (Some(cluster), Some(claim)) = (self.cluster(), places.take_claim()) else {
            return Ok(Some(vec![]));
        };
        let options = state.config_options().extensions.get::<MobulaOptions>();
        let calls = demanding_calls(plan, options.unwrap_or(self.options()))?;
        let external = |error| DataFusionError::External(Box::new(error));
        match cluster.starter.start(claim, calls).await {
            Ok(pools) => Ok(Some(places.keep(pools))),
            Err(NotStarted::NotNow(reason)) => {
                let patience = self.admission().patience();
                places.ask_again(reason, patience).await?;
                Ok(None)
            }
            Err(NotStarted::Never(reason)) => {
                Err(external(ExecutionError::ActorsRefused { reason }))
            }
            Err(NotStarted::Call(error)) => Err(DataFusionError::External(Box::new(error))),
        }
    }

    /// Refuses a plan whose calls ask for what is not there.
    fn may_run(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
        let asked = demands(plan)?;
        if asked.is_empty() {
            return Ok(());
        }
        let hosts = match self.cluster() {
            Some(cluster) => {
                let hosts = cluster.starter.hosts().into_iter();
                let hosts = hosts.map(|host| Has {
                    id: host.executor_id,
                    capacity: host.capacity,
                });
                hosts.collect()
            }
            None => vec![Has {
                id: self.process().executor_id().to_owned(),
                capacity: self.process().ledger().capacity().clone(),
            }],
        };
        check(&asked, &hosts).map_err(|e| DataFusionError::External(Box::new(e)))
    }
}

/// The context of `last`, the last stage of query `query_id`, in this process; tasks of
/// others get `header`.
/// Executors that take tasks and are not known to be lost.
fn task_takers(cluster: &Cluster) -> Vec<Url> {
    let members = cluster.control.members().into_iter();
    let takers = members.filter(|m| !m.is_suspect && m.roles.tasks);
    takers.map(|m| m.url).collect()
}

fn task_context(
    state: &SessionState,
    query_id: &str,
    last: Arc<TaskRun>,
    (placed, interactive): (Vec<PlacedPool>, Interactive),
    header: Option<QueryHeader>,
) -> Result<Arc<TaskContext>> {
    let context = TaskContext::from(state);
    let config = context.session_config().clone();
    let mut config = config.with_extension(Arc::new(QueryId(query_id.to_owned())));
    if let Some(mut header) = header.filter(|_| !placed.is_empty() || interactive.0) {
        header.pools = to_wire(&placed);
        header.is_interactive = interactive.0;
        set_header(&mut config, &header)?;
    }
    let config = config
        .with_extension(extension(placed))
        .with_extension(Arc::new(interactive))
        .with_extension(last);
    Ok(Arc::new(context.with_session_config(config)))
}

/// True when `plan` reads a table or calls user code: constants, DDL and the
/// schemas that live on the coordinator need no executor.
fn needs_executor(plan: &LogicalPlan) -> Result<bool> {
    let mut needs = false;
    plan.apply_with_subqueries(|node| {
        needs |= match node {
            LogicalPlan::TableScan(scan) => !scan
                .table_name
                .schema()
                .is_some_and(|s| s == SYSTEM_SCHEMA || s == "information_schema"),
            // What is kept may be made of constants.
            LogicalPlan::Extension(extension) => !extension.node.as_any().is::<KeepNode>(),
            _ => false,
        };
        Ok(match needs {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(needs)
}
