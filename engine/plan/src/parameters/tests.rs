//! Plans with parameters: what they are bound to, and what is kept of them.

use std::sync::Arc;

use arrow::datatypes::DataType as T;
use datafusion::common::ScalarValue as S;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::collect;

use super::{Ahead, bind, infer, insert_all, with_types};
use crate::MobulaStatement;
use crate::sql::statement::parse;
use crate::test_session::{FakeHost, session};

fn state() -> SessionState {
    session(Arc::new(FakeHost::default()))
}

/// The plan of `sql`, and the types of its parameters.
async fn planned(state: &SessionState, sql: &str) -> (LogicalPlan, Vec<Option<T>>) {
    let mut parsed = parse(sql).unwrap();
    let Some(MobulaStatement::DataFusion(statement)) = parsed.statements.pop() else {
        panic!("{sql}");
    };
    let plan = state.statement_to_plan(*statement).await.unwrap();
    infer(plan, parsed.parameters.len()).unwrap()
}

/// What `plan` gives, as text, its rows in order.
async fn rows(state: &SessionState, plan: &LogicalPlan) -> String {
    let plan = state.create_physical_plan(plan).await.unwrap();
    let blocks = collect(plan, state.task_ctx()).await.unwrap();
    let table = arrow::util::pretty::pretty_format_batches(&blocks).unwrap();
    let table = table.to_string();
    let lines = table.lines().skip(3).filter(|line| !line.starts_with('+'));
    let lines = lines.map(|line| line.replace(' ', ""));
    lines.collect::<Vec<_>>().join(" ")
}

async fn given(sql: &str, values: &[S]) -> String {
    let state = state();
    let (plan, _) = planned(&state, sql).await;
    match bind(plan, values) {
        Ok(plan) => rows(&state, &plan).await,
        Err(error) => error.find_root().strip_backtrace(),
    }
}

fn int(value: i64) -> S {
    S::Int64(Some(value))
}

fn float(value: f64) -> S {
    S::Float64(Some(value))
}

fn text(value: &str) -> S {
    S::Utf8(Some(value.to_owned()))
}

#[tokio::test]
async fn a_value_means_what_a_literal_there_means() {
    for (sql, values, expected) in [
        ("SELECT ? + 1", vec![int(2)], "|3|"),
        ("SELECT ? + 1", vec![float(2.5)], "|3.5|"),
        ("SELECT $2, $1", vec![int(1), text("x")], "|x|1|"),
        (
            "SELECT CAST($a AS VARCHAR) || $b || $a",
            vec![text("x"), text("y")],
            "|xyx|",
        ),
        ("SELECT a FROM t WHERE a = ?", vec![int(3)], "|3|"),
        // Not cut to the type of the column.
        ("SELECT a FROM t WHERE a = ?", vec![float(3.5)], ""),
        (
            "SELECT a FROM t WHERE a < ? ORDER BY a",
            vec![float(1.5)],
            "|0| |1|",
        ),
        (
            "SELECT a FROM t WHERE a IN (?, ?) ORDER BY a",
            vec![int(3), int(5)],
            "|3| |5|",
        ),
        ("SELECT a FROM t WHERE a = ?", vec![S::Null], ""),
        (
            "SELECT a FROM t ORDER BY a LIMIT ? OFFSET ?",
            vec![int(2), int(1)],
            "|1| |2|",
        ),
        (
            "SELECT count(*) FROM t WHERE s = ?",
            vec![text("s1' OR '1' = '1")],
            "|0|",
        ),
        (
            "SELECT (SELECT count(*) FROM t WHERE a > ?)",
            vec![int(6)],
            "|2|",
        ),
        (
            "SELECT ? UNION ALL SELECT ?",
            vec![text("x"), text("x")],
            "|x| |x|",
        ),
        ("SELECT ? AS x", vec![text("x")], "|x|"),
        ("VALUES (?), (2)", vec![int(1)], "|1| |2|"),
        (
            "SELECT x FROM (SELECT ? AS x) WHERE x = 'a'",
            vec![text("a")],
            "|a|",
        ),
        (
            "SELECT CASE WHEN ? THEN a ELSE 0 END FROM t WHERE a = 8",
            vec![S::Boolean(Some(true))],
            "|8|",
        ),
    ] {
        assert_eq!(given(sql, &values).await, expected, "{sql} {values:?}");
    }
}

