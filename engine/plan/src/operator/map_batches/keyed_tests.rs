//! Plans of calls whose rows go to actors by key, and where their blocks go.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::DataType;
use datafusion::physical_plan::collect;
use datafusion::physical_plan::displayable;
use expect_test::expect;
use mobula_udfs::{ActorSpec, Demand, PoolBounds};

use crate::config::MobulaOptions;
use crate::operator::repartition::TaskLimit;
use crate::sql::actor_methods::actor_methods;
use crate::test_session::{FakeHost, check_plan, functions, plan, session, session_knowing};

#[tokio::test]
async fn rows_are_spread_by_their_keys() {
    check_plan(
        "SELECT a, \"Embed\" FROM map_batches(TABLE(SELECT a, c, s FROM t), \"Embed\", partition_by => c, concurrency => 3)",
        expect![[r#"
            ProjectionExec: expr=[a@0 as a, Embed@3 as Embed]
              MapBatchesExec: udf=Embed, kind=scalar, partition_by=[c], batch_size=8, batch_format=numpy, concurrency=3
                SpreadExec: partitions=3, by=[c]
                  RepartitionExec: partitioning=Hash([c@1], 3), input_partitions=2
                    DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
    check_plan(
        "SELECT s FROM map(TABLE(t), \"Embed\", partition_by => (c, s), order_by => 'b DESC', concurrency => 2, snapshot_every => 10)",
        expect![[r#"
            ProjectionExec: expr=[s@2 as s]
              MapExec: udf=Embed, kind=scalar, partition_by=[c, s], order_by=[b DESC], batch_size=8, concurrency=2, snapshot_every=10
                SortExec: expr=[b@0 DESC], preserve_partitioning=[true]
                  SpreadExec: partitions=2, by=[c, s]
                    RepartitionExec: partitioning=Hash([c@1, s@2], 2), input_partitions=2
                      DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn nothing_moves_past_what_a_state_depends_on() {
    check_plan(
        "SELECT a, \"Embed\" FROM map_batches(TABLE(t), \"Embed\", partition_by => c, volatility => 'immutable') WHERE a > 3 ORDER BY a LIMIT 2",
        expect![[r#"
            SortExec: TopK(fetch=2), expr=[a@0 ASC NULLS LAST], preserve_partitioning=[false]
              FilterExec: a@0 > 3
                ProjectionExec: expr=[a@0 as a, Embed@3 as Embed]
                  MapBatchesExec: udf=Embed, kind=scalar, volatility=immutable, partition_by=[c], batch_size=8, batch_format=numpy, concurrency=1
                    SpreadExec: partitions=1, by=[c]
                      RepartitionExec: partitioning=Hash([c@1], 1), input_partitions=2
                        DataSourceExec: partitions=2, partition_sizes=[1, 1]
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_plan_says_by_what() {
    let state = session(Arc::new(FakeHost::default()));
    let sql = "SELECT a FROM map_batches(TABLE(t), \"Embed\", partition_by => (c), order_by => a)";
    let optimized = state.optimize(&plan(&state, sql).await.unwrap()).unwrap();
    assert_eq!(optimized, state.optimize(&optimized).unwrap());
    expect![[r#"
        Projection: a
          MapBatches: Embed over [s] AS Embed, partition_by=[c], order_by=[a]
            Projection: t.a AS a, t.c AS c, t.s AS s
              TableScan: t projection=[a, c, s]"#]]
    .assert_eq(&optimized.display_indent().to_string());
}

#[tokio::test]
async fn a_key_has_one_lane_and_its_order() {
    let host = FakeHost::default().with("Embed", |block| {
        let list = DataType::new_list(DataType::Float32, true);
        let nulls = new_null_array(&list, block.num_rows());
        Ok(vec![
            RecordBatch::try_from_iter_with_nullable([("r", nulls, true)]).unwrap(),
        ])
    });
    let host = Arc::new(host);
    let state = session(Arc::clone(&host));
    let sql = "SELECT s, \"Embed\" FROM map_batches(TABLE(t), \"Embed\", partition_by => s, order_by => 'a DESC', concurrency => 3)";
    let logical = plan(&state, sql).await.unwrap();
    let exec = state.create_physical_plan(&logical).await.unwrap();
    collect(exec, state.task_ctx()).await.unwrap();
    assert_eq!(*host.concurrency.lock().unwrap(), [3]);
    let lanes = host.lanes.lock().unwrap();
    let mut seen: Vec<(String, usize)> = vec![];
    for (lane, block) in lanes.iter() {
        let keys: &StringArray = block.column(0).as_string();
        let keys: Vec<_> = keys.iter().flatten().map(str::to_owned).collect();
        // `s` is the text of `a`.
        assert!(keys.is_sorted_by(|a, b| a > b), "{keys:?}");
        seen.extend(keys.into_iter().map(|key| (key, *lane)));
    }
    assert!(lanes.iter().all(|(lane, _)| *lane < 3));
    assert_eq!(seen.len(), 9);
    seen.sort();
    seen.dedup_by_key(|(key, _)| key.clone());
    assert_eq!(seen.len(), 9);
}

#[tokio::test]
async fn what_is_no_keyed_call_is_refused() {
    let state = session(Arc::new(FakeHost::default()));
    for (call, wanted) in [
        (
            "map_batches(TABLE(t), inc, partition_by => c)",
            "is a def and keeps nothing",
        ),
        (
            "map_batches(TABLE(t), \"Embed\", partition_by => c, concurrency => '1..2')",
            "Write concurrency => n",
        ),
        (
            "map_batches(TABLE(t), \"Embed\", partition_by => c, concurrency => NULL)",
            "Write concurrency => n",
        ),
        (
            "map_batches(TABLE(t), \"Embed\", order_by => c)",
            "Write partition_by => (column, …) as well",
        ),
        (
            "map_batches(TABLE(t), \"Embed\", snapshot_every => 3)",
            "says nothing without partition_by",
        ),
        (
            "map_groups(TABLE(t), twice, partition_by => c, snapshot_every => 3)",
            "a group is seen as a whole",
        ),
        (
            "map_batches(TABLE(t), \"Embed\", partition_by => d)",
            "expected columns of the input",
        ),
    ] {
        let error = plan(&state, &format!("SELECT * FROM {call}")).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(wanted), "{call}: {error}");
    }
}

/// `Embed` as a pool of so many actors.
fn pool(min: usize, max: usize) -> ActorSpec {
    let mut spec = ActorSpec {
        name: "p".to_owned(),
        class: functions().get("Embed").unwrap().as_ref().clone(),
        args: vec![],
        timeout: None,
        init_timeout: None,
        methods: vec![],
        demand: Demand::default(),
        pool: Some(PoolBounds {
            min,
            max,
            idle_ttl: None,
        }),
        member: 0,
    };
    spec.methods = actor_methods(&spec, vec![]);
    spec
}

#[tokio::test]
async fn as_many_streams_lead_to_a_pool_as_it_has_actors() {
    let functions = functions();
    functions.insert_actor(&pool(3, 3));
    let host = Arc::new(FakeHost::default());
    let mut state = session_knowing(host, Arc::clone(&functions), MobulaOptions::default());
    // Over many tasks too: which stream a key has depends on nothing else.
    state.config_mut().set_extension(Arc::new(TaskLimit(8)));
    let sql =
        "SELECT * FROM map(TABLE(SELECT CAST(a AS INT) AS k, s FROM t), p, partition_by => (k, s))";
    let logical = plan(&state, sql).await.unwrap();
    let exec = state.create_physical_plan(&logical).await.unwrap();
    let shown = displayable(exec.as_ref()).indent(false).to_string();
    expect![[r#"
        MapExec: udf=p, kind=scalar, partition_by=[k, s], batch_size=8, concurrency=3
          SpreadExec: partitions=3, by=[k, s]
            RepartitionExec: partitioning=Hash([CAST(k@0 AS Int64), s@1], 3), input_partitions=2
              ProjectionExec: expr=[CAST(a@0 AS Int32) as k, s@1 as s]
                DataSourceExec: partitions=2, partition_sizes=[1, 1]
    "#]]
    .assert_eq(&shown);
    functions.insert_actor(&pool(2, 3));
    let refused = plan(&state, sql).await.unwrap_err().to_string();
    assert!(
        refused.contains("\"p\" is of a pool of 2 to 3 actors"),
        "{refused}"
    );
    functions.set_pool("p", Some(pool(2, 2).pool.unwrap()));
    assert!(plan(&state, sql).await.is_ok());
}
