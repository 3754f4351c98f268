//! Native functions that ask for resources: each thread has its own, and knows it.

use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use futures::TryStreamExt;

use super::tests::{call_of, eventually, numbers, plus_one};
use super::{
    Native, NativeBatches, NativeError, NativeFunction, NativeFunctions, NativeInstance,
    NativePlace,
};
use crate::call::Literal;
use crate::resources::{Amount, Capacity, Ledger};
use crate::spec::FunctionSpec;

/// A process with GPUs of these ids.
pub(super) fn with_gpus(ids: &[&str]) -> Capacity {
    Capacity {
        cpus: Amount::whole(1),
        gpu_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        memory_bytes: 0,
        custom: [].into(),
        labels: [].into(),
    }
}

/// Notes on which GPUs its instances are, which begin their blocks together.
struct Noted {
    places: Mutex<Vec<String>>,
    all: Arc<Barrier>,
}

struct Together(Arc<Barrier>);

impl NativeInstance for Together {
    fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError> {
        self.0.wait();
        let column = plus_one(&batch)?;
        let answer = RecordBatch::try_from_iter([("r", column)])?;
        Ok(Box::new(std::iter::once(Ok(answer))))
    }
}

/// What is registered of it.
struct OnGpus(Arc<Noted>);

impl NativeFunction for OnGpus {
    fn spec(&self) -> FunctionSpec {
        let function = Native::scalar(
            "on_gpus",
            [("x", DataType::Int64)],
            DataType::Int64,
            plus_one,
        );
        let mut spec = function.spec();
        spec.defaults.demand.gpus = Some(Amount::ONE);
        spec
    }

    fn open(&self, _: &[(String, Literal)]) -> Result<Box<dyn NativeInstance>, NativeError> {
        Err("it is opened where its place is known".into())
    }

    fn open_at(
        &self,
        _: &[(String, Literal)],
        place: &NativePlace,
    ) -> Result<Box<dyn NativeInstance>, NativeError> {
        let mut places = self.0.places.lock().map_err(|_| "it has panicked")?;
        places.push(place.gpu_ids.join("+"));
        Ok(Box::new(Together(Arc::clone(&self.0.all))))
    }
}

#[tokio::test]
async fn threads_have_what_is_claimed_for_them_and_know_it() {
    let ledger = Ledger::new(with_gpus(&["a", "b", "c"]));
    let noted = Arc::new(Noted {
        places: Mutex::default(),
        all: Arc::new(Barrier::new(2)),
    });
    let on_gpus = OnGpus(Arc::clone(&noted));
    let mut call = call_of(&on_gpus.spec());
    let mut functions = NativeFunctions::default();
    functions.insert(on_gpus).unwrap();
    let demand = call.spec.defaults.demand.clone();
    call.handling.demand = demand.clone();
    call.query = "q".into();
    let soon = Duration::from_secs(5);
    let (claim, _) = ledger.claim("q", vec![demand; 2], soon).await.unwrap();
    let threads = functions
        .threads(Arc::new(call), 2, "e-1", &ledger)
        .unwrap();
    let ways = [threads.open(), threads.open()];
    drop(threads);
    // Neither would end without the other.
    let both = [ways[0].call(numbers(5)), ways[1].call(numbers(7))];
    for answers in futures::future::try_join_all(both).await.unwrap() {
        answers.try_collect::<Vec<_>>().await.unwrap();
    }
    let mut places = noted.places.lock().unwrap().clone();
    places.sort();
    assert_eq!(places, ["a", "b"]);
    // Each way has counted its own.
    assert_eq!(ways.each_ref().map(|way| way.stats().rows_in), [5, 7]);
    assert_eq!(ledger.free().gpus_sum(), Amount::ONE);
    drop((claim, ways));
    eventually(|| ledger.free().gpus_sum() == Amount::whole(3)).await;
}
