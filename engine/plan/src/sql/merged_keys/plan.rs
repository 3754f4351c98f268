//! Plans a chain of joins whose keys merge.

use std::sync::Arc;

use datafusion::common::{Column, DFSchema, ExprSchema, JoinType, Result, TableReference};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection, col};
use datafusion::sql::sqlparser::ast::{Join, JoinConstraint, TableFactor, TableWithJoins};

use super::KeyNamesNode;
use super::chain::{self, Sides};
use crate::error::PlanError;

/// Plans `relation` if it is a chain in parentheses with such a join in it.
pub fn plan(
    relation: TableFactor,
    context: &mut dyn RelationPlannerContext,
) -> Result<RelationPlanning> {
    let TableFactor::NestedJoin {
        table_with_joins,
        alias,
    } = relation
    else {
        return Ok(RelationPlanning::Original(Box::new(relation)));
    };
    let sides = Sides::of_alias(alias.as_ref());
    let last = chain::merging(&table_with_joins)
        .iter()
        .rposition(|is_merging| *is_merging);
    let alias = alias.filter(|_| sides.is_none());
    let sides = sides.unwrap_or_default();
    let plan = match last {
        Some(last) => plan_to(last, *table_with_joins, &sides, context)?,
        None => {
            let original = TableFactor::NestedJoin {
                table_with_joins,
                alias,
            };
            return Ok(RelationPlanning::Original(Box::new(original)));
        }
    };
    let planned = PlannedRelation::new(plan, alias);
    Ok(RelationPlanning::Planned(Box::new(planned)))
}

/// Plans `chain`, whose last join that merges is number `last`: those behind it are
/// DataFusion's, and those before it that do not merge, with all before them.
fn plan_to(
    last: usize,
    mut chain: TableWithJoins,
    sides: &Sides,
    context: &mut dyn RelationPlannerContext,
) -> Result<LogicalPlan> {
    let behind = chain.joins.split_off(last + 1);
    if !behind.is_empty() {
        let relation = in_parentheses(chain, sides);
        return context.plan(in_parentheses(
            TableWithJoins {
                relation,
                joins: behind,
            },
            sides,
        ));
    }
    let qualifier = chain::qualifier(&chain);
    let before = chain::merging(&chain)
        .iter()
        .rposition(|is_merging| !is_merging);
    let merging = chain.joins.split_off(before.map_or(0, |before| before + 1));
    let first = match chain.joins.is_empty() {
        true => chain.relation,
        false => in_parentheses(chain, sides),
    };
    let merge = Merge { qualifier, sides };
    let mut left = context.plan(first)?;
    for join in merging {
        left = merge.join(left, join, context)?;
    }
    Ok(left)
}

fn in_parentheses(chain: TableWithJoins, sides: &Sides) -> TableFactor {
    TableFactor::NestedJoin {
        table_with_joins: Box::new(chain),
        alias: sides.clone().into_alias(),
    }
}

/// Joins relations of one chain.
struct Merge<'a> {
    /// What stands before its merged keys.
    qualifier: String,
    sides: &'a Sides,
}

