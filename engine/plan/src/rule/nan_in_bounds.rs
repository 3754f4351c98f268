//! Keeps statistics of Parquet away from filters that NaN passes.
//!
//! ```text
//! DataSourceExec: predicate=x > 5    →    DataSourceExec: predicate=CASE WHEN x > 5 THEN true ELSE false END
//! ```
//!
//! NaN is above all numbers, and the minima and maxima that Parquet notes leave it out: a row group or
//! a page whose numbers are 1 to 3 may have rows for `x > 5` and for `x = 'NaN'`. By its statistics it
//! would be left out, with its NaN. Within a CASE a condition means the same and is not looked up in
//! statistics.
//!
//! Conditions that no NaN passes (`x < 5`, `x = 5`) stay as they are, and so do all others of a column
//! beside one of those: both of `x BETWEEN 1 AND 5`, and `x > 5` where `NOT isnan(x)` is asked as well.
//! What is asked of other columns is looked up as ever.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::functions::math::nans::IsNanFunc;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, Literal, NegativeExpr,
    NotExpr, TryCastExpr, case, lit,
};
use datafusion::physical_expr::utils::{collect_columns, conjunction, split_conjunction};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;

type Condition = Arc<dyn PhysicalExpr>;

/// The rule; see the head of this file. Runs after filters of joins and sorts have come to the scans.
#[derive(Debug, Default)]
pub struct NanInBounds;

