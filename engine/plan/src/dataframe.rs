//! Our operators as methods of DataFusion's [`DataFrame`].
//!
//! ```text
//! FROM map_batches(TABLE(t), net, batch_size => 64)    df.map_batches(Call::of("net").batch_size(64))?
//! FROM filter(TABLE(t), good)                          df.filter_by("good")?
//! ```
//!
//! They build the nodes that SQL builds, and refuse what it refuses. `filter` is
//! called `filter_by` and `repartition` `repartition_to`, because a DataFrame has a
//! `filter` and a `repartition` of its own.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::common::{DFSchema, Result};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use mobula_udfs::{
    Amount, BatchFormat, FunctionSpec, LabelSelector, Literal, OnError, Placement, Volatility,
};

use crate::error::PlanError;
use crate::function_catalog::FunctionCatalog;
use crate::operator::Operator;
use crate::operator::map_batches::{Grouping, SortWay};
use crate::operator::repartition::{Repartition, RepartitionNode, SQL_NAME};
use crate::sql::call_options::{CallOptions, MAX_BATCH_SIZE, MAX_CONCURRENCY, MAX_RETRIES};
use crate::sql::check_call::check_call;
use crate::sql::grouping::column_named;
use crate::sql::relation::{groups_over, operator_over, without_qualifiers};

/// Which function an operator calls, and how. A function's name alone is one too.
#[derive(Debug, Clone)]
pub struct Call {
    function: String,
    args: Vec<(String, Literal)>,
    options: CallOptions,
}

impl Call {
    /// A call of the function named `function`, by its own defaults. The name is
    /// taken as it stands: what SQL wrote without quotes is in lower case.
    pub fn of(function: impl Into<String>) -> Self {
        Self {
            function: function.into(),
            args: vec![],
            options: CallOptions::default(),
        }
    }

    /// A constructor argument, as in `embed(model => 'big')`.
    pub fn arg(mut self, name: impl Into<String>, value: Literal) -> Self {
        self.args.push((name.into(), value));
        self
    }

    /// Rows of a batch; `None`: the block as it comes.
    pub fn batch_size(mut self, rows: impl Into<Option<usize>>) -> Self {
        self.options.batch_size = Some(rows.into());
        self
    }

    /// Workers over the whole cluster; `None`: as many as each task has cores.
    pub fn concurrency(mut self, workers: impl Into<Option<usize>>) -> Self {
        self.options.concurrency = Some(workers.into());
        self
    }

    /// Workers over the whole cluster: `least` to start with, up to `most` while blocks
    /// wait long.
    pub fn concurrency_range(mut self, least: usize, most: usize) -> Self {
        self.options.min_workers = Some(least.clamp(1, most.max(1)));
        self.options.concurrency = Some(Some(most));
        self
    }

    /// Whether batches are seen where they lie, and cannot be written to.
    pub fn zero_copy_batch(mut self, zero_copy: bool) -> Self {
        self.options.zero_copy_batch = Some(zero_copy);
        self
    }

    /// Whether blocks come out in the order they went in.
    pub fn preserve_order(mut self, keeps_order: bool) -> Self {
        self.options.preserve_order = Some(keeps_order);
        self
    }

    /// The table that the function returns, instead of the declared one.
    pub fn schema(mut self, schema: SchemaRef) -> Self {
        self.options.schema = Some(schema);
        self
    }