impl Merge<'_> {
    fn join(
        &self,
        left: LogicalPlan,
        join: Join,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let Some((join_type, constraint)) = chain::keyed(&join.join_operator) else {
            return Err(refused(&join, "its keys do not merge"));
        };
        if chain::is_lateral(&join.relation) {
            let problem = "LATERAL does not go with keys that merge. Write ON and coalesce";
            return Err(refused(&join, problem));
        }
        let right = context.plan(join.relation.clone())?;
        let names = match constraint {
            JoinConstraint::Using(names) => {
                let mut keys = vec![];
                for name in names {
                    match name.0.as_slice() {
                        [part] if part.as_ident().is_some() => {
                            let ident = part.as_ident().cloned();
                            keys.extend(ident.map(|ident| context.normalize_ident(ident)));
                        }
                        _ => return Err(refused(&join, "USING takes names of columns")),
                    }
                }
                keys
            }
            _ => both_have(&left, &right),
        };
        let mut keys = vec![];
        for name in names {
            keys.push(Key {
                left: key(&left, &name)?,
                right: key(&right, &name)?,
                name,
            });
        }
        self.merge(left, right, join_type, &keys)
    }

    fn merge(
        &self,
        left: LogicalPlan,
        right: LogicalPlan,
        join_type: JoinType,
        keys: &[Key],
    ) -> Result<LogicalPlan> {
        let (left_schema, right_schema) = (Arc::clone(left.schema()), Arc::clone(right.schema()));
        let equal = keys
            .iter()
            .map(|key| col(key.left.clone()).eq(col(key.right.clone())));
        let joined = LogicalPlanBuilder::from(left)
            .join_on(right, join_type, equal)?
            .build()?;
        let mut columns = vec![];
        let (mut merged, mut sides) = (vec![], vec![]);
        for column in left_schema
            .columns()
            .into_iter()
            .chain(right_schema.columns())
        {
            let Some(key) = keys.iter().find(|key| key.name == column.name) else {
                columns.push(Expr::Column(column));
                continue;
            };
            if !self.sides.has(&key.name) && key.is_left(join_type) {
                // Under its own name, which those of expressions have in them.
                if column == key.left {
                    columns.push(Expr::Column(column));
                }
                continue;
            }
            if column == key.left {
                let value = key.value(join_type, &left_schema, &right_schema)?;
                let table = TableReference::bare(self.qualifier.as_str());
                columns.push(value.alias_qualified(Some(table.clone()), &key.name));
                if self.sides.has(&key.name) {
                    merged.push(Column::new(Some(table), &key.name));
                }
            }
            if self.sides.has(&key.name) && !is_merged(&column) {
                columns.push(Expr::Column(column.clone()));
                sides.push(column);
            }
        }
        let plan = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(joined))?);
        match merged.is_empty() {
            true => Ok(plan),
            false => {
                first_in_order(&merged, &sides)?;
                Ok(KeyNamesNode::try_new(plan, &merged, &sides)?.into_plan())
            }
        }
    }
}

/// A column that two relations are joined by.
struct Key {
    name: String,
    left: Column,
    right: Column,
}

impl Key {
    /// Whether that of whichever side has a row is the left one's.
    fn is_left(&self, join_type: JoinType) -> bool {
        matches!(join_type, JoinType::Inner | JoinType::Left)
    }

    /// That of whichever side has a row. Where it is surely one side's it is that column,
    /// through which filters and orders are seen.
    fn value(&self, join_type: JoinType, left: &DFSchema, right: &DFSchema) -> Result<Expr> {
        let (of_left, of_right) = (col(self.left.clone()), col(self.right.clone()));
        let data_type = |schema: &DFSchema, column| {
            let field = schema.field_from_column(column)?;
            Ok::<_, datafusion::common::DataFusionError>(field.data_type().clone())
        };
        let is_alike = data_type(left, &self.left)? == data_type(right, &self.right)?;
        Ok(match join_type {
            JoinType::Full => coalesce(vec![of_left, of_right]),
            JoinType::Right if is_alike => of_right,
            JoinType::Right => coalesce(vec![of_right, of_left]),
            _ => of_left,
        })
    }
}

/// The column `name` of `plan`, as DataFusion finds it: merged already, or the only one.
fn key(plan: &LogicalPlan, name: &str) -> Result<Column> {
    Column::from_name(name)
        .normalize_with_schemas_and_ambiguity_check(&[&[plan.schema()]], &plan.using_columns()?)
}

/// The names of columns of both, each once.
fn both_have(left: &LogicalPlan, right: &LogicalPlan) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for field in right.schema().fields() {
        let is_of_left = left
            .schema()
            .fields()
            .iter()
            .any(|f| f.name() == field.name());
        if is_of_left && !names.contains(field.name()) {
            names.push(field.name().clone());
        }
    }
    names
}

fn is_merged(column: &Column) -> bool {
    let table = column.relation.as_ref().map(TableReference::table);
    table.is_some_and(chain::is_qualifier)
}

/// Of columns with one name `*` has the first in their order, which must be a merged one.
fn first_in_order(merged: &[Column], sides: &[Column]) -> Result<(), PlanError> {
    let before = sides.iter().find(|side| {
        let key = merged.iter().find(|key| key.name == side.name);
        key.is_some_and(|key| *side < key)
    });
    match before {
        None => Ok(()),
        Some(side) => Err(PlanError::MergedKey {
            join: format!("USING ({})", side.name),
            problem: format!(
                "{} is not told apart from the merged key. Give its table an alias that begins with a letter",
                side.quoted_flat_name()
            ),
        }),
    }
}

fn refused(join: &Join, problem: &str) -> datafusion::common::DataFusionError {
    let join = join.to_string().trim().to_owned();
    let problem = problem.to_owned();
    PlanError::MergedKey { join, problem }.into()
}
