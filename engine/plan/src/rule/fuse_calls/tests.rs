//! What is put together, and what stays apart.

use std::sync::Arc;

use expect_test::expect;

use crate::test_session::{FakeHost, check_plan, physical_text, plan, session};

#[tokio::test]
async fn functions_of_the_same_rows_go_together() {
    check_plan("SELECT net(a, b), inc(c), dice(a + 1) FROM t", expect![[r#"
        ProjectionExec: expr=[net(t.a,t.b)@4 as net(t.a,t.b), inc(t.c)@5 as inc(t.c), dice(t.a + Int64(1))@6 as dice(t.a + Int64(1))]
          MapBatchesExec: udf=net, then=[map_batches inc (volatility=immutable), map_batches dice], kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
            ProjectionExec: expr=[a@0 as a, b@1 as b, c@2 as c, a@0 + 1 as __dice_a]
              DataSourceExec: partitions=2, partition_sizes=[1, 1]
    "#]]).await;
}

#[tokio::test]
async fn a_result_that_the_next_one_takes_stays_in_the_worker() {
    check_plan("SELECT inc(inc(a)), s FROM t", expect![[r#"
        ProjectionExec: expr=[inc(inc(t.a))@3 as inc(inc(t.a)), s@1 as s]
          MapBatchesExec: udf=inc, then=[map_batches inc (volatility=immutable)], kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
            DataSourceExec: partitions=2, partition_sizes=[1, 1]
    "#]]).await;
    check_plan("SELECT inc(c), net(inc(c), b) FROM t", expect![[r#"
        ProjectionExec: expr=[inc(t.c)@2 as inc(t.c), net(inc(t.c),t.b)@3 as net(inc(t.c),t.b)]
          MapBatchesExec: udf=net, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
            MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
              DataSourceExec: partitions=2, partition_sizes=[1, 1]
    "#]]).await;
}

#[tokio::test]
async fn one_mask_is_for_all() {
    check_plan(
        "SELECT CASE WHEN a > 1 THEN inc(a) + dice(c) END FROM t",
        expect![[r#"
            ProjectionExec: expr=[CASE WHEN a@0 > 1 THEN inc(t.a)@3 + dice(t.c)@4 END as CASE WHEN t.a > Int64(1) THEN inc(t.a) + dice(t.c) END]
              MapBatchesExec: udf=inc, then=[map_batches dice], kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, mask=__mask@2, preserve_order=false
                ProjectionExec: expr=[a@0 as a, c@1 as c, (a@0 > 1) IS NOT DISTINCT FROM true as __mask]
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
    check_plan(
        "SELECT CASE WHEN a > 1 THEN inc(a) END, inc(c) FROM t",
        expect![[r#"
            ProjectionExec: expr=[CASE WHEN a@0 > 1 THEN inc(t.a)@3 END as CASE WHEN t.a > Int64(1) THEN inc(t.a) END, inc(t.c)@4 as inc(t.c)]
              MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, mask=__mask@2, preserve_order=false
                  ProjectionExec: expr=[a@0 as a, c@1 as c, (a@0 > 1) IS NOT DISTINCT FROM true as __mask]
                    DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn rows_go_on_to_functions_of_a_row() {
    check_plan(
        "SELECT s FROM filter(TABLE(SELECT s, x FROM map(TABLE(SELECT * FROM flat_map(TABLE(t), twice)), same)), good)",
        expect![[r#"
            ProjectionExec: expr=[s@0 as s]
              ProjectionExec: expr=[s@1 as s, x@0 as x]
                FlatMapExec: udf=twice, then=[map same (volatility=immutable), filter good (volatility=immutable)], kind=table, concurrency=cores
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
    check_plan(
        "SELECT * FROM map(TABLE(SELECT x AS a, s FROM map_groups(TABLE(t), twice, partition_by => c)), inc)",
        expect![[r#"
            ProjectionExec: expr=[x@0 as a, s@1 as s, inc@2 as inc]
              MapGroupsExec: udf=twice, then=[map inc (volatility=immutable)], kind=table, partition_by=[c], batch_format=numpy, concurrency=cores
                SortExec: expr=[c@2 ASC], preserve_partitioning=[true]
                  RepartitionExec: partitioning=Hash([c@2], 2), input_partitions=2
                    DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn what_counts_for_one_call_keeps_it_apart() {
    for option in [
        "concurrency => 2",
        "timeout => '1s'",
        "init_timeout => '1s'",
        "on_error => 'drop'",
        "batch_size => 9",
        "num_cpus => 1",
        "num_gpus => 0",
        "memory => '1GiB'",
        "resources => 'fpga=1'",
        "label_selector => 'zone=a'",
    ] {
        let sql = format!(
            "SELECT * FROM map(TABLE(SELECT * FROM flat_map(TABLE(t), twice)), same, {option})"
        );
        let state = session(Arc::new(FakeHost::default()));
        let logical = plan(&state, &sql).await.unwrap();
        let plan = state.create_physical_plan(&logical).await.unwrap();
        let text = physical_text(&plan);
        assert!(!text.contains("then="), "{text}");
    }
    check_plan(
        "SELECT * FROM map_batches(TABLE(SELECT * FROM map(TABLE(t), twice)), same)",
        expect![[r#"
            MapBatchesExec: udf=same, kind=table, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores
              MapExec: udf=twice, kind=table, concurrency=cores, row_preserving=true
                DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
    check_plan(
        "SELECT * FROM map_batches(TABLE(SELECT s, inc(a) FROM t), \"Embed\")",
        expect![[r#"
            MapBatchesExec: udf=Embed, kind=scalar, batch_size=8, batch_format=numpy, concurrency=1
              ProjectionExec: expr=[s@1 as s, inc(t.a)@2 as inc(t.a)]
                MapBatchesExec: udf=inc, kind=scalar, volatility=immutable, batch_size=block, batch_format=numpy, concurrency=cores, preserve_order=false
                  DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
}