    /// Longest time one block may take; `None`: as the session is set.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.timeout = Some(limit.into());
        self
    }

    /// Longest time a worker may take to start and build the function; `None`: as the
    /// process is set.
    pub fn init_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.init_timeout = Some(limit.into());
        self
    }

    /// Python exceptions on which the function is called again, up to `most` times.
    pub fn retry(mut self, exceptions: &[&str], most: u32) -> Self {
        self.options.retry_exceptions = Some(owned(exceptions));
        self.options.max_retries = Some(most.min(MAX_RETRIES));
        self
    }

    /// What becomes of rows that the function fails on.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.options.on_error = Some(on_error);
        self
    }

    /// Rows that may fail before the query does; `None`: any number.
    pub fn max_errors(mut self, rows: impl Into<Option<u64>>) -> Self {
        self.options.max_errors = Some(rows.into());
        self
    }

    /// Share of the rows that may fail, from 0 to 1; `None`: any.
    pub fn max_error_ratio(mut self, ratio: impl Into<Option<f64>>) -> Self {
        self.options.max_error_ratio = Some(ratio.into());
        self
    }

    /// Columns of the function's table that are those of the input row.
    pub fn passthrough(mut self, columns: &[&str]) -> Self {
        self.options.passthrough = Some(owned(columns));
        self
    }

    /// Whether the function's table has one row for each input row.
    pub fn row_preserving(mut self, keeps_rows: bool) -> Self {
        self.options.row_preserving = Some(keeps_rows);
        self
    }

    /// Input columns that the function takes.
    pub fn reads(mut self, columns: &[&str]) -> Self {
        self.options.reads = Some(owned(columns));
        self
    }

    /// How often the function must be asked, instead of what it declares.
    pub fn volatility(mut self, volatility: Volatility) -> Self {
        self.options.volatility = Some(volatility);
        self
    }

    /// Whether rows with a NULL argument give NULL without a call, instead of what the
    /// function declares.
    pub fn strict(mut self, strict: bool) -> Self {
        self.options.strict = Some(strict);
        self
    }

    /// Cores that each worker asks for; `None`: those that the function asks for do not
    /// count either.
    pub fn num_cpus(mut self, cores: impl Into<Option<Amount>>) -> Self {
        self.options.demand.cpus = Some(cores.into());
        self
    }

    /// GPUs that each worker asks for: a share below 1, or whole ones, in part as whole.
    /// `None`: it sees all of its process.
    pub fn num_gpus(mut self, gpus: impl Into<Option<Amount>>) -> Self {
        let whole = |n: Amount| match n < Amount::ONE || n.is_whole() {
            true => n,
            false => Amount::whole(n.floor() + 1),
        };
        self.options.demand.gpus = Some(gpus.into().map(whole));
        self
    }

    /// Bytes that each worker asks for, and may take.
    pub fn memory(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.options.demand.memory_bytes = Some(bytes.into().filter(|bytes| *bytes > 0));
        self
    }

    /// Other resources that each worker asks for.
    pub fn resources(mut self, amounts: &[(&str, Amount)]) -> Self {
        let amounts = amounts.iter().filter(|(_, amount)| !amount.is_zero());
        let amounts = amounts.map(|(name, amount)| ((*name).to_owned(), *amount));
        self.options.demand.custom = Some(amounts.collect());
        self
    }

    /// Which processes will do; none in it: any.
    pub fn label_selector(mut self, labels: LabelSelector) -> Self {
        self.options.demand.labels = Some(labels);
        self
    }

    /// Whether its workers lie on many hosts or on few.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.options.demand.placement = Some(placement);
        self
    }

    /// What a batch is in Python code.
    pub fn batch_format(mut self, format: BatchFormat) -> Self {
        self.options.batch_format = Some(format);
        self
    }
}

fn owned(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|&name| name.to_owned()).collect()
}

impl From<&str> for Call {
    fn from(function: &str) -> Self {
        Self::of(function)
    }
}

impl From<String> for Call {
    fn from(function: String) -> Self {
        Self::of(function)
    }
}

/// Our operators on a [`DataFrame`] of a session built
/// [`with_mobula`](crate::SessionStateBuilderExt::with_mobula).
///
/// # Errors
/// Each method: a session without our operators, an unknown function, and what
/// SQL refuses as well.
pub trait MobulaDataFrame: Sized {
    /// Hands batches to a function: one column more, or the function's table.
    fn map_batches(self, call: impl Into<Call>) -> Result<Self>;

    /// Calls a function for each row: one column more, or one row for each.
    fn map(self, call: impl Into<Call>) -> Result<Self>;

    /// Calls a function for each row: any number of rows for each.
    fn flat_map(self, call: impl Into<Call>) -> Result<Self>;

    /// Keeps the rows for which a function says true; SQL's `filter`.
    fn filter_by(self, call: impl Into<Call>) -> Result<Self>;

    /// Calls a function for each group of rows that are equal in `partition_by`,
    /// sorted by `order_by`: any number of rows for each.
    fn map_groups(
        self,
        call: impl Into<Call>,
        partition_by: &[&str],
        order_by: &[(&str, SortWay)],
    ) -> Result<Self>;

    /// The same rows in other streams or blocks; SQL's `repartition`.
    fn repartition_to(self, how: Repartition) -> Result<Self>;
}

impl MobulaDataFrame for DataFrame {
    fn map_batches(self, call: impl Into<Call>) -> Result<Self> {
        over(self, "map_batches", call.into())
    }

