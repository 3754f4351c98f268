//! Approved plans of calls in JOIN ON.

use super::tests::check_rule;
use expect_test::expect;

#[tokio::test]
async fn what_one_side_gives_is_a_column_of_it() {
    check_rule(
        "SELECT x FROM t JOIN u ON inc(t.a) = u.a",
        expect![[r#"
        Projection: u.x
          Projection: t.a, t.b, t.c, t.s, u.a, u.x
            Inner Join:  Filter: inc(t.a) = u.a
              MapBatches: inc over [t.a] AS inc(t.a)
                TableScan: t
              TableScan: u"#]],
    )
    .await;
    check_rule(
        "SELECT t.a, x FROM t JOIN u ON inc(t.a + 1) < inc(u.a) AND t.c = 1 AND t.a = u.x AND big(u.x)",
        expect![[r#"
            Projection: t.a, u.x
              Projection: t.a, t.b, t.c, t.s, u.a, u.x
                Inner Join:  Filter: t.a = u.x AND inc(t.a + Int64(1)) < inc(u.a) AND big(u.x)
                  MapBatches: inc over [__inc_a] AS inc(t.a + Int64(1))
                    Projection: t.a, t.b, t.c, t.s, t.a + Int64(1) AS __inc_a
                      Filter: t.c = Int64(1)
                        TableScan: t
                  MapBatches: big over [u.x] AS big(u.x)
                    MapBatches: inc over [u.a] AS inc(u.a)
                      TableScan: u"#]],
    )
    .await;
    check_rule(
        "SELECT t.a, u.a FROM t FULL JOIN u ON inc(t.a) = inc(u.x) AND t.c > 0 AND t.c = u.a",
        expect![[r#"
            Projection: t.a, u.a
              Projection: t.a, t.b, t.c, t.s, u.a, u.x
                Full Join:  Filter: t.c > Int64(0) AND t.c = u.a AND inc(t.a) = inc(u.x)
                  MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                    Projection: t.a, t.b, t.c, t.s, t.c > Int64(0) IS TRUE AS __mask
                      TableScan: t
                  MapBatches: inc over [u.x] AS inc(u.x)
                    TableScan: u"#]],
    )
    .await;
}

#[tokio::test]
async fn what_takes_both_sides_is_a_filter_above_an_inner_join() {
    check_rule(
        "SELECT t.a FROM t JOIN u ON t.a = u.a AND net(t.b, u.x) > 1 AND dice(t.a) = 1",
        expect![[r#"
            Projection: t.a
              Projection: t.a, t.b, t.c, t.s, u.a, u.x
                Filter: dice(t.a) = Int64(1)
                  MapBatches: dice over [t.a] AS dice(t.a)
                    Filter: net(t.b,u.x) > CAST(Int64(1) AS Float64)
                      MapBatches: net over [t.b, u.x] AS net(t.b,u.x)
                        Inner Join:  Filter: t.a = u.a
                          TableScan: t
                          TableScan: u"#]],
    )
    .await;
    check_rule(
        "SELECT t.a FROM t JOIN u ON t.a = u.a OR inc(t.a) = u.x",
        expect![[r#"
            Projection: t.a
              Projection: t.a, t.b, t.c, t.s, u.a, u.x
                Filter: t.a = u.a OR inc(t.a) = u.x
                  MapBatches: inc over [t.a] AS inc(t.a), mask=__mask
                    Projection: t.a, t.b, t.c, t.s, u.a, u.x, t.a = u.a IS NOT TRUE AS __mask
                      Cross Join:
                        TableScan: t
                        TableScan: u"#]],
    )
    .await;
    check_rule(
        "SELECT t.a FROM t, u WHERE inc(t.a) = u.a",
        expect![[r#"
            Projection: t.a
              Projection: t.a, t.b, t.c, t.s, u.a, u.x
                Inner Join:  Filter: inc(t.a) = u.a
                  MapBatches: inc over [t.a] AS inc(t.a)
                    TableScan: t
                  TableScan: u"#]],
    )
    .await;
}

#[tokio::test]
async fn tables_in_a_list_are_joined_by_keys_alone() {
    check_rule(
        "SELECT t.a FROM t, u WHERE net(t.b, 1) = net(u.x, 1) AND inc(u.x) > 2 AND t.c = 1",
        expect![[r#"
            Projection: t.a
              Projection: t.a, t.b, t.c, t.s, u.a, u.x
                Filter: inc(u.x) > Int64(2)
                  MapBatches: inc over [u.x] AS inc(u.x)
                    Filter: t.c = Int64(1)
                      Projection: t.a, t.b, t.c, t.s, u.a, u.x
                        Inner Join:  Filter: net(t.b,Int64(1)) = net(u.x,Int64(1))
                          MapBatches: net over [t.b, __net_b] AS net(t.b,Int64(1))
                            Projection: t.a, t.b, t.c, t.s, CAST(Int64(1) AS Float64) AS __net_b
                              TableScan: t
                          MapBatches: net over [u.x, __net_b_1] AS net(u.x,Int64(1))
                            Projection: u.a, u.x, CAST(Int64(1) AS Float64) AS __net_b_1
                              TableScan: u"#]],
    )
    .await;
    check_rule(
        "SELECT t.a FROM t, u WHERE inc(t.a) = inc(u.x) AND t.c = u.a",
        expect![[r#"
            Projection: t.a
              Projection: t.a, t.b, t.c, t.s, u.a, u.x
                Filter: inc(t.a) = inc(u.x)
                  MapBatches: inc over [u.x] AS inc(u.x)
                    MapBatches: inc over [t.a] AS inc(t.a)
                      Filter: t.c = u.a
                        Cross Join:
                          TableScan: t
                          TableScan: u"#]],
    )
    .await;
}

#[tokio::test]
async fn other_joins_refuse_that() {
    for (join, expected) in [
        (
            "LEFT",
            expect![[
                r#"External error: function "net" cannot be called in the condition of a LEFT JOIN with columns of both sides or declared VOLATILE: rows without a partner are treated apart, so it would have to run while joining. Call it in a subquery over an inner join of both sides and join with that"#
            ]],
        ),
        (
            "RIGHT",
            expect![[
                r#"External error: function "net" cannot be called in the condition of a RIGHT JOIN with columns of both sides or declared VOLATILE: rows without a partner are treated apart, so it would have to run while joining. Call it in a subquery over an inner join of both sides and join with that"#
            ]],
        ),
        (
            "FULL",
            expect![[
                r#"External error: function "net" cannot be called in the condition of a FULL JOIN with columns of both sides or declared VOLATILE: rows without a partner are treated apart, so it would have to run while joining. Call it in a subquery over an inner join of both sides and join with that"#
            ]],
        ),
        (
            "LEFT SEMI",
            expect![[
                r#"External error: function "net" cannot be called in the condition of a LEFT SEMI JOIN with columns of both sides or declared VOLATILE: rows without a partner are treated apart, so it would have to run while joining. Call it in a subquery over an inner join of both sides and join with that"#
            ]],
        ),
        (
            "LEFT ANTI",
            expect![[
                r#"External error: function "net" cannot be called in the condition of a LEFT ANTI JOIN with columns of both sides or declared VOLATILE: rows without a partner are treated apart, so it would have to run while joining. Call it in a subquery over an inner join of both sides and join with that"#
            ]],
        ),
    ] {
        check_rule(
            &format!("SELECT 1 FROM t {join} JOIN u ON net(t.b, u.x) > 1"),
            expected,
        )
        .await;
    }
    check_rule(
        "SELECT 1 FROM t LEFT JOIN u ON dice(t.a) = u.x",
        expect![[r#"External error: function "dice" cannot be called in the condition of a LEFT JOIN with columns of both sides or declared VOLATILE: rows without a partner are treated apart, so it would have to run while joining. Call it in a subquery over an inner join of both sides and join with that"#]],
    )
    .await;
}

#[tokio::test]
async fn joins_without_calls_stay() {
    check_rule(
        "SELECT x FROM t LEFT JOIN u ON t.a = u.a",
        expect![[r#"
        Projection: u.x
          Left Join:  Filter: t.a = u.a
            TableScan: t
            TableScan: u"#]],
    )
    .await;
}