impl PhysicalOptimizerRule for NanInBounds {
    fn name(&self) -> &str {
        "nan_in_bounds"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let orders = orders_of_filters(&plan)?;
        plan.transform_up(|node| match scan(node.as_ref(), &orders)? {
            Some(scan) => Ok(Transformed::yes(scan)),
            None => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether the smallest come first, for each key of the sorts that narrow what scans read, by the
/// identity of the filter by which they do.
type Orders = HashMap<u64, Vec<bool>>;

fn orders_of_filters(plan: &Arc<dyn ExecutionPlan>) -> Result<Orders> {
    let mut orders = Orders::new();
    plan.apply(|node| {
        if let Some(sort) = node.downcast_ref::<SortExec>() {
            let up: Vec<bool> = sort
                .expr()
                .iter()
                .map(|key| !key.options.descending)
                .collect();
            let filters = sort.dynamic_expressions_produced();
            let ids = filters.iter().filter_map(|filter| filter.expression_id());
            orders.extend(ids.map(|id| (id, up.clone())));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(orders)
}

/// `node` with another predicate, if it is a scan of Parquet with one that asks for numbers.
fn scan(node: &dyn ExecutionPlan, orders: &Orders) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(scan) = node.downcast_ref::<DataSourceExec>() else {
        return Ok(None);
    };
    let Some(config) = scan.data_source().downcast_ref::<FileScanConfig>() else {
        return Ok(None);
    };
    let Some(source) = config.file_source().downcast_ref::<ParquetSource>() else {
        return Ok(None);
    };
    let Some(before) = config.file_source().filter() else {
        return Ok(None);
    };
    let asked = Asked {
        schema: config.file_source().table_schema().table_schema(),
        orders,
    };
    let mut predicate = asked.looked_up(&before, &HashSet::new())?;
    if source.table_parquet_options().global.pushdown_filters {
        predicate = asked.evaluated_too(&before, predicate)?;
    }
    if predicate == before {
        return Ok(None);
    }
    let source = source.with_predicate(predicate);
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source));
    Ok(Some(DataSourceExec::from_data_source(config.build())))
}

/// What is asked of the columns of `schema`.
struct Asked<'a> {
    schema: &'a Schema,
    orders: &'a Orders,
}

impl Asked<'_> {
    /// `condition`, whose parts are looked up in statistics where those tell all of it. Of the columns
    /// `safe` no NaN passes what stands beside it.
    fn looked_up(&self, condition: &Condition, safe: &HashSet<Column>) -> Result<Condition> {
        match condition.downcast_ref::<BinaryExpr>() {
            Some(and) if *and.op() == Operator::And => {
                let parts = split_conjunction(condition);
                let mut safe = safe.clone();
                safe.extend(parts.iter().filter_map(|part| self.keeps_nan_out(part)));
                let parts = parts.iter().map(|part| self.looked_up(part, &safe));
                Ok(conjunction(parts.collect::<Result<Vec<_>>>()?))
            }
            Some(or) if *or.op() == Operator::Or => {
                let left = self.looked_up(or.left(), safe)?;
                let right = self.looked_up(or.right(), safe)?;
                Ok(Arc::new(BinaryExpr::new(left, Operator::Or, right)))
            }
            _ if never_looked_up(condition) || self.keeps_nan_out(condition).is_some() => {
                Ok(Arc::clone(condition))
            }
            _ if self.may_pass(condition).is_subset(safe) => Ok(Arc::clone(condition)),
            _ => apart(condition),
        }
    }

    /// `predicate` for a scan that evaluates it: where statistics say that all numbers of a row group
    /// pass what `before` asks, it would not, and NaN would pass as well.
    fn evaluated_too(&self, before: &Condition, predicate: Condition) -> Result<Condition> {
        let parts = split_conjunction(before).into_iter();
        let asks = parts.filter(|part| !never_looked_up(part) && !self.numbers(part).is_empty());
        let again = asks.map(apart).collect::<Result<Vec<_>>>()?;
        Ok(conjunction([vec![predicate], again].concat()))
    }

    /// Columns of floating-point numbers that `condition` reads.
    fn numbers(&self, condition: &Condition) -> HashSet<Column> {
        let columns = collect_columns(condition).into_iter();
        columns
            .filter(|column| self.number_type(column).is_some())
            .collect()
    }

    /// The type of a column of floating-point numbers.
    fn number_type(&self, column: &Column) -> Option<&DataType> {
        let field = self.schema.field_with_name(column.name()).ok()?;
        let has_nan = match field.data_type() {
            DataType::Dictionary(_, values) => values.is_floating(),
            plain => plain.is_floating(),
        };
        has_nan.then(|| field.data_type())
    }

    /// Of these columns NaN may pass `condition`. A sort with a limit asks for what comes before the
    /// last row it has, which is no NaN where the smallest come first.
    fn may_pass(&self, condition: &Condition) -> HashSet<Column> {
        let order = condition
            .expression_id()
            .and_then(|id| self.orders.get(&id));
        let Some(up) = order else {
            return self.numbers(condition);
        };
        let keys = condition.children().into_iter().zip(up);
        let down = keys.filter(|(_, up)| !**up);
        down.flat_map(|(key, _)| self.numbers(key)).collect()
    }

    /// The column whose NaN never passes `condition`, which reads nothing else.
    fn keeps_nan_out(&self, condition: &Condition) -> Option<Column> {
        let columns: Vec<_> = collect_columns(condition).into_iter().collect();
        let [column] = columns.as_slice() else {
            return None;
        };
        let nan = ScalarValue::from(f64::NAN);
        let nan = nan.cast_to(self.number_type(column)?).ok()?;
        (passes(condition, nan).ok()? == Some(false)).then(|| column.clone())
    }
}

/// `condition`, which means the same and is not looked up in statistics.
fn apart(condition: &Condition) -> Result<Condition> {
    let holds = vec![(Arc::clone(condition), lit(true))];
    case(None, holds, Some(lit(false)))
}

/// Whether `condition` asks nothing of minima and maxima.
fn never_looked_up(condition: &Condition) -> bool {
    condition.is::<Column>()
        || condition.is::<IsNullExpr>()
        || condition.is::<IsNotNullExpr>()
        || condition.is::<ScalarFunctionExpr>()
}

/// Whether `condition` holds where its only column is `value`. Not known of one that calls functions,
/// whose result may be another one next time.
fn passes(condition: &Condition, value: ScalarValue) -> Result<Option<bool>> {
    let value: Condition = Arc::new(Literal::new(value));
    let mut is_known = true;
    let condition = Arc::clone(condition).transform_up(|part| {
        is_known &= is_plain(&part);
        Ok(match part.is::<Column>() {
            true => Transformed::yes(Arc::clone(&value)),
            false => Transformed::no(part),
        })
    });
    let condition = condition.data()?;
    if !is_known || condition.data_type(&Schema::empty())? != DataType::Boolean {
        return Ok(None);
    }
    let one_row = RecordBatchOptions::new().with_row_count(Some(1));
    let one_row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &one_row)?;
    let holds = condition.evaluate(&one_row)?.into_array(1)?;
    let holds = holds.as_boolean();
    Ok(Some(holds.is_valid(0) && holds.value(0)))
}

fn is_plain(part: &Condition) -> bool {
    part.is::<Column>()
        || part.is::<Literal>()
        || part.is::<BinaryExpr>()
        || part.is::<CastExpr>()
        || part.is::<TryCastExpr>()
        || part.is::<NegativeExpr>()
        || part.is::<NotExpr>()
        || part.is::<InListExpr>()
        || ScalarFunctionExpr::try_downcast_func::<IsNanFunc>(part.as_ref()).is_some()
        || part.is::<IsNullExpr>()
        || part.is::<IsNotNullExpr>()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use datafusion::common::DFSchema;
    use datafusion::physical_expr::expressions::DynamicFilterPhysicalExpr;
    use expect_test::{Expect, expect};

    use super::*;
    use crate::test_session::{FakeHost, session};

    fn schema() -> Schema {
        let field = |name, kind| Field::new(name, kind, true);
        Schema::new(vec![
            field("x", DataType::Float64),
            field("y", DataType::Float32),
            field("k", DataType::Int64),
        ])
    }

    fn condition(sql: &str) -> Condition {
        let schema = DFSchema::try_from(schema()).unwrap();
        let state = session(Arc::new(FakeHost::default()));
        let expr = state.create_logical_expr(sql, &schema).unwrap();
        state.create_physical_expr(expr, &schema).unwrap()
    }

    fn check(sql: &str, expected: Expect) {
        let (schema, orders) = (schema(), Orders::new());
        let asked = Asked {
            schema: &schema,
            orders: &orders,
        };
        let changed = asked.looked_up(&condition(sql), &HashSet::new()).unwrap();
        expected.assert_eq(&changed.to_string());
    }

    #[test]
    fn what_nan_passes_is_not_looked_up() {
        check(
            "x > 5.0",
            expect!["CASE WHEN x@0 > 5 THEN true ELSE false END"],
        );
        check(
            "x = CAST('NaN' AS DOUBLE)",
            expect!["CASE WHEN x@0 = CAST(NaN AS Float64) THEN true ELSE false END"],
        );
        check(
            "5.0 < y AND k > 3",
            expect!["CASE WHEN 5 < CAST(y@1 AS Float64) THEN true ELSE false END AND k@2 > 3"],
        );
        check(
            "NOT (x < 5.0)",
            expect!["CASE WHEN NOT x@0 < 5 THEN true ELSE false END"],
        );
        check(
            "x > 5.0 OR k = 3",
            expect!["CASE WHEN x@0 > 5 THEN true ELSE false END OR k@2 = 3"],
        );
        check(
            "x > random()",
            expect!["CASE WHEN x@0 > random() THEN true ELSE false END"],
        );
        check(
            "x > y",
            expect!["CASE WHEN x@0 > CAST(y@1 AS Float64) THEN true ELSE false END"],
        );
    }

    #[test]
    fn the_rest_is() {
        check("x < 5.0", expect!["x@0 < 5"]);
        check("x = 5.0 OR k = 3", expect!["x@0 = 5 OR k@2 = 3"]);
        check("x IN (1.0, 2.0)", expect!["x@0 IN (SET) ([1, 2])"]);
        check("x >= 1.0 AND x <= 5.0", expect!["x@0 >= 1 AND x@0 <= 5"]);
        check(
            "x >= 1.0 AND (x < 5.0 OR x < 6.0) AND y > 2.0",
            expect![
                "x@0 >= 1 AND (x@0 < 5 OR x@0 < 6) AND CASE WHEN CAST(y@1 AS Float64) > 2 THEN true ELSE false END"
            ],
        );
        check(
            "x > 1.0 AND NOT isnan(x)",
            expect!["x@0 > 1 AND NOT isnan(x@0)"],
        );
        check("x IS NOT NULL", expect!["x@0 IS NOT NULL"]);
        check("isnan(x)", expect!["isnan(x@0)"]);
        check("k > 5", expect!["k@2 > 5"]);
    }

    #[test]
    fn the_smallest_are_looked_up() {
        let keys = vec![condition("x"), condition("y")];
        let filter: Condition = Arc::new(DynamicFilterPhysicalExpr::new(keys, lit(true)));
        let schema = schema();
        let passing = |up: [bool; 2]| {
            let id = filter.expression_id().unwrap();
            let orders = Orders::from([(id, up.to_vec())]);
            let asked = Asked {
                schema: &schema,
                orders: &orders,
            };
            let mut names: Vec<_> = asked.may_pass(&filter).into_iter().collect();
            names.sort_unstable_by_key(Column::index);
            names
                .iter()
                .map(|column| column.name().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(passing([true, true]), [""; 0]);
        assert_eq!(passing([true, false]), ["y"]);
        assert_eq!(passing([false, false]), ["x", "y"]);
    }
}