    fn map(self, call: impl Into<Call>) -> Result<Self> {
        over(self, "map", call.into())
    }

    fn flat_map(self, call: impl Into<Call>) -> Result<Self> {
        over(self, "flat_map", call.into())
    }

    fn filter_by(self, call: impl Into<Call>) -> Result<Self> {
        over(self, "filter", call.into())
    }

    fn map_groups(
        self,
        call: impl Into<Call>,
        partition_by: &[&str],
        order_by: &[(&str, SortWay)],
    ) -> Result<Self> {
        over_groups(self, call.into(), partition_by, order_by)
    }

    fn repartition_to(self, how: Repartition) -> Result<Self> {
        let (state, input) = self.into_parts();
        if state.config().get_extension::<FunctionCatalog>().is_none() {
            return Err(PlanError::NoMobula.into());
        }
        let input = without_qualifiers(input, SQL_NAME)?;
        for column in &how.by {
            column_named(SQL_NAME, "by", column.name(), input.schema())?;
        }
        let node = RepartitionNode::try_new(input, how)?;
        Ok(Self::new(state, node.into_plan()))
    }
}

fn over(frame: DataFrame, operator: &str, call: Call) -> Result<DataFrame> {
    let Checked {
        state,
        input,
        op,
        spec,
        args,
        options,
    } = Checked::of(frame, operator, call)?;
    let node = operator_over(op, input, spec, args, &options)?;
    Ok(DataFrame::new(state, node.into_plan()))
}

fn over_groups(
    frame: DataFrame,
    call: Call,
    partition_by: &[&str],
    order_by: &[(&str, SortWay)],
) -> Result<DataFrame> {
    let Checked {
        state,
        input,
        op,
        spec,
        args,
        options,
    } = Checked::of(frame, "map_groups", call)?;
    if partition_by.is_empty() || options.batch_size.is_some() {
        let problem = "it takes columns to partition_by, and no batch_size: a group is a batch";
        return Err(PlanError::Relation {
            operator: op.sql,
            problem: problem.into(),
        }
        .into());
    }
    let grouping = |input: &DFSchema| {
        let keys = partition_by.iter();
        let keys = keys.map(|key| column_named(op.sql, "partition_by", key, input));
        let order = order_by.iter().map(|(key, way)| {
            let column = column_named(op.sql, "order_by", key, input)?;
            Ok((column, *way))
        });
        Ok(Some(Grouping {
            keys: keys.collect::<Result<_, PlanError>>()?,
            order: order.collect::<Result<_, PlanError>>()?,
        }))
    };
    let node = groups_over(op, input, spec, args, &options, grouping)?;
    Ok(DataFrame::new(state, node.into_plan()))
}

/// A call that its operator makes.
struct Checked {
    state: SessionState,
    input: LogicalPlan,
    op: &'static Operator,
    spec: Arc<FunctionSpec>,
    args: Vec<(String, Literal)>,
    options: CallOptions,
}

impl Checked {
    fn of(frame: DataFrame, operator: &str, call: Call) -> Result<Self> {
        let (state, input) = frame.into_parts();
        let functions = state.config().get_extension::<FunctionCatalog>();
        let (Some(functions), Some(op)) = (functions, Operator::named(operator)) else {
            return Err(PlanError::NoMobula.into());
        };
        let Call {
            function,
            args,
            options,
        } = call;
        let spec = options.declare(functions.find(&function)?)?;
        check_count(op, "batch_size", options.batch_size, MAX_BATCH_SIZE)?;
        check_count(op, "concurrency", options.concurrency, MAX_CONCURRENCY)?;
        check_call(op, (&spec, functions.pool_of(&spec)), &args, &options)?;
        Ok(Self {
            state,
            input,
            op,
            spec,
            args,
            options,
        })
    }
}

