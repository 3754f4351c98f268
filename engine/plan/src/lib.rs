//! Planning: SQL text to extended logical plans, rules, and execs.
//!
//! Opens no socket, starts no process, reads no clock while planning: the same
//! SQL, settings and statistics give the same plan. Execs see their process only
//! through [`TaskHost`].
//!
//! A query goes `sql::statement` → DataFusion's planner, which calls
//! `sql::relation` → node (`operator`) → `rule` → `physical_planner` → exec, and
//! through `codec` to other executors.

pub mod codec;
pub mod config;
pub mod dataframe;
pub mod error;
pub mod function_catalog;
pub mod kept;
pub mod nearest;
pub mod operator;
pub mod operator_run;
pub mod parameters;
pub mod physical_planner;
mod result_schema;
pub mod rule;
pub mod session;
pub mod sql;
pub mod task_host;
mod text_source;
pub mod udf;

#[cfg(test)]
mod test_session;

pub use codec::MobulaCodec;
pub use config::{
    MobulaOptions, PlanningOptions, SETTINGS, Scope, Setting, SettingKind, settings_markdown,
};
pub use dataframe::{Call, MobulaDataFrame};
pub use error::PlanError;
pub use function_catalog::FunctionCatalog;
pub use kept::{Hold, KeptBlocks, KeptName, KeptPart, KeptWriter, PlacedPart};
pub use operator::keep::{keep, parts_of};
pub use operator::kept_scan::KeptScanExec;
pub use operator::map_batches::{MapBatchesExec, SortWay, map_batches_exec};
pub use operator::repartition::{Repartition, SpreadExec, TaskLimit};
pub use operator_run::{OperatorFigures, OperatorId, OperatorRun, RunMetrics, StreamFigures};
pub use result_schema::result_schema;
pub use session::{MobulaPlanning, SessionStateBuilderExt};
pub use sql::actor_methods::{actor_methods, quoted};
pub use sql::alter_pool::AlterPool;
pub use sql::call_words::misplaced_words;
pub use sql::create_actor::{CreateActor, DropActor};
pub use sql::create_function::CreateFunction;
pub use sql::create_split::{CreateSplit, DropSplit};
pub use sql::method_call::unknown_method;
pub use sql::overlap_options::check_overlap;
pub use sql::statement::{MobulaStatement, Parsed, parse, parse_statements};
pub use sql::walk::{Walker, walk_statement};
pub use task_host::{
    FailedRows, Interactive, ListedRow, PlacedPool, PlacedPools, PoolHost, QueryId, TaskEnd,
    TaskHost, TaskHostHandle,
};
pub use text_source::{JsonLayout, TextFormat, TextSource, TypesFrom};
pub use udf::scalar_udf;
