//! What user code is told of the block that it is called for: a name that stays the same
//! however often the block is sent, and the row at which a call begins.

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use mobula_udfs::{Answer, BatchFormat, BlockId, CallMode, Literal, OnError};
use tempfile::TempDir;

use crate::bench::*;
use crate::overlap::{gathered, ordered, rows};
use crate::stage::Stage;

/// Notes what it is called for, and what dies once.
const NOTES: &str = "
import mobula, os, signal
def note(x):
    with open(LOG, 'a') as log:
        log.write(f'{mobula.context().call_id} {x}\\n')
def dies_once():
    try:
        os.mkdir(LOG + '.died')
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
";

/// Where user code notes its calls.
struct Log(TempDir);

impl Log {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> String {
        self.0.path().join("log").display().to_string()
    }

    /// [`NOTES`] and `body`.
    fn body(&self, body: &str) -> String {
        let notes = NOTES.replace("LOG", &format!("{:?}", self.path()));
        format!("{notes}{body}")
    }

    /// What was noted: names of calls, and the first values of what they were for.
    fn lines(&self) -> Vec<(String, i64)> {
        let log = std::fs::read_to_string(self.path()).unwrap();
        let lines = log.lines().map(|line| line.split_once(' ').unwrap());
        lines
            .map(|(call, x)| (call.to_owned(), x.parse().unwrap()))
            .collect()
    }
}

fn name() -> BlockId {
    BlockId::first_of("q", [1, 2, 3, 0])
}

/// `0..n`, whose values are the rows they stand in, as block `number`.
fn block(number: u64, n: i64) -> RecordBatch {
    name().plus(number).name(counting(n))
}

/// As the call for row `row` of block `number` is called.
fn call(number: u64, row: i64) -> (String, i64) {
    (format!("{}.{row}", name().plus(number)), row)
}

#[tokio::test]
async fn calls_are_named_by_their_block_and_row_in_every_format() {
    for format in [
        BatchFormat::Numpy,
        BatchFormat::Pyarrow,
        BatchFormat::Pandas,
        BatchFormat::Polars,
        BatchFormat::Rows,
    ] {
        let log = Log::new();
        let body = log.body("def f(x):\n    note(list(x)[0])\n    return x");
        let case = Case::ints("f", &body).batches_of(2).in_format(format);
        let out = case.once(block(7, 5)).await.unwrap();
        assert_eq!(out.num_rows(), 5);
        assert_eq!(
            log.lines(),
            [call(7, 0), call(7, 2), call(7, 4)],
            "{format:?}"
        );
    }
}

