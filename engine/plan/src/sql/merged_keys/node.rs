//! `KeyNames` says that columns of its input have one name between them: `k` of a merged key
//! and of its sides.
//!
//! DataFusion reads that off joins with USING below, for `*` and for names without a table
//! in front, and takes the first. Its second input is such a join, of nothing, and never
//! runs: [`rule::drop_key_names`](crate::rule::drop_key_names) takes the node away before
//! anything is optimized. A plan of it is the plan of its first input.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{
    Column, DFSchema, DFSchemaRef, JoinConstraint, JoinType, NullEquality, Result, internal_err,
};
use datafusion::logical_expr::{
    EmptyRelation, Expr, Extension, Join, LogicalPlan, UserDefinedLogicalNodeCore,
};

/// `KeyNames` in a logical plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Hash)]
pub(crate) struct KeyNamesNode {
    input: LogicalPlan,
    names: LogicalPlan,
}

impl KeyNamesNode {
    /// Binds each of `merged` to the columns of its name in `sides`.
    pub fn try_new(input: LogicalPlan, merged: &[Column], sides: &[Column]) -> Result<Self> {
        let pairs = merged.iter().flat_map(|key| {
            let sides = sides.iter().filter(|side| side.name == key.name);
            sides.map(|side| (Expr::Column(key.clone()), Expr::Column(side.clone())))
        });
        let names = Join::try_new(
            Arc::new(nothing(merged)?),
            Arc::new(nothing(sides)?),
            pairs.collect(),
            None,
            JoinType::Inner,
            JoinConstraint::Using,
            NullEquality::NullEqualsNothing,
            false,
        )?;
        let names = LogicalPlan::Join(names);
        Ok(Self { input, names })
    }

    /// The node as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension {
            node: Arc::new(self),
        })
    }

    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }
}

/// No rows of `columns`. Their types mean nothing, and are alike.
fn nothing(columns: &[Column]) -> Result<LogicalPlan> {
    let fields = columns.iter().map(|column| {
        let field = Field::new(&column.name, DataType::Boolean, true);
        (column.relation.clone(), Arc::new(field))
    });
    let schema = DFSchema::new_with_metadata(fields.collect(), Default::default())?;
    Ok(LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: Arc::new(schema),
    }))
}

impl UserDefinedLogicalNodeCore for KeyNamesNode {
    fn name(&self) -> &'static str {
        "KeyNames"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input, &self.names]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyNames")
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([input, names]) = <[LogicalPlan; 2]>::try_from(inputs) else {
            return internal_err!("KeyNames has two inputs");
        };
        Ok(Self { input, names })
    }
}
