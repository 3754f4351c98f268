//! The logical half: the rows and columns of its input, so that nearly everything
//! moves past it.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use datafusion::common::{Column, DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use super::{MAX_PARTITIONS, MAX_ROWS_PER_BLOCK, SQL_NAME};
use crate::error::PlanError;

/// What is asked of streams and blocks. At least one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd)]
pub struct Repartition {
    /// Streams over the whole cluster.
    pub partitions: Option<usize>,
    /// Columns whose equal values come in one stream; none: rows in turn.
    pub by: Vec<Column>,
    /// Rows of a block; the last of a stream may have fewer.
    pub rows_per_block: Option<usize>,
}

impl Repartition {
    /// Whether rows change their stream.
    pub fn spreads(&self) -> bool {
        self.partitions.is_some() || !self.by.is_empty()
    }

    fn check(&self) -> Result<(), PlanError> {
        let limits = [
            ("partitions", self.partitions, MAX_PARTITIONS),
            ("rows_per_block", self.rows_per_block, MAX_ROWS_PER_BLOCK),
        ];
        for (option, value, most) in limits {
            if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
                return Err(PlanError::OptionValue {
                    owner: SQL_NAME.into(),
                    option: option.into(),
                    value: value.to_string(),
                    expected: format!("a number from 1 to {most}"),
                });
            }
        }
        match self.spreads() || self.rows_per_block.is_some() {
            true => Ok(()),
            false => Err(PlanError::Relation {
                operator: SQL_NAME,
                problem: "it says neither how many streams nor which blocks. Write a number of partitions, by => (column, …) or rows_per_block => n".into(),
            }),
        }
    }
}

/// `Repartition` in a logical plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepartitionNode {
    input: LogicalPlan,
    how: Repartition,
}

impl RepartitionNode {
    /// # Errors
    /// Numbers out of range, and when nothing is asked for.
    pub fn try_new(input: LogicalPlan, how: Repartition) -> Result<Self, PlanError> {
        how.check()?;
        Ok(Self { input, how })
    }

    /// The node as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension {
            node: Arc::new(self),
        })
    }

    pub fn how(&self) -> &Repartition {
        &self.how
    }

    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }

    /// Whether an order of the input is that of the output.
    pub fn keeps_order(&self) -> bool {
        !self.how.spreads()
    }
}

impl PartialOrd for RepartitionNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.how.partial_cmp(&other.how)? {
            Ordering::Equal => self.input.partial_cmp(&other.input),
            order => Some(order),
        }
    }
}

impl UserDefinedLogicalNodeCore for RepartitionNode {
    fn name(&self) -> &'static str {
        "Repartition"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.how.by.iter().cloned().map(Expr::Column).collect()
    }

    /// Any filter may run below: what it leaves is then spread and cut.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repartition: ")?;
        let by: Vec<_> = self.how.by.iter().map(Column::flat_name).collect();
        let asked = [
            self.how.partitions.map(|n| format!("partitions={n}")),
            (!by.is_empty()).then(|| format!("by=[{}]", by.join(", "))),
            self.how
                .rows_per_block
                .map(|n| format!("rows_per_block={n}")),
        ];
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        f.write_str(&asked.join(", "))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([input]) = <[LogicalPlan; 1]>::try_from(inputs) else {
            return internal_err!("Repartition has one input");
        };
        let by = exprs.into_iter().map(|expr| match expr {
            Expr::Column(column) => Ok(column),
            other => internal_err!("Repartition goes by columns, not by {other}"),
        });
        let how = Repartition {
            by: by.collect::<Result<_>>()?,
            ..self.how.clone()
        };
        Ok(Self { input, how })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed: BTreeSet<usize> = output_columns.iter().copied().collect();
        for column in &self.how.by {
            needed.insert(self.input.schema().maybe_index_of_column(column)?);
        }
        Some(vec![needed.into_iter().collect()])
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }
}
