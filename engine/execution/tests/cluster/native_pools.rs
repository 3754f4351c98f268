//! Native functions that ask for resources live where these are.

use mobula_udfs::native::NativeBatches;
use mobula_udfs::{FunctionSpec, Literal, NativeFunction, NativeInstance, NativePlace};

use super::pools::{GPUS, batches_of, free, texts};
use super::resources::add;
use super::*;

/// Doubles, and may say which GPU it has.
struct Doubling;

impl NativeFunction for Doubling {
    fn spec(&self) -> FunctionSpec {
        FunctionSpec::native_scalar("doubling", [("k", DataType::Int64)], DataType::Utf8)
    }

    fn open(&self, _: &[(String, Literal)]) -> Result<Box<dyn NativeInstance>, NativeError> {
        Ok(Box::new(Doubled("no GPU".into())))
    }

    fn open_at(
        &self,
        _: &[(String, Literal)],
        place: &NativePlace,
    ) -> Result<Box<dyn NativeInstance>, NativeError> {
        Ok(Box::new(Doubled(place.gpu_ids.join("+"))))
    }
}

struct Doubled(String);

impl NativeInstance for Doubled {
    fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError> {
        let k = batch.column(0).as_primitive::<Int64Type>();
        let told = k.iter().map(|k| k.map(|k| format!("{} {}", 2 * k, self.0)));
        let told: StringArray = told.collect();
        let answer = RecordBatch::try_from_iter([("value", Arc::new(told) as ArrayRef)])?;
        Ok(Box::new(std::iter::once(Ok(answer))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_function_lives_where_its_gpu_is() {
    let functions = RustFunctions::new().with_native(Doubling).unwrap();
    let mut cluster = TestCluster::start_with(2, false, functions).await;
    add(&mut cluster, "host", GPUS).await;
    batches_of(&mut cluster, 100).await;
    let call = "map_batches((SELECT k FROM numbers), doubling, concurrency => 2, num_gpus => 1)";
    let plan = cluster.text(&format!("explain select * from {call}")).await;
    assert!(plan.contains("tasks=2"), "{plan}");
    let sum = format!("select sum(cast(split_part(doubling, ' ', 1) as bigint)) from {call}");
    assert_eq!(cluster.number(&sum).await, 2 * 199_990_000);
    let gpus = format!("select distinct split_part(doubling, ' ', 2) from {call} order by 1");
    assert_eq!(texts(&cluster, &gpus).await, ["0", "1"]);
    free(&cluster, "host", 2.0).await;
    // It is told that there are not as many.
    let three = "select * from map_batches((SELECT k FROM numbers), doubling, num_gpus => 3)";
    let found = classify(&cluster.query(three).await.unwrap_err());
    assert!(
        found.message.contains("host has 2 GPUs"),
        "{}",
        found.message
    );
    let memory = "select * from map_batches((SELECT k FROM numbers), doubling, memory => '1GiB')";
    let found = classify(&cluster.query(memory).await.unwrap_err());
    assert!(
        found.message.contains("share the memory"),
        "{}",
        found.message
    );
}
