//! What native functions promise: values for rows, parts in time, errors that name
//! the function, threads that end.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use futures::{StreamExt, TryStreamExt};

use super::place_tests::with_gpus;
use super::{Native, NativeBatches, NativeError, NativeFunction, NativeFunctions, NativeInstance};
use crate::call::{CallMode, Literal, UdfCall};
use crate::error::{UdfError, UdfErrorClass};
use crate::failed_rows::{ErrorPolicy, OnError};
use crate::handling::Handling;
use crate::pool::{Answer, UdfPool};
use crate::resources::Ledger;
use crate::spec::{BatchFormat, FunctionSpec, ParamKind, Returns};

const INT: DataType = DataType::Int64;

/// A call of the function with `spec` over one column `x`.
pub(super) fn call_of(spec: &FunctionSpec) -> UdfCall {
    let x = Arc::new(Schema::new(vec![Field::new("x", INT, true)]));
    let values = spec.params.iter().filter_map(|p| match &p.kind {
        ParamKind::Value(t) => Some(Field::new(&p.name, t.clone(), true)),
        ParamKind::Table => None,
    });
    let values = Arc::new(Schema::new(values.collect::<Vec<_>>()));
    UdfCall {
        mode: CallMode::Batches,
        args: vec![],
        batch_size: spec.defaults.batch_size,
        batch_format: BatchFormat::Numpy,
        input: if spec.takes_table() { x } else { values },
        output: match &spec.returns {
            Returns::Scalar(t) => Arc::new(Schema::new(vec![Field::new("r", t.clone(), true)])),
            Returns::Table(schema) => Arc::clone(schema),
        },
        spec: Arc::new(spec.clone()),
        errors: ErrorPolicy::default(),
        timeout: None,
        handling: Handling::default(),
        max_errors: None,
        query: String::new(),
        priority: Default::default(),
        steps: vec![],
    }
}

pub(super) fn open(function: Native, concurrency: usize) -> Arc<dyn UdfPool> {
    open_with(function, concurrency, |_| ())
}

pub(super) fn open_with(
    function: Native,
    concurrency: usize,
    change: impl FnOnce(&mut UdfCall),
) -> Arc<dyn UdfPool> {
    let mut call = call_of(&function.spec());
    change(&mut call);
    let mut functions = NativeFunctions::default();
    functions.insert(function).unwrap();
    let threads = functions.threads(Arc::new(call), concurrency, "e-1", &nothing());
    threads.unwrap().open()
}

fn nothing() -> Arc<Ledger> {
    Ledger::new(with_gpus(&[]))
}

pub(super) fn block(values: impl IntoIterator<Item = Option<i64>>) -> RecordBatch {
    let values = Int64Array::from_iter(values);
    RecordBatch::try_from_iter_with_nullable([("x", Arc::new(values) as ArrayRef, true)]).unwrap()
}

pub(super) fn numbers(n: i64) -> RecordBatch {
    block((0..n).map(Some))
}

async fn answer(pool: &Arc<dyn UdfPool>, block: RecordBatch) -> Result<Vec<RecordBatch>, UdfError> {
    let (rows, failed) = whole(pool, block).await?;
    assert!(failed.is_empty(), "{failed:?}");
    Ok(rows)
}

/// All rows, and those that failed.
async fn whole(
    pool: &Arc<dyn UdfPool>,
    block: RecordBatch,
) -> Result<(Vec<RecordBatch>, Vec<usize>), UdfError> {
    let answers: Vec<Answer> = pool.call(block).await?.try_collect().await?;
    let (mut rows, mut failed) = (vec![], vec![]);
    for answer in answers {
        match answer {
            Answer::Rows(block) => rows.push(block),
            Answer::Failed(some) => failed.extend(some.iter().map(|f| f.row)),
            other => panic!("{other:?}"),
        }
    }
    Ok((rows, failed))
}

pub(super) fn ints(blocks: &[RecordBatch]) -> Vec<Option<i64>> {
    let columns = blocks
        .iter()
        .map(|b| b.column(0).as_primitive::<Int64Type>());
    columns.flat_map(|column| column.iter()).collect()
}

