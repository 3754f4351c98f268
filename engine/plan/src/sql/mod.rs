//! From SQL text to statements, and from `FROM map_batches(…)` to a node.
//!
//! `statement` splits and parses (with `chain_limit`, `placeholder` and `table_argument` before
//! the parser, `create_function`, `create_actor`, `alter_pool` and `create_split` for our DDL, and `method_call` and `call_words` after it);
//! `merged_keys` is in both places, for JOIN … USING and NATURAL; `named_windows` writes out windows
//! of WINDOW; `walk` is how they all go through statements;
//! `actor_methods` makes functions of what a worker found in an actor's class; `relation` is
//! called back by DataFusion's planner; `call_options` reads options both in DDL and in calls
//! (`demand_options` those of resources, `overlap_options` those of async functions,
//! `pool_options` those of pools), `grouping` those of `map_groups`, which `keyed` has other
//! operators take as well, and `literal` what they are set to.

pub mod actor_methods;
pub mod alter_pool;
pub mod call_options;
pub mod call_words;
mod chain_limit;
pub(crate) mod check_call;
pub mod create_actor;
pub mod create_function;
pub mod create_split;
mod demand_options;
pub(crate) mod grouping;
mod keyed;
mod literal;
pub(crate) mod merged_keys;
pub mod method_call;
mod named_windows;
pub mod overlap_options;
mod placeholder;
pub mod pool_options;
mod reader;
pub mod relation;
mod repartition;
pub(crate) mod sql_type;
pub mod statement;
mod table_argument;
pub mod walk;

use datafusion::sql::sqlparser::ast::Ident;

/// An identifier as DataFusion stores it: lower case unless quoted.
pub(crate) fn normalized(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}
