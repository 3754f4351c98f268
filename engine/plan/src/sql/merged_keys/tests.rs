//! Queries over `a(k, v)`, `b(k, w)` and `c(k, x)`, and their rows, which are DuckDB's.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::util::display::array_value_to_string;
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionState;

use crate::sql::statement::{MobulaStatement, parse_statements};
use crate::test_session::{FakeHost, add_table, plan, session};

#[tokio::test]
async fn a_key_is_that_of_whichever_side_has_a_row() {
    check(&[
        ("SELECT * FROM a FULL JOIN b USING (k)", "1,a1,- 2,a2,b2 3,-,b3 -,-,bn -,an,-"),
        ("SELECT * FROM a RIGHT JOIN b USING (k)", "2,a2,b2 3,-,b3 -,-,bn"),
        ("SELECT * FROM b NATURAL RIGHT JOIN a", "1,-,a1 2,b2,a2 -,-,an"),
        ("SELECT * FROM a FULL JOIN b USING (K) WHERE K = 3", "3,-,b3"),
        ("SELECT k, count(*) FROM a FULL JOIN b USING (k) GROUP BY k HAVING k > 1", "2,1 3,1"),
        ("SELECT * FROM (SELECT k::INT AS k, v FROM a) a RIGHT JOIN b USING (k)", "2,a2,b2 3,-,b3 -,-,bn"),
        ("SELECT m.* FROM (a FULL JOIN b USING (k)) AS m WHERE m.k = 3", "3,-,b3"),
        ("SELECT * FROM a FULL JOIN b USING (k) LEFT SEMI JOIN c USING (k)", "3,-,b3"),
        ("SELECT w FROM a FULL JOIN b USING (k) WHERE EXISTS (SELECT 1 FROM (SELECT k AS n FROM c) d WHERE d.n = k)", "b3"),
    ])
    .await;
}

#[tokio::test]
async fn the_keys_of_each_side_are_still_there() {
    check(&[
        ("SELECT a.k, k, b.k FROM a FULL JOIN b USING (k)", "1,1,- 2,2,2 -,3,3 -,-,- -,-,-"),
        ("SELECT * FROM a FULL JOIN b USING (k) WHERE a.k IS NULL AND k > 0", "3,-,b3"),
        ("SELECT k, a.*, b.* FROM a RIGHT JOIN b USING (k)", "2,2,a2,2,b2 3,-,-,3,b3 -,-,-,-,bn"),
        ("SELECT *, b.k FROM a FULL JOIN b USING (k) ORDER BY k LIMIT 3", "1,a1,-,- 2,a2,b2,2 3,-,b3,3"),
        ("SELECT a.k FROM a FULL JOIN b USING (k) ORDER BY k LIMIT 2", "1 2"),
        ("SELECT public.a.k, k FROM a FULL JOIN b USING (k) WHERE k > 1", "2,2 -,3"),
        ("SELECT coalesce(a.k, b.k) + 0 AS k FROM a FULL JOIN b USING (k) ORDER BY k LIMIT 3", "1 2 3"),
        ("SELECT v FROM a FULL JOIN b USING (k) WHERE EXISTS (SELECT 1 FROM c WHERE c.k = b.k + 1)", "a2 -"),
        ("SELECT a.k FROM a WHERE EXISTS (SELECT 1 FROM a FULL JOIN b USING (k) WHERE a.k = 3)", ""),
    ])
    .await;
}

#[tokio::test]
async fn a_key_of_inner_joins_stands_where_the_left_side_has_it() {
    check(&[
        ("SELECT * FROM b JOIN a USING (k)", "2,b2,a2"),
        ("SELECT * FROM (SELECT w, k FROM b) z NATURAL JOIN a", "b2,2,a2"),
        ("SELECT *, a.k FROM b JOIN a USING (k)", "2,b2,a2,2"),
        ("SELECT k, b.*, v FROM b JOIN a USING (k) WHERE k = 2 AND a.k = 2", "2,2,b2,a2"),
        ("SELECT * FROM c JOIN b USING (k) JOIN (SELECT k + 1 AS k, v FROM a) a USING (k)", "3,c3,b3,a2"),
        ("SELECT k, max(v) FROM b JOIN a USING (k) JOIN a z USING (k, v) GROUP BY k HAVING k > 0", "2,a2"),
        ("SELECT v FROM a WHERE k IN (SELECT k FROM a JOIN b USING (k))", "a2"),
        ("SELECT * FROM b JOIN a USING (k) JOIN (SELECT 2 AS q) o ON o.q = a.k", "2,b2,a2,2"),
    ])
    .await;
}