#[tokio::test]
async fn a_value_is_never_cut_in_silence() {
    let cut = given("VALUES (?), (2)", &[float(1.5)]).await;
    assert!(
        cut.contains("parameter $1 stands in a column of VALUES that is Int64, and 1.5 is none"),
        "{cut}"
    );
    assert_eq!(given("VALUES (?), (2)", &[float(1.0)]).await, "|1| |2|");
}

#[tokio::test]
async fn types_are_inferred_where_something_says_them() {
    let state = state();
    for (sql, expected) in [
        ("SELECT ?", vec![None]),
        (
            "SELECT a FROM t WHERE a = ? AND b < ?",
            vec![Some(T::Int64), Some(T::Float64)],
        ),
        ("SELECT a FROM t WHERE s LIKE ?", vec![Some(T::Utf8)]),
        ("SELECT CAST(? AS INT)", vec![Some(T::Int32)]),
        ("SELECT a FROM t LIMIT ?", vec![Some(T::Int64)]),
        ("SELECT inc(?)", vec![Some(T::Int64)]),
        ("SELECT \"Embed\"(?)", vec![Some(T::Utf8)]),
        ("SELECT inc(a + ?) FROM t", vec![Some(T::Int64)]),
        ("SELECT a FROM t WHERE a = $1 AND b = $1", vec![None]),
        ("SELECT a FROM t WHERE a = $2", vec![None, Some(T::Int64)]),
        (
            "SELECT * FROM map_batches(TABLE(SELECT s FROM t WHERE a = ?), \"Embed\"(model => ?))",
            vec![Some(T::Int64), None],
        ),
        (
            "INSERT INTO t VALUES (?, ?, 1, ?)",
            vec![Some(T::Int64), Some(T::Float64), Some(T::Utf8)],
        ),
    ] {
        assert_eq!(planned(&state, sql).await.1, expected, "{sql}");
    }
}

#[tokio::test]
async fn arguments_of_constructors_take_values() {
    let state = state();
    let sql = "SELECT * FROM map_batches(TABLE(SELECT s FROM t), \"Embed\"(model => ?, n => ?))";
    let (plan, _) = planned(&state, sql).await;
    let unbound = state.create_physical_plan(&plan).await.unwrap_err();
    assert!(
        unbound.to_string().contains("parameter $1 has no value"),
        "{unbound}"
    );
    let bound = bind(plan.clone(), &[text("b'ig"), int(-3)]).unwrap();
    let shown = bound.display_indent().to_string();
    assert!(
        shown.contains("MapBatches: Embed(model => 'b''ig', n => -3) over [s]"),
        "{shown}"
    );
    let other = bind(plan.clone(), &[text("small"), int(-3)]).unwrap();
    assert_ne!(bound, other);
    let error = bind(plan, &[S::Date32(Some(1)), S::Null]).unwrap_err();
    let error = error.find_root().strip_backtrace();
    assert!(
        error.contains("parameter $1 is an argument of a constructor"),
        "{error}"
    );
}

#[tokio::test]
async fn many_rows_are_one_insert() {
    let state = state();
    let (plan, _) = planned(&state, "INSERT INTO t (a, s) VALUES (?, ?), (0, ?)").await;
    let rows = [
        vec![int(1), text("x"), text("y")],
        vec![int(2), S::Null, text("z")],
    ];
    let all = insert_all(&plan, &rows).unwrap().unwrap();
    let shown = all.display_indent().to_string();
    let expected = "Values: (Int64(1), Utf8(\"x\")), (Int64(0), Utf8(\"y\")), (Int64(2), CAST(NULL AS Utf8)), (Int64(0), Utf8(\"z\"))";
    assert!(shown.contains(expected), "{shown}");
    assert_eq!(all.schema(), plan.schema());
    // These would not give a row for each row.
    for sql in [
        "INSERT INTO t (a) SELECT max(a) + ? FROM t",
        "INSERT INTO t (a) SELECT * FROM (VALUES (1)) AS v(x) WHERE x = ?",
        "SELECT * FROM (VALUES (?))",
    ] {
        let (plan, _) = planned(&state, sql).await;
        let rows = [vec![int(1)], vec![int(2)]];
        assert!(insert_all(&plan, &rows).unwrap().is_none(), "{sql}");
    }
}

