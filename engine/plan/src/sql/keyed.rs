//! `partition_by` of the operators other than `map_groups`: rows of a key go to one actor.
//!
//! ```text
//! map_batches(TABLE(q), account, partition_by => (k), order_by => at,
//!             concurrency => 4, snapshot_every => 10)
//! ```
//!
//! A named actor, or pool, has the rows of its keys in all queries: as many streams lead to it
//! as it has actors, whoever calls it.
//!
//! Refuses calls for which that means nothing, and options that mean nothing without it.

use std::sync::Arc;

use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::LogicalPlan;
use mobula_udfs::{CallMode, FunctionSpec, Language, Literal, PoolBounds};

use super::call_options::CallOptions;
use super::relation::{node, relation, without_qualifiers};
use crate::error::PlanError;
use crate::operator::Operator;
use crate::operator::map_batches::{FunctionCall, Grouping, MapBatchesNode};

/// The node of `op` over `input` whose rows go to actors by key, those of `pool` if it is of
/// one; `grouping` finds keys and order in the input.
pub(crate) fn keyed_over(
    op: &Operator,
    input: LogicalPlan,
    (spec, pool): (Arc<FunctionSpec>, Option<PoolBounds>),
    args: Vec<(String, Literal)>,
    options: &CallOptions,
    grouping: impl FnOnce(&DFSchema) -> Result<Option<Grouping>, PlanError>,
) -> Result<MapBatchesNode> {
    check(op, &spec, pool, options)?;
    let input = without_qualifiers(input, &spec.name)?;
    let keys = grouping(input.schema())?;
    let every = options.snapshot_every_of(&spec);
    let named = spec.is_method().then(|| pool.map_or(1, |pool| pool.max));
    let call = FunctionCall::new(spec, op.mode, args, options).keyed(every, named);
    Ok(node(input, call)?.with_keys(keys))
}

/// Refuses a function that has no actors of its own, or none whose rows keep an order.
fn check(
    op: &Operator,
    spec: &FunctionSpec,
    pool: Option<PoolBounds>,
    options: &CallOptions,
) -> Result<(), PlanError> {
    let name = &spec.name;
    let most = options.concurrency_of(spec);
    let is_range = options.handling_of(spec).min_workers.is_some();
    let changes = pool.filter(|pool| pool.min < pool.max);
    let problem = if let Some(PoolBounds { min, max, .. }) = changes {
        format!(
            "\"{name}\" is of a pool of {min} to {max} actors, and a key stays with its actor, so how many there are cannot change. ALTER ACTOR POOL can make its min and its max the same, or leave partition_by out"
        )
    } else if spec.language == Language::Native {
        format!("\"{name}\" is native, and partition_by is for classes in Python")
    } else if !spec.object.is_class() {
        format!(
            "\"{name}\" is a def and keeps nothing from block to block. Call it by map_groups, or make it a class"
        )
    } else if spec.object.is_async() {
        format!(
            "\"{name}\" is async and has many rows in flight in no order. Make __call__ a plain def for partition_by"
        )
    } else if !spec.is_method() && (is_range || most.is_none()) {
        "a key stays with its actor, so how many there are cannot change. Write concurrency => n"
            .to_owned()
    } else {
        return Ok(());
    };
    Err(relation(op, &problem))
}

/// Refuses what is said of the state of keyed actors where there are none.
///
/// # Errors
/// [`PlanError::Relation`].
pub(crate) fn refuse_snapshots(op: &Operator, options: &CallOptions) -> Result<(), PlanError> {
    match options.snapshot_every {
        Some(_) if op.mode == CallMode::Groups => Err(relation(
            op,
            "a group is seen as a whole, by any worker. snapshot_every is an option of the other operators with partition_by",
        )),
        Some(_) => Err(relation(
            op,
            "snapshot_every says nothing without partition_by => (column, …)",
        )),
        None => Ok(()),
    }
}
