//! Approved plans: where the rule applies, where it does not, and twice.

use super::*;
use crate::test_session::{FakeHost, plan, session};
use expect_test::{Expect, expect};

/// The plan of `sql` after analysis; a second run must change nothing.
pub(super) async fn check_rule(sql: &str, expected: Expect) {
    let state = session(Arc::new(FakeHost::default()));
    let analyzed = match plan(&state, sql).await {
        Ok(plan) => state
            .analyzer()
            .execute_and_check(plan, state.config_options(), |_, _| {}),
        Err(error) => Err(error),
    };
    let text = match analyzed {
        Ok(plan) => {
            let again = HoistUdf
                .analyze(plan.clone(), state.config_options())
                .unwrap();
            assert_eq!(plan, again, "{sql}");
            plan.display_indent().to_string()
        }
        Err(error) => error.find_root().strip_backtrace(),
    };
    expected.assert_eq(&text);
}

#[tokio::test]
async fn projections() {
    check_rule(
        "SELECT a, b FROM t",
        expect![[r#"
        Projection: t.a, t.b
          TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT net(b, b) FROM t",
        expect![[r#"
        Projection: net(t.b,t.b)
          MapBatches: net over [t.b, t.b] AS net(t.b,t.b)
            TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT t.a, net(a, b) + 1 AS n FROM t",
        expect![[r#"
        Projection: t.a, net(t.a,t.b) + CAST(Int64(1) AS Float64) AS n
          MapBatches: net over [t.a, t.b] AS net(t.a,t.b)
            TableScan: t"#]],
    )
    .await;
    check_rule("SELECT net(b * 2, 1) AS n, net(b * 2, 2), inc(inc(a)) FROM t", expect![[r#"
        Projection: net(t.b * Int64(2),Int64(1)) AS n, net(t.b * Int64(2),Int64(2)), inc(inc(t.a))
          MapBatches: inc over [inc(t.a)] AS inc(inc(t.a))
            MapBatches: inc over [t.a] AS inc(t.a)
              MapBatches: net over [__net_a, __net_b_1] AS net(t.b * Int64(2),Int64(2))
                MapBatches: net over [__net_a, __net_b] AS net(t.b * Int64(2),Int64(1))
                  Projection: t.a, t.b, t.c, t.s, __net_a, __net_b, CAST(Int64(2) AS Float64) AS __net_b_1
                    Projection: t.a, t.b, t.c, t.s, __net_a, CAST(Int64(1) AS Float64) AS __net_b
                      Projection: t.a, t.b, t.c, t.s, t.b * CAST(Int64(2) AS Float64) AS __net_a
                        TableScan: t"#]]).await;
    check_rule("SELECT inc(a), inc(a) + inc(a), dice(a), dice(a) + 1 FROM t", expect![[r#"
        Projection: inc(t.a), inc(t.a) + inc(t.a), dice(t.a), dice(t.a)_1 + Int64(1) AS dice(t.a) + Int64(1)
          MapBatches: dice over [t.a] AS dice(t.a)_1
            MapBatches: dice over [t.a] AS dice(t.a)
              MapBatches: inc over [t.a] AS inc(t.a)
                TableScan: t"#]]).await;
    check_rule(
        "SELECT inc(1), one()",
        expect![[r#"
        Projection: inc(Int64(1)), one()
          MapBatches: one over [] AS one()
            MapBatches: inc over [__inc_a] AS inc(Int64(1))
              Projection: Int64(1) AS __inc_a
                EmptyRelation: rows=1"#]],
    )
    .await;
}

#[tokio::test]
async fn filters_keep_cheap_conjuncts_below() {
    check_rule(
        "SELECT a FROM t WHERE c = 1 AND inc(a) > 5 AND a < inc(c) AND s LIKE 'x%'",
        expect![[r#"
            Projection: t.a
              Projection: t.a, t.b, t.c, t.s
                Filter: t.a < inc(t.c)
                  MapBatches: inc over [t.c] AS inc(t.c)
                    Filter: inc(t.a) > Int64(5)
                      MapBatches: inc over [t.a] AS inc(t.a)
                        Filter: t.c = Int64(1) AND t.s LIKE Utf8("x%")
                          TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT a FROM t WHERE inc(a) IN (SELECT inc(x) FROM u)",
        expect![[r#"
        Projection: t.a
          Projection: t.a, t.b, t.c, t.s
            Filter: inc(t.a) IN (<subquery>)
              Subquery:
                Projection: inc(u.x)
                  MapBatches: inc over [u.x] AS inc(u.x)
                    TableScan: u
              MapBatches: inc over [t.a] AS inc(t.a)
                TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn aggregates_sorts_and_windows() {
    check_rule(
        "SELECT inc(a), sum(inc(c)) AS s FROM t GROUP BY inc(a) HAVING sum(inc(c)) > 1",
        expect![[r#"
        Projection: inc(t.a), sum(inc(t.c)) AS s
          Filter: sum(inc(t.c)) > Int64(1)
            Aggregate: groupBy=[[inc(t.a)]], aggr=[[sum(inc(t.c))]]
              MapBatches: inc over [t.c] AS inc(t.c)
                MapBatches: inc over [t.a] AS inc(t.a)
                  TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT a FROM t ORDER BY inc(c) DESC LIMIT 3",
        expect![[r#"
        Limit: skip=0, fetch=3
          Projection: t.a
            Projection: t.a, t.c
              Sort: inc(t.c) DESC NULLS FIRST
                MapBatches: inc over [t.c] AS inc(t.c)
                  Projection: t.a, t.c
                    TableScan: t"#]],
    )
    .await;
    check_rule("SELECT a, sum(inc(a)) OVER (PARTITION BY inc(c) ORDER BY a) FROM t", expect![[r#"
        Projection: t.a, sum(inc(t.a)) PARTITION BY [inc(t.c)] ORDER BY [t.a ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
          Projection: t.a, t.b, t.c, t.s, sum(inc(t.a)) PARTITION BY [inc(t.c)] ORDER BY [t.a ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            WindowAggr: windowExpr=[[sum(inc(t.a)) PARTITION BY [inc(t.c)] ORDER BY [t.a ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW]]
              MapBatches: inc over [t.c] AS inc(t.c)
                MapBatches: inc over [t.a] AS inc(t.a)
                  TableScan: t"#]]).await;
    check_rule("SELECT count(*) FILTER (WHERE inc(a) > 1) FROM t", expect![[r#"
        Projection: count(Int64(1)) FILTER (WHERE inc(t.a) > Int64(1)) AS count(*) FILTER (WHERE inc(t.a) > Int64(1))
          Aggregate: groupBy=[[]], aggr=[[count(Int64(1)) FILTER (WHERE inc(t.a) > Int64(1))]]
            MapBatches: inc over [t.a] AS inc(t.a)
              TableScan: t"#]]).await;
}

#[tokio::test]
async fn grouping_sets_distinct_and_unnest() {
    check_rule(
        "SELECT inc(a), count(*) FROM t GROUP BY ROLLUP(inc(a))",
        expect![[r#"
            Projection: inc(t.a), count(Int64(1)) AS count(*)
              Aggregate: groupBy=[[ROLLUP (inc(t.a))]], aggr=[[count(Int64(1))]]
                MapBatches: inc over [t.a] AS inc(t.a)
                  TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT DISTINCT inc(a) FROM t UNION ALL SELECT inc(x) FROM u",
        expect![[r#"
            Union
              Distinct:
                Projection: inc(t.a)
                  MapBatches: inc over [t.a] AS inc(t.a)
                    TableScan: t
              Projection: inc(u.x) AS inc(t.a)
                MapBatches: inc over [u.x] AS inc(u.x)
                  TableScan: u"#]],
    )
    .await;
    check_rule(
        "SELECT unnest(\"Embed\"(s)) FROM t",
        expect![[r#"
        Projection: __unnest_placeholder(Embed(t.s),depth=1) AS UNNEST(Embed(t.s))
          Unnest: lists[__unnest_placeholder(Embed(t.s))|depth=1] structs[]
            Projection: Embed(t.s) AS __unnest_placeholder(Embed(t.s))
              MapBatches: Embed over [t.s] AS Embed(t.s)
                TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn a_taken_name_gets_a_number() {
    check_rule(
        "SELECT inc(a) FROM (SELECT a, c AS \"inc(q.a)\" FROM t) q",
        expect![[r#"
        Projection: inc(q.a)_1 AS inc(q.a)
          MapBatches: inc over [q.a] AS inc(q.a)_1
            SubqueryAlias: q
              Projection: t.a, t.c AS inc(q.a)
                TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn statements_around_a_query() {
    check_rule(
        "EXPLAIN SELECT inc(a) FROM t",
        expect![[r#"
        Explain
          Projection: inc(t.a)
            MapBatches: inc over [t.a] AS inc(t.a)
              TableScan: t"#]],
    )
    .await;
    check_rule(
        "INSERT INTO u SELECT inc(a), c FROM t",
        expect![[r#"
        Dml: op=[Insert Into] table=[u]
          Projection: inc(t.a) AS a, t.c AS x
            Projection: inc(t.a), t.c
              MapBatches: inc over [t.a] AS inc(t.a)
                TableScan: t"#]],
    )
    .await;
    check_rule(
        "CREATE VIEW v AS SELECT inc(a) AS i FROM t",
        expect![[r#"
        CreateView: Bare { table: "v" }
          Projection: inc(t.a) AS i
            MapBatches: inc over [t.a] AS inc(t.a)
              TableScan: t"#]],
    )
    .await;
    check_rule(
        "CREATE TABLE w AS SELECT inc(a) AS i FROM t",
        expect![[r#"
        CreateMemoryTable: Bare { table: "w" }
          Projection: inc(t.a) AS i
            MapBatches: inc over [t.a] AS inc(t.a)
              TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn misplaced_calls_are_refused() {
    check_rule("INSERT INTO u VALUES (inc(1), 2)", expect![[r#"External error: function "inc" cannot be called in VALUES. Call it in a subquery first and use its result here"#]]).await;
    check_rule("SELECT DISTINCT ON (inc(a)) a FROM t", expect![[r#"External error: function "inc" cannot be called in DISTINCT ON. Call it in a subquery first and use its result here"#]]).await;
    check_rule("SELECT a FROM t LIMIT inc(1)", expect![[r#"External error: function "inc" cannot be called in LIMIT. Call it in a subquery first and use its result here"#]]).await;
    check_rule(
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE inc(t.a + 1) = u.a)",
        expect![[r#"External error: function "inc" cannot be called in a subquery over columns of the outer query. Call it in a subquery first and use its result here"#]],
    )
    .await;
}

/// DataFusion turns them into joins later, which takes the outer column on top.
#[tokio::test]
async fn correlated_subqueries() {
    check_rule(
        "SELECT a FROM t WHERE c < (SELECT sum(inc(x)) FROM u WHERE u.a = t.a AND u.x > 2)",
        expect![[r#"
            Projection: t.a
              Filter: t.c < (<subquery>)
                Subquery:
                  Projection: sum(inc(u.x))
                    Aggregate: groupBy=[[]], aggr=[[sum(inc(u.x))]]
                      Filter: u.a = outer_ref(t.a)
                        MapBatches: inc over [u.x] AS inc(u.x)
                          Filter: u.x > Int64(2)
                            TableScan: u
                TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE inc(u.x) > 1 AND u.a = t.a AND u.x > 2)",
        expect![[r#"
            Projection: t.a
              Filter: EXISTS (<subquery>)
                Subquery:
                  Projection: Int64(1)
                    Projection: u.a, u.x
                      Filter: u.a = outer_ref(t.a)
                        Filter: inc(u.x) > Int64(1)
                          MapBatches: inc over [u.x] AS inc(u.x)
                            Filter: u.x > Int64(2)
                              TableScan: u
                TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn wrong_arguments_are_refused() {
    check_rule(
        "SELECT net(a) FROM t",
        expect![[r#"External error: function "net" takes 2 arguments, not 1"#]],
    )
    .await;
    check_rule("SELECT inc(s) FROM t", expect![[r#"External error: argument 1 ("a") of function "inc" must be Int64, not Utf8. Write a CAST"#]]).await;
    check_rule(
        "SELECT net(b => a, a => b) FROM t",
        expect![[r#"
        Projection: net(t.b,t.a)
          MapBatches: net over [t.b, t.a] AS net(t.b,t.a)
            TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT twice(a) FROM t",
        expect![[r#"External error: function "twice" returns a table. Call it as FROM map_batches(TABLE(query), twice)"#]],
    )
    .await;
    check_rule(
        "SELECT nett(a, b) FROM t",
        expect![[r#"
        Error during planning: Invalid function 'nett'.
        Did you mean 'net'?"#]],
    )
    .await;
}