#[tokio::test]
async fn rows_have_names_of_their_own_where_each_is_a_call() {
    let (log, manager) = (Log::new(), manager());
    let all: Vec<_> = (0..5).map(|row| call(0, row)).collect();
    let body = log.body("def f(x):\n    note(x)\n    return x");
    let map = Case::ints("f", &body).by_row(CallMode::Map);
    run(&map.pool(&manager, 1), block(0, 5)).await.unwrap();
    assert_eq!(log.lines(), all);
    // Also where rows that fail stay, and where a generator goes from row to row.
    let log = Log::new();
    let body = log.body("def f(x):\n    note(x)\n    return 1 // (x - 2)");
    let failing = Case::ints("f", &body)
        .by_row(CallMode::Map)
        .on_error(OnError::Null);
    let (_, failed) = run_whole(&failing.pool(&manager, 1), block(0, 5))
        .await
        .unwrap();
    assert_eq!((log.lines(), failed.len()), (all.clone(), 1));
    let log = Log::new();
    let columns = [("y", arrow::datatypes::DataType::Int64)];
    let body = log.body("def f(row):\n    yield {'y': 1}\n    note(row['x'])");
    let table = Case::table("f", &columns, &body).by_row(CallMode::FlatMap);
    run(&table.pool(&manager, 1), block(0, 5)).await.unwrap();
    assert_eq!(log.lines(), all);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_block_that_is_sent_again_has_its_name_again() {
    let (log, manager) = (Log::new(), manager());
    let body = log.body(
        "
class f:
    def __call__(self, x):
        note(x[0])
        if len(x) == 4:
            dies_once()
        return x",
    );
    let pool = Case::ints("f", &body).class().pool(&manager, 1);
    // They travel together.
    let train = vec![block(0, 3), block(1, 4), block(2, 5)];
    let answers: Vec<Answer> = pool
        .call_each(train)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(answers.len(), 3);
    // The answer to the first one may have been kept to go with others.
    let all = log.lines();
    let again = all.iter().filter(|line| **line == call(0, 0)).count() - 1;
    let expected = [call(0, 0), call(1, 0)].into_iter();
    let expected = expected.chain(std::iter::repeat_n(call(0, 0), again));
    assert!(again <= 1, "{all:?}");
    assert!(all.into_iter().eq(expected.chain([call(1, 0), call(2, 0)])));
    assert_eq!(pool.stats().retries, 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn parts_of_a_block_that_ends_workers_know_their_rows() {
    let (log, manager) = (Log::new(), manager());
    let body = log.body(
        "
def f(x):
    note(x)
    if x == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * 2",
    );
    let case = Case::ints("f", &body)
        .by_row(CallMode::Map)
        .on_error(OnError::Null);
    let (_, failed) = run_whole(&case.pool(&manager, 1), block(3, 9))
        .await
        .unwrap();
    assert_eq!(failed.len(), 1);
    let lines = log.lines();
    for (found, row) in &lines {
        assert_eq!((found.clone(), *row), call(3, *row));
    }
    // The block, then once more, then halved until row 5 is alone.
    let of_five = lines.iter().filter(|(_, row)| *row == 5).count();
    assert!(of_five > 2, "{lines:?}");
    assert!((0..9).all(|row| lines.contains(&call(3, row))));
    manager.shutdown().await;
}

#[tokio::test]
async fn named_actors_are_told_as_well() {
    let log = Log::new();
    let stage = Stage::new(&log.body(
        "
class counter:
    def __call__(self, x):
        note(x[0])
        return x
    def add(self, x: int) -> int:
        note(x)
        if x == 1:
            dies_once()
        return x",
    ));
    // Of the methods that the stage knows these two are there.
    let mut spec = stage.spec("c", &[] as &[(&str, Literal)]);
    spec.methods.truncate(2);
    let built = stage.host.build(spec.into()).await.unwrap();
    drop(stage.host.put(built));
    run(&stage.pool("c", "__call__"), block(0, 3))
        .await
        .unwrap();
    run(&stage.pool("c", "add"), block(1, 3)).await.unwrap();
    let mut expected = vec![call(0, 0), call(1, 0), call(1, 1)];
    // The block once more.
    expected.extend([0, 1, 2].map(|row| call(1, row)));
    assert_eq!(log.lines(), expected);
    stage.end().await;
}

#[tokio::test]
async fn async_calls_are_named_one_by_one() {
    let manager = manager();
    for (case, dies) in [
        (rows as fn(&str, usize) -> Case, true),
        (ordered as fn(&str, usize) -> Case, false),
    ] {
        let log = Log::new();
        let body = log.body(&format!(
            "
import asyncio
async def f(x):
    await asyncio.sleep(0.001 * (x % 3))
    note(x)
    if x == 20 and {}:
        await asyncio.sleep(0.05)
        dies_once()
    return x * 2",
            if dies { "True" } else { "False" }
        ));
        let pool = case(&body, 8).pool(&manager, 1);
        match dies {
            true => drop(gathered(&pool, block(4, 30)).await.unwrap()),
            false => drop(run(&pool, block(4, 30)).await.unwrap()),
        }
        let mut lines = log.lines();
        for (found, row) in &lines {
            assert_eq!((found.clone(), *row), call(4, *row));
        }
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 30);
        // What was answered is not called again, and the rest is.
        let of_20 = log.lines().iter().filter(|(_, row)| *row == 20).count();
        assert_eq!(of_20, 1 + usize::from(dies));
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn who_is_called_for_no_block_is_told_so() {
    let nobody = "mobula.context() is for code that is called for rows";
    let builds = "
import mobula
class f:
    def __init__(self):
        mobula.context()
    def __call__(self, x):
        return x";
    let error = Case::ints("f", builds).class().fails(block(0, 1)).await;
    assert!(error.to_string().contains(nobody), "{error}");
    // A block without a name: its pool belongs to no query.
    let asks = "import mobula\ndef f(x):\n    mobula.context()\n    return x";
    let error = Case::ints("f", asks).fails(counting(1)).await;
    assert!(error.to_string().contains(nobody), "{error}");
}
