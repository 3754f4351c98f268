//! Splits: queries whose rows several readers share.
//!
//! The engine has them under names that all sessions know, so that readers may be elsewhere;
//! they end with the session that made them. Each epoch runs the query as it was planned, with
//! the settings of that time, and takes what its tables and files have by then.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use datafusion::common::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use mobula_execution::{Dealing, Split};
use mobula_plan::{DropSplit, PlanError, result_schema};

use super::prepared::NewSplit;
use super::{Outcome, Session, run_plan};
use crate::ServerError;

impl Session {
    pub(super) fn create_split(
        &self,
        create: &NewSplit,
        sql: &str,
    ) -> Result<Outcome, ServerError> {
        let (database, state) = (Arc::downgrade(self.database()), self.state());
        // Rows that were loaded stay for it.
        let read = self.database().loaded().read_by(&create.plan)?;
        let query = Arc::new((create.plan.clone(), state, sql.to_owned()));
        let open = move || {
            let _held = &read;
            let (database, query) = (Weak::clone(&database), Arc::clone(&query));
            Box::pin(async move {
                let (plan, state, sql) = query.as_ref();
                let database = database.upgrade().ok_or_else(|| {
                    DataFusionError::Execution("the server is going down".to_owned())
                })?;
                // What `now()` is, and the like.
                let mut state = state.clone();
                state.mark_start_execution();
                match run_plan(&database, &state, plan, false, sql).await {
                    Ok(run) => Ok(run.stream),
                    Err(ServerError::Query(error)) => Err(error),
                    Err(error) => Err(DataFusionError::Execution(error.to_string())),
                }
            }) as _
        };
        let dealing = match create.is_equal {
            true => Dealing::Equal,
            false => Dealing::AsTheyCome,
        };
        let split = Split::new(
            create.name.clone(),
            sql.to_owned(),
            create.readers,
            dealing,
            result_schema(&create.plan),
            Box::new(open),
        );
        let split = self.database().engine().splits().add(split)?;
        let mut own = self.splits.lock();
        own.retain(|split| split.strong_count() > 0);
        own.push(split);
        Ok(Outcome::Affected(None))
    }

    pub(super) fn drop_split(&self, drop: &DropSplit) -> Result<Outcome, ServerError> {
        match self.database().engine().splits().remove(&drop.name) || drop.if_exists {
            true => Ok(Outcome::Affected(None)),
            false => Err(ServerError::Missing {
                kind: "split",
                name: drop.name.clone(),
            }),
        }
    }

    pub(super) fn end_splits(&self) {
        let splits = std::mem::take(&mut *self.splits.lock());
        for split in splits.iter().filter_map(Weak::upgrade) {
            self.database().engine().splits().remove_own(&split);
        }
    }

    /// How long nobody has read one of its splits; `None` without any.
    pub fn splits_idle_for(&self, now: Instant) -> Option<Duration> {
        let splits = self.splits.lock();
        let there = splits.iter().filter_map(Weak::upgrade);
        there.map(|split| split.idle_for(now)).min()
    }
}

/// Refuses what is no query.
pub(super) fn check_query(split: &str, plan: &LogicalPlan) -> Result<(), PlanError> {
    let is_query = !matches!(
        plan,
        LogicalPlan::Ddl(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
            | LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_)
            | LogicalPlan::DescribeTable(_)
    );
    match is_query {
        true => Ok(()),
        false => Err(PlanError::Split {
            split: split.to_owned(),
            problem: "what is shared are the rows of a query: AS SELECT …".to_owned(),
        }),
    }
}