pub(super) fn plus_one(batch: &RecordBatch) -> Result<ArrayRef, NativeError> {
    let values = batch.column(0).as_primitive::<Int64Type>();
    Ok(Arc::new(values.unary::<_, Int64Type>(|v| v + 1)))
}

fn inc() -> Native {
    Native::scalar("inc", [("x", INT)], INT, plus_one)
}

fn words() -> [Field; 1] {
    [Field::new("y", INT, true)]
}

fn doubled(batch: RecordBatch) -> Result<RecordBatch, NativeError> {
    let values = batch.column(0).as_primitive::<Int64Type>();
    let twice = values.iter().flat_map(|v| [v, v]);
    let twice: ArrayRef = Arc::new(Int64Array::from_iter(twice));
    Ok(RecordBatch::try_from_iter_with_nullable([(
        "y", twice, true,
    )])?)
}

/// Gives the batches it has seen so far, and says when it is dropped.
struct Counts {
    /// Not `Send`: an instance stays on its thread.
    seen: Rc<Cell<i64>>,
    dropped: Arc<AtomicUsize>,
}

impl NativeInstance for Counts {
    fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError> {
        self.seen.set(self.seen.get() + 1);
        let seen: ArrayRef = Arc::new(Int64Array::from(vec![self.seen.get(); batch.num_rows()]));
        let batch = RecordBatch::try_from_iter([("seen", seen)])?;
        Ok(Box::new(std::iter::once(Ok(batch))))
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

fn counts(dropped: &Arc<AtomicUsize>) -> Native {
    let dropped = Arc::clone(dropped);
    let spec = FunctionSpec::native_scalar("counts", [("x", INT)], INT);
    Native::actor(spec, move |args| {
        let start = match args {
            [] => 0,
            [(name, Literal::Int(start))] if name == "start" => *start,
            _ => return Err("takes start => a whole number".into()),
        };
        Ok(Counts {
            seen: Rc::new(Cell::new(start)),
            dropped: Arc::clone(&dropped),
        })
    })
}

#[tokio::test]
async fn values_come_back_and_are_counted() {
    let pool = open(inc(), 2);
    let rows = answer(&pool, numbers(5)).await.unwrap();
    assert_eq!(ints(&rows), (1..=5).map(Some).collect::<Vec<_>>());
    assert_eq!(rows[0].schema().field(0).name(), "r");
    assert_eq!(answer(&pool, numbers(0)).await.unwrap()[0].num_rows(), 0);
    let stats = pool.stats();
    assert_eq!((stats.calls, stats.rows_in, stats.rows_out), (1, 5, 5));
    assert_eq!((stats.workers_started, stats.bytes_in), (1, 0));
}

#[tokio::test]
async fn a_block_is_cut_to_the_batch_size() {
    let sizes = Arc::new(parking_lot::Mutex::new(vec![]));
    let seen = Arc::clone(&sizes);
    let function = Native::scalar("inc", [("x", INT)], INT, move |batch| {
        seen.lock().push(batch.num_rows());
        plus_one(batch)
    });
    let pool = open(function.batch_size(4), 1);
    let rows = answer(&pool, numbers(10)).await.unwrap();
    assert_eq!(ints(&rows), (1..=10).map(Some).collect::<Vec<_>>());
    assert_eq!(*sizes.lock(), [4, 4, 2]);
}

#[tokio::test]
async fn strict_functions_do_not_see_nulls() {
    let strict = || {
        let code = |batch: &RecordBatch| {
            assert_eq!(batch.column(0).null_count(), 0);
            assert!(batch.num_rows() > 0);
            plus_one(batch)
        };
        Native::scalar("inc", [("x", INT)], INT, code).strict()
    };
    let pool = open(strict(), 1);
    let rows = answer(&pool, block([None, Some(1), None, Some(2)]))
        .await
        .unwrap();
    assert_eq!(ints(&rows), [None, Some(2), None, Some(3)]);
    let rows = answer(&pool, block([None, None])).await.unwrap();
    assert_eq!(ints(&rows), [None, None]);
    assert_eq!(
        ints(&answer(&pool, numbers(2)).await.unwrap()),
        [Some(1), Some(2)]
    );
}

#[tokio::test]
async fn a_function_without_parameters_knows_its_rows() {
    let none: [(&str, DataType); 0] = [];
    let function = Native::scalar("one", none, INT, |batch| {
        Ok(Arc::new(Int64Array::from(vec![1; batch.num_rows()])))
    });
    let pool = open(function, 1);
    let rows = numbers(3).project(&[]).unwrap();
    assert_eq!(ints(&answer(&pool, rows).await.unwrap()), [Some(1); 3]);
}

#[tokio::test]
async fn tables_have_any_number_of_rows() {
    let pool = open(Native::table("doubled", words(), doubled), 1);
    let rows = answer(&pool, numbers(2)).await.unwrap();
    assert_eq!(ints(&rows), [Some(0), Some(0), Some(1), Some(1)]);
    assert!(answer(&pool, numbers(0)).await.unwrap().is_empty());
}

#[tokio::test]
async fn map_and_flat_map_hand_over_single_rows() {
    let single = |batch: RecordBatch| {
        assert_eq!(batch.num_rows(), 1);
        doubled(batch)
    };
    let flat = open_with(Native::table("doubled", words(), single), 1, |call| {
        call.mode = CallMode::FlatMap;
    });
    let rows = answer(&flat, numbers(10_000)).await.unwrap();
    assert_eq!(ints(&rows).len(), 20_000);
    // Joined to parts, not one for each row.
    assert_eq!(rows.len(), 3);
    let map = open_with(Native::table("doubled", words(), single), 1, |call| {
        call.mode = CallMode::Map;
    });
    let error = answer(&map, numbers(3)).await.unwrap_err().to_string();
    assert!(
        error.contains("\"doubled\" gave 2 rows for one row"),
        "{error}"
    );
}

#[tokio::test]
async fn a_filter_says_which_rows_stay() {
    let odd = Native::filter("odd", |batch| {
        let values = batch.column(0).as_primitive::<Int64Type>();
        Ok(BooleanArray::from_unary(values, |v| v % 2 == 1))
    });
    let pool = open_with(odd, 1, |call| call.mode = CallMode::Filter);
    let rows = answer(&pool, numbers(3)).await.unwrap();
    let stays: Vec<_> = rows[0].column(0).as_boolean().iter().collect();
    assert_eq!(stays, [Some(false), Some(true), Some(false)]);
}

#[tokio::test]
async fn actors_keep_state_and_end_with_their_pool() {
    let dropped = Arc::default();
    let pool = open_with(counts(&dropped), 1, |call| {
        call.args = vec![("start".into(), Literal::Int(10))];
    });
    for expected in 11..14 {
        let rows = answer(&pool, numbers(1)).await.unwrap();
        assert_eq!(ints(&rows), [Some(expected)]);
    }
    assert_eq!(pool.stats().workers_started, 1);
    drop(pool);
    eventually(|| dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn an_instance_that_cannot_be_made_says_why() {
    let dropped = Arc::default();
    let pool = open_with(counts(&dropped), 1, |call| {
        call.args = vec![("begin".into(), Literal::Int(1))];
    });
    let error = answer(&pool, numbers(1)).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::User);
    assert_eq!(
        error.to_string(),
        "function \"counts\" cannot be opened: takes start => a whole number"
    );
}

#[tokio::test]
async fn errors_and_panics_name_the_function_and_leave_the_pool() {
    let function = Native::scalar("picky", [("x", INT)], INT, |batch| {
        match batch.column(0).as_primitive::<Int64Type>().value(0) {
            1 => Err("one is too few".into()),
            2 => panic!("two is {}", "a crowd"),
            3 => Ok(Arc::new(Int64Array::from(vec![1, 2, 3]))),
            4 => Ok(Arc::new(BooleanArray::from(vec![true]))),
            _ => plus_one(batch),
        }
    });
    let pool = open(function, 1);
    for (value, expected) in [
        (1, "function \"picky\" failed: one is too few"),
        (2, "function \"picky\" failed: panicked: two is a crowd"),
        (
            3,
            "function \"picky\" gave 3 values for 1 rows. Give one value per row",
        ),
        (4, "function \"picky\" gave Boolean, but Int64 is declared"),
    ] {
        let error = answer(&pool, block([Some(value)])).await.unwrap_err();
        assert_eq!(error.class(), UdfErrorClass::User);
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(ints(&answer(&pool, numbers(1)).await.unwrap()), [Some(1)]);
    assert_eq!(pool.stats().workers_started, 1);
}

#[tokio::test]
async fn a_panicked_instance_is_made_anew() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    struct Once;
    impl NativeInstance for Once {
        fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError> {
            assert!(batch.num_rows() != 2, "not two");
            let batch = numbers(batch.num_rows() as i64);
            Ok(Box::new(std::iter::once(Ok(batch))))
        }
    }
    impl Drop for Once {
        fn drop(&mut self) {
            panic!("a drop that panics");
        }
    }
    let spec = FunctionSpec::native_scalar("once", [("x", INT)], INT);
    let function = Native::actor(spec, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(Once)
    });
    let pool = open(function, 1);
    answer(&pool, numbers(1)).await.unwrap();
    answer(&pool, numbers(2)).await.unwrap_err();
    answer(&pool, numbers(3)).await.unwrap();
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn wrong_columns_are_told() {
    for (name, values, expected) in [
        ("z", numbers(1), "there is no column \"y\" in z"),
        ("y", numbers(1), "columns are y, more, but y are declared"),
    ] {
        let function = Native::table("t", words(), move |_| {
            let column = Arc::clone(values.column(0));
            let mut columns = vec![(name, Arc::clone(&column))];
            if name == "y" {
                columns.push(("more", column));
            }
            Ok(RecordBatch::try_from_iter(columns)?)
        });
        let error = answer(&open(function, 1), numbers(1)).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// An endless answer whose parts are counted.
fn endless(made: &Arc<AtomicUsize>) -> Native {
    let made = Arc::clone(made);
    Native::generator("endless", words(), move |_| {
        let made = Arc::clone(&made);
        Ok(std::iter::repeat_with(move || {
            made.fetch_add(1, Ordering::SeqCst);
            doubled(numbers(1))
        }))
    })
}

#[tokio::test]
async fn a_slow_reader_stops_the_code_and_a_gone_one_ends_it() {
    let made = Arc::default();
    let pool = open(endless(&made), 1);
    let mut stream = pool.call(numbers(1)).await.unwrap();
    stream.next().await.unwrap().unwrap();
    // Two wait, one is in the worker's hand.
    eventually(|| made.load(Ordering::SeqCst) == 4).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(made.load(Ordering::SeqCst), 4);
    drop(stream);
    // The only worker is free again.
    let mut stream = pool.call(numbers(1)).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(pool.stats().workers_started, 1);
}

#[tokio::test]
async fn a_gone_reader_ends_values_between_batches() {
    let batches = Arc::new(AtomicUsize::new(0));
    let (count, gate) = (Arc::clone(&batches), Arc::new(Barrier::new(2)));
    let inside = Arc::clone(&gate);
    let function = Native::scalar("inc", [("x", INT)], INT, move |batch| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            inside.wait();
            inside.wait();
        }
        plus_one(batch)
    });
    let pool = open(function.batch_size(1), 1);
    let stream = pool.call(numbers(1000)).await.unwrap();
    // The test's thread waits here for the worker's, which needs nobody else.
    gate.wait();
    drop(stream);
    gate.wait();
    answer(&pool, numbers(1)).await.unwrap();
    assert_eq!(batches.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn threads_work_at_once_up_to_the_concurrency() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_work, seen) = (Arc::clone(&now), Arc::clone(&most));
    let gate = Barrier::new(2);
    let function = Native::scalar("inc", [("x", INT)], INT, move |batch| {
        let n = at_work.fetch_add(1, Ordering::SeqCst) + 1;
        seen.fetch_max(n, Ordering::SeqCst);
        // Ends only if two are here at once.
        gate.wait();
        at_work.fetch_sub(1, Ordering::SeqCst);
        plus_one(batch)
    });
    let pool = open(function, 2);
    let calls = (0..8).map(|_| answer(&pool, numbers(3)));
    let rows = futures::future::try_join_all(calls).await.unwrap();
    assert_eq!(rows.len(), 8);
    assert!(most.load(Ordering::SeqCst) <= 2);
    assert_eq!(pool.stats().workers_started, 2);
    assert_eq!(pool.concurrency(), 2);
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up() {
    let gate = Arc::new(Barrier::new(2));
    let inside = Arc::clone(&gate);
    let function = Native::scalar("stuck", [("x", INT)], INT, move |batch| {
        inside.wait();
        plus_one(batch)
    });
    let pool = open_with(function, 1, |call| {
        call.timeout = Some(Duration::from_millis(30));
    });
    let error = answer(&pool, numbers(1)).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::Timeout);
    assert!(error.to_string().contains("udf_call_timeout"), "{error}");
    // Lets the thread go.
    gate.wait();
}

#[test]
fn a_program_without_the_function_says_so() {
    let call = Arc::new(call_of(&inc().spec()));
    let open = |functions: &NativeFunctions| {
        let opened = functions.threads(Arc::clone(&call), 1, "e-7", &nothing());
        opened.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let mut functions = NativeFunctions::default();
    assert_eq!(
        open(&functions),
        "function \"inc\" is native, and the program of executor \"e-7\" does not have it. Start executors from the program that registers it"
    );
    let mut other = call.as_ref().clone();
    other.spec = Arc::new(FunctionSpec::native_scalar(
        "inc",
        [("x", DataType::Utf8)],
        DataType::Int64,
    ));
    functions.insert(inc()).unwrap();
    assert_eq!(open(&functions), "");
    let differs = functions.threads(Arc::new(other), 1, "e-7", &nothing());
    let text = differs.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(text.contains("declares it otherwise"), "{text}");
}

/// Asks for memory, which a thread cannot have for itself.
struct Asks;

impl NativeFunction for Asks {
    fn spec(&self) -> FunctionSpec {
        let mut spec = inc().spec();
        spec.name = "asks".into();
        spec.defaults.demand.memory_bytes = Some(1 << 20);
        spec
    }

    fn open(&self, _: &[(String, Literal)]) -> Result<Box<dyn NativeInstance>, NativeError> {
        Err("it is never opened".into())
    }
}

#[test]
fn declarations_that_make_no_sense_are_refused() {
    let mut functions = NativeFunctions::default();
    functions.insert(inc()).unwrap();
    let twice = Native::scalar("f", [("x", INT), ("x", INT)], INT, plus_one);
    for (function, word) in [
        (inc(), "already"),
        (twice, "two parameters \"x\""),
        (Native::table("t", words(), doubled).strict(), "STRICT"),
        (
            Native::table("t", words(), doubled).batch_size(0),
            "at least 1",
        ),
    ] {
        let error = functions.insert(function).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let error = functions.insert(Asks).unwrap_err().to_string();
    assert!(error.contains("it asks for memory"), "{error}");
    let names: Vec<_> = functions.specs().map(|spec| spec.name.clone()).collect();
    assert_eq!(names, ["inc"]);
}

pub(super) async fn eventually(holds: impl Fn() -> bool) {
    let until = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, until).await.expect("in time");
}

/// Fails for batches with a multiple of 4 but 0.
fn fails_on_fours() -> Native {
    Native::scalar("fours", [("x", INT)], INT, |batch: &RecordBatch| {
        let x = batch.column(0).as_primitive::<Int64Type>();
        match x.iter().flatten().find(|x| *x > 0 && x % 4 == 0) {
            Some(x) => Err(format!("no {x}").into()),
            None => plus_one(batch),
        }
    })
    .immutable()
}

#[tokio::test]
async fn rows_that_fail_are_found() {
    let drop_them = |call: &mut UdfCall| call.errors.on_error = OnError::Drop;
    let pool = open_with(fails_on_fours(), 1, drop_them);
    let (rows, failed) = whole(&pool, numbers(10)).await.unwrap();
    assert_eq!(failed, [4, 8]);
    assert_eq!(ints(&rows)[3..6], [Some(4), None, Some(6)]);
    let pool = open_with(fails_on_fours(), 1, |call| {
        drop_them(call);
        call.max_errors = Some(1);
    });
    let error = whole(&pool, numbers(10)).await.unwrap_err();
    assert!(error.to_string().contains("no 8"), "{error}");
}
