//! `FROM repartition(input [, partitions] [, option => value, …]) [AS alias]`.
//!
//! ```text
//! input           (query), as for the other operators
//! partitions      streams, by its place or as partitions => n (also num_partitions)
//! by              a | (a, b)
//! rows_per_block  rows of a block
//! ```

use datafusion::common::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, FunctionArg, TableFactor};
use mobula_udfs::Literal;

use super::call_options::literal;
use super::grouping::{column, listed};
use super::relation::{read_input, refused, split, without_qualifiers};
use crate::error::PlanError;
use crate::nearest;
use crate::operator::repartition::{Repartition, RepartitionNode, SQL_NAME};

const OPTIONS: &[&str] = &["partitions", "by", "rows_per_block"];

/// Options of Ray Data's `repartition`, and what to do here instead.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "shuffle",
        "Rows come to the streams in turn, from all inputs. Write ORDER BY random() in the input to mix them",
    ),
    ("keys", "Write by => (column, …)"),
    (
        "sort",
        "Streams have no order. Sort inside map_groups by order_by, or the result by ORDER BY",
    ),
    ("num_blocks", "Write the number of streams as partitions"),
    ("target_num_rows_per_block", "Write rows_per_block => n"),
];

/// The node of the arguments; `plan_input` makes a plan of a query.
///
/// # Errors
/// Unknown options, options given twice, values out of range, and columns that the
/// input has not.
pub(super) fn plan(
    args: Vec<FunctionArg>,
    plan_input: impl FnOnce(TableFactor) -> Result<LogicalPlan>,
) -> Result<RepartitionNode> {
    let Written {
        input,
        partitions,
        by,
        rows_per_block,
    } = Written::read(args)?;
    let Some(input) = input else {
        let problem = "it takes an input. Write repartition(TABLE(query), partitions), repartition(TABLE(query), by => (column, …)) or repartition(TABLE(query), rows_per_block => n)";
        return Err(refused(SQL_NAME, problem).into());
    };
    let input = without_qualifiers(plan_input(read_input(SQL_NAME, input)?)?, SQL_NAME)?;
    let by = by.map(listed).unwrap_or_default().into_iter();
    let by = by.map(|key| column(SQL_NAME, "by", key, input.schema()));
    let how = Repartition {
        partitions: partitions.map(|n| count("partitions", &n)).transpose()?,
        by: by.collect::<Result<_, PlanError>>()?,
        rows_per_block: rows_per_block
            .map(|n| count("rows_per_block", &n))
            .transpose()?,
    };
    Ok(RepartitionNode::try_new(input, how)?)
}

/// The arguments as they stand.
#[derive(Default)]
struct Written {
    input: Option<SqlExpr>,
    partitions: Option<SqlExpr>,
    by: Option<SqlExpr>,
    rows_per_block: Option<SqlExpr>,
}

impl Written {
    fn read(args: Vec<FunctionArg>) -> Result<Self, PlanError> {
        let mut written = Self::default();
        for (at, arg) in args.into_iter().enumerate() {
            let (name, value) = split(SQL_NAME, arg)?;
            let name = match (name.as_deref(), at) {
                (Some(name), _) => name,
                (None, 0) => "input",
                (None, 1) => "partitions",
                (None, _) => {
                    let problem =
                        format!("unexpected argument {value}. Write options as name => value");
                    return Err(refused(SQL_NAME, &problem));
                }
            };
            let place = match name {
                "input" => &mut written.input,
                "partitions" | "num_partitions" => &mut written.partitions,
                "by" => &mut written.by,
                "rows_per_block" => &mut written.rows_per_block,
                other => return Err(unknown(other)),
            };
            if place.replace(value).is_some() {
                return Err(PlanError::OptionTwice {
                    owner: SQL_NAME.into(),
                    option: name.into(),
                });
            }
        }
        Ok(written)
    }
}

fn unknown(option: &str) -> PlanError {
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == option);
    match elsewhere {
        Some((_, instead)) => PlanError::OptionElsewhere {
            owner: SQL_NAME.into(),
            option: option.into(),
            instead,
        },
        None => {
            let hint = nearest::hint(option, OPTIONS.iter().copied());
            let problem = format!(
                "it has no option \"{option}\". Options are {}{hint}",
                OPTIONS.join(", ")
            );
            refused(SQL_NAME, &problem)
        }
    }
}

/// A number of things; ranges are the node's to check.
fn count(option: &str, value: &SqlExpr) -> Result<usize, PlanError> {
    let found = match literal(value) {
        Some(Literal::Int(n)) => usize::try_from(n).ok(),
        _ => None,
    };
    found.ok_or_else(|| PlanError::OptionValue {
        owner: SQL_NAME.into(),
        option: option.into(),
        value: value.to_string(),
        expected: "a whole number from 1".into(),
    })
}