/// SQL's limits, for counts that SQL has not read.
fn check_count(
    op: &Operator,
    option: &str,
    count: Option<Option<usize>>,
    max: usize,
) -> Result<(), PlanError> {
    match count.flatten() {
        Some(n) if !(1..=max).contains(&n) => Err(PlanError::OptionValue {
            owner: op.sql.to_owned(),
            option: option.to_owned(),
            value: n.to_string(),
            expected: format!("a count from 1 to {max}, or None"),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::prelude::{SessionContext, col, lit};
    use mobula_udfs::Returns;

    use super::*;
    use crate::test_session::{FakeHost, physical_text, plan, session};

    async fn context() -> SessionContext {
        SessionContext::new_with_state(session(Arc::new(FakeHost::default())))
    }

    /// The frame's plan is the one of `sql`.
    async fn same(frame: DataFrame, sql: &str) {
        let (state, found) = frame.into_parts();
        let wanted = plan(&state, sql).await.unwrap();
        let text = |plan| {
            state
                .optimize(plan)
                .unwrap()
                .display_indent_schema()
                .to_string()
        };
        assert_eq!(text(&found), text(&wanted));
        // Which also says how a call is made.
        let found = state.create_physical_plan(&found).await.unwrap();
        let wanted = state.create_physical_plan(&wanted).await.unwrap();
        assert_eq!(physical_text(&found), physical_text(&wanted));
    }

    #[tokio::test]
    async fn every_option_is_that_of_sql() {
        let context = context().await;
        let t = || async { context.table("t").await.unwrap() };
        let x = Field::new("x", DataType::Int16, true);
        let call = Call::of("twice")
            .batch_size(7)
            .batch_format(BatchFormat::Pandas)
            .concurrency_range(2, 3)
            .zero_copy_batch(false)
            .preserve_order(true)
            .schema(Arc::new(Schema::new(vec![x])))
            .timeout(Duration::from_millis(1500))
            .retry(&["OSError", "a.B"], 2)
            .on_error(OnError::Drop)
            .max_errors(3)
            .max_error_ratio(0.5);
        same(
            t().await.map_batches(call).unwrap(),
            "SELECT * FROM map_batches(TABLE(t), twice, batch_size => 7, batch_format => 'pandas', \
             concurrency => '2..3', zero_copy_batch => false, preserve_order => true, \
             schema => 'x SMALLINT', timeout => 1.5, retry_exceptions => 'OSError, a.B', max_retries => 2, \
             on_error => 'drop', max_errors => 3, max_error_ratio => 0.5)",
        )
        .await;
        let call = Call::of("twice")
            .volatility(Volatility::Stable)
            .passthrough(&["s"])
            .row_preserving(true)
            .reads(&["a"]);
        same(
            t().await.map_batches(call).unwrap(),
            "SELECT * FROM map_batches(TABLE(t), twice, volatility => 'stable', passthrough => 's', \
             row_preserving => true, reads => 'a')",
        )
        .await;
        let call = Call::of("inc")
            .num_cpus(Amount::whole(2))
            .num_gpus(Amount::from_milli(1200))
            .memory(1 << 30)
            .resources(&[("slot", Amount::from_milli(250)), ("fpga", Amount::ONE)])
            .label_selector("zone=a,disk!=hdd|zone=b".parse().unwrap())
            .placement(Placement::Pack);
        same(
            t().await.map_batches(call).unwrap(),
            "SELECT * FROM map_batches(TABLE(t), inc, num_cpus => 2, num_gpus => 2, memory => '1GiB', \
             resources => 'fpga=1, slot=0.25', label_selector => 'zone=a, disk!=hdd | zone=b', placement => 'PACK')",
        )
        .await;
        same(
            t().await.map_batches(Call::of("inc").strict(true)).unwrap(),
            "SELECT * FROM map_batches(TABLE(t), inc, strict => true)",
        )
        .await;
    }

    #[tokio::test]
    async fn groups_and_failed_rows_as_in_sql() {
        let t = context().await.table("t").await.unwrap();
        let down = SortWay {
            descending: true,
            nulls_first: true,
        };
        let call = Call::of("twice").on_error(OnError::Drop).max_errors(3);
        let frame = t.map_groups(call, &["c", "s"], &[("b", down)]).unwrap();
        same(
            frame,
            "SELECT * FROM map_groups(TABLE(t), twice, partition_by => (c, s), order_by => 'b DESC', on_error => 'drop', max_errors => 3)",
        )
        .await;
        let t = context().await.table("t").await.unwrap();
        let error = t.map_groups("twice", &["d"], &[]).unwrap_err();
        let text = error.find_root().to_string();
        assert!(
            text.contains("option \"partition_by\" of map_groups"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn methods_make_the_plans_of_sql() {
        let context = context().await;
        let t = || async { context.table("t").await.unwrap() };
        let call = Call::of("Embed").arg("model", Literal::Text("big".into()));
        same(
            t().await.map_batches(call.batch_size(7).concurrency(3)).unwrap(),
            "SELECT * FROM map_batches(TABLE(t), \"Embed\"(model => 'big'), batch_size => 7, concurrency => 3)",
        )
        .await;
        let rows = t().await.filter(col("c").eq(lit(1_i64))).unwrap();
        same(
            rows.map("inc").unwrap(),
            "SELECT * FROM map(TABLE(SELECT * FROM t WHERE c = 1), inc)",
        )
        .await;
        same(
            t().await.flat_map("twice").unwrap(),
            "SELECT * FROM flat_map(TABLE(t), twice)",
        )
        .await;
        let sorted = t().await.sort(vec![col("a").sort(true, false)]).unwrap();
        same(
            sorted.filter_by("good").unwrap(),
            "SELECT * FROM filter(TABLE(SELECT * FROM t ORDER BY a), good)",
        )
        .await;
    }

    #[tokio::test]
    async fn streams_and_blocks_as_in_sql() {
        let context = context().await;
        let t = context.table("t").await.unwrap();
        let how = Repartition {
            partitions: Some(4),
            by: vec!["s".into()],
            rows_per_block: Some(10),
        };
        same(
            t.clone().repartition_to(how).unwrap(),
            "SELECT * FROM repartition(TABLE(t), 4, by => s, rows_per_block => 10)",
        )
        .await;
        let by_nothing = Repartition {
            by: vec!["d".into()],
            ..Repartition::default()
        };
        for (how, word) in [
            (by_nothing, "columns of the input"),
            (Repartition::default(), "neither how many streams"),
        ] {
            let error = t.clone().repartition_to(how).unwrap_err();
            let text = error.find_root().to_string();
            assert!(text.contains(word), "{text}");
        }
    }

    #[tokio::test]
    async fn what_sql_refuses_is_refused() {
        let context = context().await;
        let t = context.table("t").await.unwrap();
        let refused = |frame: Result<DataFrame>| frame.unwrap_err().strip_backtrace();
        for (frame, word) in [
            (t.clone().map("nope"), "unknown function \"nope\""),
            (
                t.clone()
                    .map(Call::of("inc").batch_format(BatchFormat::Rows)),
                "option of map_batches",
            ),
            (
                t.clone().map_batches(Call::of("inc").concurrency(0)),
                "from 1 to 1024",
            ),
            (t.clone().flat_map("inc"), "returns a value"),
            (t.clone().filter_by("inc"), "BOOLEAN"),
            (
                t.clone()
                    .map_batches(Call::of("inc").arg("k", Literal::Null)),
                "is a def and has no constructor",
            ),
        ] {
            let text = refused(frame);
            assert!(text.contains(word), "{text}");
        }
        let plain = SessionContext::new().read_empty().unwrap();
        assert!(refused(plain.map("inc")).contains("with_mobula"));
    }

    #[tokio::test]
    async fn native_functions_are_told_apart() {
        let context = context().await;
        let state = context.state();
        let functions = state.config().get_extension::<FunctionCatalog>().unwrap();
        let t = arrow::datatypes::DataType::Int64;
        let spec = FunctionSpec::native_scalar("nat", [("a", t.clone())], t);
        functions.insert(Arc::new(spec));
        let boolean = Returns::Scalar(arrow::datatypes::DataType::Boolean);
        functions.insert(Arc::new(FunctionSpec::native_table("natural", boolean)));
        assert!(functions.is_native("nat") && !functions.is_native("inc"));
        let t = context.table("t").await.unwrap();
        let plan = t.clone().map_batches("nat").unwrap().filter_by("natural");
        let plan = plan.unwrap().create_physical_plan().await.unwrap();
        let text = datafusion::physical_plan::displayable(plan.as_ref());
        let text = text.indent(false).to_string();
        for line in [
            "MapBatchesExec: udf=nat, kind=scalar, language=native, batch_size=block, concurrency=cores",
            "UdfFilterExec: udf=natural, kind=scalar, language=native, concurrency=cores",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(crate::operator::workers_kept(&plan, false).unwrap(), 0);
        let formatted = Call::of("nat").batch_format(BatchFormat::Rows);
        for (call, word) in [
            (
                formatted,
                "native and gets Arrow arrays. Leave batch_format out",
            ),
            (
                Call::of("nat").arg("k", Literal::Null),
                "native, keeps no state",
            ),
        ] {
            let text = t.clone().map_batches(call).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
