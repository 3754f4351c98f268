//! What a call asks for of the processes that it runs in.
//!
//! Read from physical plans: before they start, to see whether there is as much, and to
//! claim it for all calls of a query at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use mobula_udfs::{Demand, Handling, Language, UdfCall};

use super::exec::{MapBatchesExec, map_batches_exec};
use crate::config::MobulaOptions;

/// What a call asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct CallDemand {
    pub function: String,
    /// Of each worker.
    pub demand: Demand,
    /// Workers that it starts with, at least 1.
    pub workers: usize,
    /// Workers that it may have; `None`: as many as there is room for.
    pub most: Option<usize>,
    /// See [`MapBatchesExec::call_id`].
    pub call_id: u64,
    /// Whether it has no more than `workers` at first, and more or fewer as its load says.
    pub follows: bool,
}

impl CallDemand {
    /// Whether it takes some of what a process has; else it asks for labels alone.
    pub fn takes_resources(&self) -> bool {
        self.demand.takes_resources()
    }
}

impl MapBatchesExec {
    /// What it asks for, if it does.
    pub fn demand(&self) -> Option<CallDemand> {
        let Handling {
            demand,
            min_workers,
            keyed,
            ..
        } = &self.call().handling;
        // As many as there are cores, or resources: one to start with.
        let most = self.concurrency().unwrap_or(1);
        let workers = min_workers.map_or(most, |least| least.clamp(1, most));
        // The lanes of a keyed call are so many, and threads start as they are needed.
        let may_follow = keyed.is_none() && self.call().spec.language == Language::Python;
        (!demand.is_none()).then(|| CallDemand {
            function: self.call().spec.name.clone(),
            demand: demand.clone(),
            workers,
            most: self.concurrency(),
            call_id: self.call_id(),
            follows: may_follow && self.concurrency() != Some(workers),
        })
    }
}

/// A call that asks for something, as its query makes it.
#[derive(Debug, Clone)]
pub struct DemandingCall {
    pub demand: CallDemand,
    /// With the limits of the session.
    pub call: Arc<UdfCall>,
}

/// The calls of `plan` that ask for something, in the order of [`demands`], under
/// `options`.
///
/// # Errors
/// None of its own.
pub fn demanding_calls(
    plan: &Arc<dyn ExecutionPlan>,
    options: &MobulaOptions,
) -> Result<Vec<DemandingCall>> {
    let mut calls = vec![];
    plan.apply(|node| {
        let exec = map_batches_exec(node.as_ref());
        calls.extend(exec.and_then(|exec| {
            Some(DemandingCall {
                demand: exec.demand()?,
                call: Arc::new(exec.call_under(options)),
            })
        }));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(calls)
}

/// The names of the actors and pools that `plan` calls, each once.
///
/// # Errors
/// None of its own.
pub fn actors_called(plan: &Arc<dyn ExecutionPlan>) -> Result<BTreeSet<String>> {
    let mut called = BTreeSet::new();
    plan.apply(|node| {
        let exec = map_batches_exec(node.as_ref());
        let method = exec.and_then(|exec| exec.call().spec.actor.as_ref());
        called.extend(method.map(|method| method.actor.clone()));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(called)
}

/// What the calls of `plan` ask for, of those that ask for something.
///
/// # Errors
/// None of its own.
pub fn demands(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<CallDemand>> {
    let mut demands = vec![];
    plan.apply(|node| {
        demands.extend(map_batches_exec(node.as_ref()).and_then(MapBatchesExec::demand));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(demands)
}
