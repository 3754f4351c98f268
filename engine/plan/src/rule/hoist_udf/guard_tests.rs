//! Approved plans of calls that run for some rows only.

use super::tests::check_rule;
use expect_test::expect;

#[tokio::test]
async fn branches_of_a_case() {
    check_rule(
        "SELECT CASE WHEN a > 0 THEN inc(a) WHEN c = 1 THEN inc(c) ELSE dice(a) END AS r FROM t",
        expect![[r#"
            Projection: CASE WHEN t.a > Int64(0) THEN inc(t.a) WHEN t.c = Int64(1) THEN inc(t.c) ELSE dice(t.a) END AS r
              MapBatches: dice over [t.a] AS dice(t.a), mask=__mask_2
                MapBatches: inc over [t.c] AS inc(t.c), mask=__mask_1
                  MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                    Projection: t.a, t.b, t.c, t.s, __mask, __mask_1, CAST(CASE WHEN t.a > Int64(0) THEN Int8(0) WHEN t.c = Int64(1) THEN Int8(0) ELSE Int8(1) END AS Boolean) AS __mask_2
                      Projection: t.a, t.b, t.c, t.s, __mask, CAST(CASE WHEN t.a > Int64(0) THEN Int8(0) WHEN t.c = Int64(1) THEN Int8(1) ELSE Int8(0) END AS Boolean) AS __mask_1
                        Projection: t.a, t.b, t.c, t.s, t.a > Int64(0) IS TRUE AS __mask
                          TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT CASE c WHEN 0 THEN 1 WHEN 2 THEN inc(a) END AS r FROM t",
        expect![[r#"
            Projection: CASE t.c WHEN Int64(0) THEN Int64(1) WHEN Int64(2) THEN inc(t.a) END AS r
              MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                Projection: t.a, t.b, t.c, t.s, CAST(CASE t.c WHEN Int64(0) THEN Int8(0) WHEN Int64(2) THEN Int8(1) ELSE Int8(0) END AS Boolean) AS __mask
                  TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT CASE WHEN inc(a) > 1 THEN a WHEN a = 3 THEN 4 ELSE c END AS r FROM t",
        expect![[r#"
            Projection: CASE WHEN inc(t.a) > Int64(1) THEN t.a WHEN t.a = Int64(3) THEN Int64(4) ELSE t.c END AS r
              MapBatches: inc over [t.a] AS inc(t.a)
                TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn calls_in_conditions_and_cases_in_cases() {
    check_rule(
        "SELECT CASE WHEN inc(a) > 1 THEN inc(c) WHEN big(a) THEN 2 END AS r FROM t",
        expect![[r#"
            Projection: CASE WHEN inc(t.a) > Int64(1) THEN inc(t.c) WHEN big(t.a) THEN Int64(2) END AS r
              MapBatches: big over [t.a] AS big(t.a), mask=__mask_1
                MapBatches: inc over [t.c] AS inc(t.c), mask=__mask
                  Projection: t.a, t.b, t.c, t.s, inc(t.a), __mask, inc(t.a) > Int64(1) IS NOT TRUE AS __mask_1
                    Projection: t.a, t.b, t.c, t.s, inc(t.a), inc(t.a) > Int64(1) IS TRUE AS __mask
                      MapBatches: inc over [t.a] AS inc(t.a)
                        TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT CASE WHEN a > 1 THEN CASE WHEN c = 0 THEN inc(a) ELSE inc(c) END END AS r FROM t",
        expect![[r#"
            Projection: CASE WHEN t.a > Int64(1) THEN CASE WHEN t.c = Int64(0) THEN inc(t.a) ELSE inc(t.c) END END AS r
              MapBatches: inc over [t.c] AS inc(t.c), mask=__mask_2
                MapBatches: inc over [t.a] AS inc(t.a), mask=__mask_1
                  Projection: t.a, t.b, t.c, t.s, __mask, __mask_1, CAST(CASE WHEN __mask THEN CAST(t.c = Int64(0) IS NOT TRUE AS Int8) END AS Boolean) AS __mask_2
                    Projection: t.a, t.b, t.c, t.s, __mask, CAST(CASE WHEN __mask THEN CAST(t.c = Int64(0) IS TRUE AS Int8) END AS Boolean) AS __mask_1
                      Projection: t.a, t.b, t.c, t.s, t.a > Int64(1) IS TRUE AS __mask
                        TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn and_or_coalesce() {
    check_rule(
        "SELECT a > 1 AND inc(a) = 2 AS x, a > 1 OR inc(a) = 2 AS y FROM t",
        expect![[r#"
            Projection: t.a > Int64(1) AND inc(t.a) = Int64(2) AS x, t.a > Int64(1) OR inc(t.a)_1 = Int64(2) AS y
              MapBatches: inc over [t.a] AS inc(t.a)_1, mask=__mask_1
                MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                  Projection: t.a, t.b, t.c, t.s, __mask, t.a > Int64(1) IS NOT TRUE AS __mask_1
                    Projection: t.a, t.b, t.c, t.s, t.a > Int64(1) IS NOT FALSE AS __mask
                      TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT a FROM t WHERE a = 1 OR inc(a) = 2",
        expect![[r#"
        Projection: t.a
          Projection: t.a, t.b, t.c, t.s
            Filter: t.a = Int64(1) OR inc(t.a) = Int64(2)
              MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                Projection: t.a, t.b, t.c, t.s, t.a = Int64(1) IS NOT TRUE AS __mask
                  TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT coalesce(a, inc(c), b, inc(a)), nvl(a, inc(c)), coalesce(inc(a), c) FROM t",
        expect![[r#"
            Projection: coalesce(CAST(t.a AS Float64), CAST(inc(t.c) AS Float64), t.b, CAST(inc(t.a) AS Float64)), nvl(t.a, inc(t.c)_1) AS nvl(t.a,inc(t.c)), coalesce(inc(t.a)_1, t.c) AS coalesce(inc(t.a),t.c)
              MapBatches: inc over [t.a] AS inc(t.a)_1
                MapBatches: inc over [t.c] AS inc(t.c)_1, mask=__mask_2
                  MapBatches: inc over [t.a] AS inc(t.a), mask=__mask_1
                    Projection: t.a, t.b, t.c, t.s, __mask, inc(t.c), __mask_1, t.a IS NULL AS __mask_2
                      Projection: t.a, t.b, t.c, t.s, __mask, inc(t.c), coalesce(CAST(t.a AS Float64), CAST(inc(t.c) AS Float64), t.b) IS NULL AS __mask_1
                        MapBatches: inc over [t.c] AS inc(t.c), mask=__mask
                          Projection: t.a, t.b, t.c, t.s, CAST(t.a AS Float64) IS NULL AS __mask
                            TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn filtered_aggregates() {
    check_rule(
        "SELECT sum(inc(a)) FILTER (WHERE a > 1), count(*) FILTER (WHERE inc(c) > 1) FROM t",
        expect![[r#"
            Projection: sum(inc(t.a)) FILTER (WHERE t.a > Int64(1)), count(Int64(1)) FILTER (WHERE inc(t.c) > Int64(1)) AS count(*) FILTER (WHERE inc(t.c) > Int64(1))
              Aggregate: groupBy=[[]], aggr=[[sum(inc(t.a)) FILTER (WHERE t.a > Int64(1)), count(Int64(1)) FILTER (WHERE inc(t.c) > Int64(1))]]
                MapBatches: inc over [t.c] AS inc(t.c)
                  MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                    Projection: t.a, t.b, t.c, t.s, t.a > Int64(1) IS TRUE AS __mask
                      TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT sum(inc(a)) FILTER (WHERE c > 1) OVER (PARTITION BY inc(c)) AS s FROM t",
        expect![[r#"
            Projection: sum(inc(t.a)) FILTER (WHERE t.c > Int64(1)) PARTITION BY [inc(t.c)] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING AS s
              Projection: t.a, t.b, t.c, t.s, sum(inc(t.a)) FILTER (WHERE t.c > Int64(1)) PARTITION BY [inc(t.c)] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
                WindowAggr: windowExpr=[[sum(inc(t.a)) FILTER (WHERE t.c > Int64(1)) PARTITION BY [inc(t.c)] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING]]
                  MapBatches: inc over [t.c] AS inc(t.c)
                    MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                      Projection: t.a, t.b, t.c, t.s, t.c > Int64(1) IS TRUE AS __mask
                        TableScan: t"#]],
    )
    .await;
}

/// What must not be evaluated twice, or for rows that were kept from it, is not.
#[tokio::test]
async fn conditions_and_arguments_run_once_and_for_their_rows() {
    check_rule(
        "SELECT CASE WHEN a = 0 THEN 0 WHEN random() < 10 / a THEN inc(10 / a) END AS r FROM t",
        expect![[r#"
            Projection: CASE WHEN t.a = Int64(0) THEN Int64(0) WHEN __guard THEN inc(Int64(10) / t.a) END AS r
              MapBatches: inc over [__inc_a] AS inc(Int64(10) / t.a), mask=__mask_1
                Projection: t.a, t.b, t.c, t.s, __mask, __guard, __mask_1, CASE WHEN __mask_1 THEN Int64(10) / t.a END AS __inc_a
                  Projection: t.a, t.b, t.c, t.s, __mask, __guard, CAST(CASE WHEN t.a = Int64(0) THEN Int8(0) WHEN __guard THEN Int8(1) ELSE Int8(0) END AS Boolean) AS __mask_1
                    Projection: t.a, t.b, t.c, t.s, __mask, CAST(CASE WHEN __mask THEN CAST(random() < CAST(Int64(10) / t.a AS Float64) AS Int8) END AS Boolean) AS __guard
                      Projection: t.a, t.b, t.c, t.s, t.a = Int64(0) IS NOT TRUE AS __mask
                        TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT CASE WHEN dice(a) = 0 THEN inc(a) END AS r FROM t",
        expect![[r#"
            Projection: CASE WHEN dice(t.a) = Int64(0) THEN inc(t.a) END AS r
              MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                Projection: t.a, t.b, t.c, t.s, dice(t.a), dice(t.a) = Int64(0) IS TRUE AS __mask
                  MapBatches: dice over [t.a] AS dice(t.a)
                    TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT a <> 0 AND inc(10 / a) > 1 AND inc(c) > 2 AS r FROM t",
        expect![[r#"
            Projection: t.a != Int64(0) AND inc(Int64(10) / t.a) > Int64(1) AND inc(t.c) > Int64(2) AS r
              MapBatches: inc over [t.c] AS inc(t.c), mask=__mask_1
                Projection: t.a, t.b, t.c, t.s, __mask, __inc_a, inc(Int64(10) / t.a), t.a != Int64(0) AND inc(Int64(10) / t.a) > Int64(1) IS NOT FALSE AS __mask_1
                  MapBatches: inc over [__inc_a] AS inc(Int64(10) / t.a), mask=__mask
                    Projection: t.a, t.b, t.c, t.s, __mask, CASE WHEN __mask THEN Int64(10) / t.a END AS __inc_a
                      Projection: t.a, t.b, t.c, t.s, t.a != Int64(0) IS NOT FALSE AS __mask
                        TableScan: t"#]],
    )
    .await;
}

#[tokio::test]
async fn equal_calls_are_shared_where_rows_allow() {
    // The unguarded one covers the others; those of two branches have different rows.
    check_rule(
        "SELECT inc(a), CASE WHEN c = 0 THEN inc(a) END AS r FROM t",
        expect![[r#"
            Projection: inc(t.a), CASE WHEN t.c = Int64(0) THEN inc(t.a) END AS r
              MapBatches: inc over [t.a] AS inc(t.a)
                TableScan: t"#]],
    )
    .await;
    check_rule(
        "SELECT CASE WHEN c = 0 THEN inc(a) ELSE inc(a) + 1 END AS r, CASE WHEN c = 0 THEN inc(a) END AS s FROM t",
        expect![[r#"
            Projection: CASE WHEN t.c = Int64(0) THEN inc(t.a) ELSE inc(t.a)_1 + Int64(1) END AS r, CASE WHEN t.c = Int64(0) THEN inc(t.a) END AS s
              MapBatches: inc over [t.a] AS inc(t.a)_1, mask=__mask_1
                MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                  Projection: t.a, t.b, t.c, t.s, __mask, t.c = Int64(0) IS NOT TRUE AS __mask_1
                    Projection: t.a, t.b, t.c, t.s, t.c = Int64(0) IS TRUE AS __mask
                      TableScan: t"#]],
    )
    .await;
}