#[tokio::test]
async fn a_plan_made_ahead_gives_what_one_made_with_values_gives() {
    let state = state();
    let joined =
        "SELECT t.a, u.x FROM t LEFT JOIN u ON t.a = u.a AND u.x > ? WHERE t.a < ? ORDER BY 1";
    for (sql, runs) in [
        (
            "SELECT ? + 1",
            vec![vec![int(1)], vec![int(5)], vec![S::Int64(None)]],
        ),
        (
            "SELECT a FROM t WHERE a = ?",
            vec![vec![int(3)], vec![int(8)], vec![int(99)]],
        ),
        (
            "SELECT a FROM t WHERE a = ? OR ? IS NULL ORDER BY a",
            vec![vec![int(3), text("x")], vec![int(3), S::Utf8(None)]],
        ),
        (
            joined,
            vec![
                vec![int(10), int(3)],
                vec![int(20), int(2)],
                vec![S::Int64(None), int(2)],
            ],
        ),
        (
            "SELECT s, count(*) FROM t WHERE c = ? GROUP BY s ORDER BY s",
            vec![vec![int(1)], vec![int(2)]],
        ),
        (
            "SELECT a FROM t WHERE a > (SELECT min(a) FROM u WHERE x >= ?) AND s LIKE ? ORDER BY a",
            vec![vec![int(20), text("s%")], vec![int(10), text("%8")]],
        ),
        (
            "SELECT ? UNION SELECT s FROM t WHERE a = 1 ORDER BY 1",
            vec![vec![text("a")], vec![text("s1")]],
        ),
    ] {
        let (plan, _) = planned(&state, sql).await;
        let types = runs[0].iter().map(S::data_type).collect();
        let ahead = Ahead::of(&state, &plan, types).unwrap().expect(sql);
        for values in runs {
            let kept = ahead.bind(state.config_options(), &values).unwrap();
            let kept = state
                .query_planner()
                .create_physical_plan(&kept, &state)
                .await
                .unwrap();
            let blocks = collect(kept, state.task_ctx()).await.unwrap();
            let kept = arrow::util::pretty::pretty_format_batches(&blocks)
                .unwrap()
                .to_string();
            let plan = bind(plan.clone(), &values).unwrap();
            let plan = state.create_physical_plan(&plan).await.unwrap();
            let blocks = collect(plan, state.task_ctx()).await.unwrap();
            let anew = arrow::util::pretty::pretty_format_batches(&blocks)
                .unwrap()
                .to_string();
            assert_eq!(kept, anew, "{sql} {values:?}");
        }
    }
}

#[tokio::test]
async fn values_reach_the_scan_of_a_plan_made_ahead() {
    let state = state();
    let (plan, _) = planned(&state, "SELECT inc(a) FROM t WHERE a = CAST(? AS INT) + 1").await;
    let ahead = Ahead::of(&state, &plan, vec![T::Utf8]).unwrap().unwrap();
    let bound = ahead.bind(state.config_options(), &[text("4")]).unwrap();
    let shown = bound.display_indent().to_string();
    assert!(shown.contains("a = Int64(5)"), "{shown}");
}

#[tokio::test]
async fn what_depends_on_its_run_is_not_planned_ahead() {
    let state = state();
    for sql in [
        "SELECT now()",
        "SELECT a FROM t WHERE a = (SELECT count(*) FROM u WHERE now() > TIMESTAMP '2020-01-01')",
        "SELECT current_date",
        "SELECT a FROM t LIMIT ?",
        "SELECT * FROM (VALUES (?))",
        "EXPLAIN SELECT 1",
        "SELECT * FROM map_batches(TABLE(SELECT s FROM t), \"Embed\"(model => ?))",
    ] {
        let (plan, types) = planned(&state, sql).await;
        let types = types.into_iter().map(|_| T::Int64).collect();
        assert!(Ahead::of(&state, &plan, types).unwrap().is_none(), "{sql}");
    }
    for sql in [
        "SELECT random()",
        "SELECT inc(1)",
        "SELECT a FROM t LIMIT 3",
    ] {
        let (plan, _) = planned(&state, sql).await;
        assert!(Ahead::of(&state, &plan, vec![]).unwrap().is_some(), "{sql}");
    }
}

#[tokio::test]
async fn the_schema_is_that_of_the_values() {
    let state = state();
    let (plan, _) = planned(&state, "SELECT ? AS x, a + ? AS y, inc(?) AS z FROM t").await;
    let typed = with_types(plan.clone(), &[T::Utf8, T::Float64, T::Int64]).unwrap();
    let types = |plan: &LogicalPlan| {
        let fields = plan.schema().fields().iter();
        fields.map(|f| f.data_type().clone()).collect::<Vec<_>>()
    };
    assert_eq!(types(&typed), [T::Utf8, T::Float64, T::Int64]);
    let bound = bind(plan, &[text("x"), float(1.0), int(1)]).unwrap();
    assert_eq!(types(&bound), [T::Utf8, T::Float64, T::Int64]);
}