#[tokio::test]
async fn joins_behind_compare_the_merged_key() {
    let all = "1,a1,-,- 2,a2,b2,- 3,-,b3,c3 4,-,-,c4 -,-,bn,- -,an,-,-";
    check(&[
        ("SELECT * FROM a FULL JOIN b USING (k) FULL JOIN c USING (k)", all),
        ("SELECT * FROM a NATURAL FULL JOIN b NATURAL FULL JOIN c", all),
        ("SELECT * FROM a FULL JOIN (b FULL JOIN c USING (k)) USING (k)", all),
        ("SELECT * FROM a FULL JOIN b USING (k) JOIN c USING (k)", "3,-,b3,c3"),
        ("SELECT * FROM a FULL JOIN b USING (k) RIGHT JOIN c USING (k)", "3,-,b3,c3 4,-,-,c4"),
        ("SELECT * FROM a JOIN b USING (k) FULL JOIN c USING (k)", "2,a2,b2,- 3,-,-,c3 4,-,-,c4"),
        ("SELECT k, a.k, b.k, c.k FROM a FULL JOIN b USING (k) FULL JOIN c USING (k) WHERE k > 1", "2,2,2,- 3,-,3,3 4,-,-,4"),
        ("SELECT k, x FROM a FULL JOIN b USING (k) JOIN (SELECT 1 AS q) o ON true LEFT JOIN c USING (k) WHERE k > 1", "2,- 3,c3"),
    ])
    .await;
}

#[tokio::test]
async fn what_cannot_be_told_apart_is_refused() {
    let state = tables();
    for (sql, expected) in [
        ("SELECT k FROM a FULL JOIN b USING (k), c", "mbiguous"),
        (
            "SELECT * EXCLUDE (k), a.k FROM a FULL JOIN b USING (k)",
            "mbiguous",
        ),
        (
            "SELECT a.k FROM a NATURAL FULL JOIN b WHERE k = 3",
            "mbiguous",
        ),
        (
            "SELECT * FROM a FULL JOIN b USING (k) JOIN LATERAL (SELECT 3 AS k) l USING (k)",
            "LATERAL does not go with keys that merge",
        ),
    ] {
        let error = plan(&state, sql).await.unwrap_err();
        let text = error.find_root().strip_backtrace();
        assert!(text.contains(expected), "{sql}: {text}");
    }
}

#[test]
fn what_is_wrapped_is_so_once() {
    let wrapped = parsed("SELECT * FROM a FULL JOIN b USING (k) WHERE k = 3");
    assert_eq!(
        wrapped,
        "SELECT * FROM (a FULL JOIN b USING(k)) WHERE k = 3"
    );
    assert_eq!(parsed(&wrapped), wrapped);
}

fn parsed(sql: &str) -> String {
    match parse_statements(sql).unwrap().as_slice() {
        [MobulaStatement::DataFusion(statement)] => statement.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Runs each query and compares its rows, in any order.
async fn check(queries: &[(&str, &str)]) {
    let state = tables();
    for (sql, expected) in queries {
        let plan = plan(&state, sql).await.unwrap();
        let batches = DataFrame::new(state.clone(), plan).collect().await.unwrap();
        let mut rows: Vec<_> = batches.iter().flat_map(rows_of).collect();
        let mut expected: Vec<_> = expected.split_whitespace().collect();
        rows.sort();
        expected.sort_unstable();
        assert_eq!(rows, expected, "{sql}");
    }
}

fn rows_of(batch: &RecordBatch) -> Vec<String> {
    let cell = |column: &ArrayRef, row| match column.is_null(row) {
        true => "-".to_owned(),
        false => array_value_to_string(column, row).unwrap(),
    };
    let row = |row| {
        let cells: Vec<_> = batch.columns().iter().map(|c| cell(c, row)).collect();
        cells.join(",")
    };
    (0..batch.num_rows()).map(row).collect()
}

fn tables() -> SessionState {
    let state = session(Arc::new(FakeHost::default()));
    let add = |name, keys: Vec<Option<i64>>, other, values: Vec<&str>| {
        let columns: [(_, ArrayRef, _); 2] = [
            ("k", Arc::new(Int64Array::from(keys)), true),
            (other, Arc::new(StringArray::from(values)), true),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        add_table(&state, name, vec![rows]);
    };
    add(
        "a",
        vec![Some(1), Some(2), None],
        "v",
        vec!["a1", "a2", "an"],
    );
    add(
        "b",
        vec![Some(2), Some(3), None],
        "w",
        vec!["b2", "b3", "bn"],
    );
    add("c", vec![Some(3), Some(4)], "x", vec!["c3", "c4"]);
    state
}
