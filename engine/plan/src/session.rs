//! Makes a DataFusion session one of ours.
//!
//! The only entry a host needs: it sets what planning with our operators takes
//! and nothing about execution. The host puts a
//! [`TaskHostHandle`](crate::TaskHostHandle) into the session's configuration
//! if plans are to run.

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;

use crate::config::MobulaOptions;
use crate::function_catalog::FunctionCatalog;
use crate::physical_planner::MobulaQueryPlanner;
use crate::rule;
use crate::sql::relation::OperatorPlanner;
use crate::sql::sql_type::MoreTypes;
use crate::udf::scalar_udf;

/// What planning is done with.
#[derive(Debug, Clone)]
pub struct MobulaPlanning {
    /// The functions SQL may call.
    pub functions: Arc<FunctionCatalog>,
    /// Settings of the session.
    pub options: MobulaOptions,
}

/// `with_mobula`, for DataFusion's builder.
pub trait SessionStateBuilderExt {
    /// Adds our SQL, rules, planner and options. Call it after `with_config`
    /// and `with_default_features`, and before a planner that wraps the query
    /// planner. ORDER BY in a subquery is kept from here on: the input of an
    /// operator may be ordered.
    fn with_mobula(self, planning: MobulaPlanning) -> Self;
}

impl SessionStateBuilderExt for SessionStateBuilder {
    fn with_mobula(mut self, planning: MobulaPlanning) -> Self {
        let MobulaPlanning { functions, options } = planning;
        let config = self.config().get_or_insert_default();
        // Where operators of a DataFrame find them.
        config.set_extension(Arc::clone(&functions));
        let config = config.options_mut();
        config.extensions.insert(options);
        config.sql_parser.enable_subquery_sort_elimination = false;
        let scalar = functions.list().into_iter();
        self.scalar_functions()
            .get_or_insert_default()
            .extend(scalar.map(scalar_udf));
        let relations = Arc::new(OperatorPlanner::new(functions));
        self.relation_planners()
            .get_or_insert_default()
            .push(relations);
        self = self.with_type_planner(Arc::new(MoreTypes));
        for rule in rule::analyzer_rules() {
            self = self.with_analyzer_rule(rule);
        }
        self = self.with_optimizer_rules(rule::optimizer_rules_before());
        for rule in rule::optimizer_rules() {
            self = self.with_optimizer_rule(rule);
        }
        self = self.with_physical_optimizer_rules(rule::physical_rules_before());
        for rule in rule::physical_rules() {
            self = self.with_physical_optimizer_rule(rule);
        }
        self.with_query_planner(Arc::new(MobulaQueryPlanner))
    }
}
