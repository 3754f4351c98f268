//! Work of ours around a physical rule of DataFusion's, in its place and under its name.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

/// The rule of DataFusion's that adds, moves and leaves out sorts and exchanges.
pub const ENSURE: &str = "EnsureRequirements";

/// A rule of a physical optimizer.
pub type PhysicalRule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// What is done where a rule of DataFusion's would run, which it is given.
pub type Around =
    fn(&PhysicalRule, Arc<dyn ExecutionPlan>, &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>>;

/// `work` in place of `rule` if that has one of `names`, else `rule`.
pub fn around(rule: PhysicalRule, names: &[&str], work: Around) -> PhysicalRule {
    match names.contains(&rule.name()) {
        true => Arc::new(InPlace { rule, work }),
        false => rule,
    }
}

#[derive(Debug)]
struct InPlace {
    rule: PhysicalRule,
    work: Around,
}

impl PhysicalOptimizerRule for InPlace {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        (self.work)(&self.rule, plan, config)
    }

    fn schema_check(&self) -> bool {
        self.rule.schema_check()
    }
}
