//! Blocks in shared memory: all types, memory used again, never under a view that
//! user code keeps, and nothing left behind.

use std::sync::Arc;

use arrow::array::*;
use arrow::compute::take;
use arrow::datatypes::*;
use mobula_udfs::{
    BatchFormat, PoolStats, StartMethod, UdfError, UdfErrorClass, WorkerManager, WorkerSettings,
};

use crate::bench::*;
use crate::types::columns;

/// Rows whose integers do not go with their frame.
const MANY: i64 = 20_000;

/// Our descriptors of memory shared with worker `pid`.
fn descriptors(pid: u32) -> usize {
    let name = format!("/memfd:mobula-{pid} ");
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with(&name))
        .count()
}

fn constant(value: i64) -> RecordBatch {
    ints((0..MANY).map(|_| Some(value)))
}

/// Everything but the first output lay in slots.
fn assert_shared(stats: PoolStats) {
    let all = stats.bytes_in + stats.bytes_out;
    let first = stats.bytes_out / stats.calls;
    assert_eq!(stats.bytes_shared, all - first, "{stats:?}");
}

#[tokio::test]
async fn every_type_crosses_in_slots_as_it_is() {
    let manager = manager();
    let mut slots_created = 0;
    for column in columns() {
        // A second column makes all of them large.
        let rows = 9_000;
        let places = UInt32Array::from_iter_values((0..rows).map(|i| i % 3));
        let column = take(&column, &places, None).unwrap();
        let pad: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::from(rows)));
        let kind = column.data_type().clone();
        let fields = [("x", kind.clone()), ("pad", DataType::Int64)];
        let mut same = Case::table("same", &fields, "def same(rows): return rows");
        let columns = fields.map(|(name, kind)| Field::new(name, kind, true));
        same.input = Arc::new(Schema::new(columns.to_vec()));
        let block = RecordBatch::try_new(Arc::clone(&same.input), vec![column, pad]).unwrap();
        for format in [BatchFormat::Numpy, BatchFormat::Pyarrow] {
            let pool = same.clone().in_format(format).pool(&manager, 1);
            for sent in [block.clone(), block.slice(1, 8_500)] {
                let got = run(&pool, sent.clone()).await;
                let got = got.unwrap_or_else(|e| panic!("{kind} as {format}: {e}"));
                assert_eq!(got.columns(), sent.columns(), "{kind} as {format}");
            }
            let stats = pool.stats();
            slots_created += stats.slots_created;
            assert!(stats.bytes_shared > stats.bytes_in, "{kind}: {stats:?}");
        }
    }
    // The largest is four sizes above the smallest.
    assert!(slots_created <= 8, "{slots_created}");
    assert_eq!(manager.workers().len(), 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_block_of_many_short_columns_crosses_in_slots() {
    let manager = manager();
    let names: Vec<_> = (0..600).map(|i| format!("column_{i}")).collect();
    let fields: Vec<_> = names
        .iter()
        .map(|n| (n.as_str(), DataType::Int64))
        .collect();
    let mut same = Case::table("same", &fields, "def same(rows): return rows").pyarrow();
    let columns = fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true));
    same.input = Arc::new(Schema::new(columns.collect::<Vec<_>>()));
    let columns = (0..600).map(|i| -> ArrayRef { Arc::new(Int64Array::from(vec![i; 100])) });
    let block = RecordBatch::try_new(Arc::clone(&same.input), columns.collect()).unwrap();
    let pool = same.pool(&manager, 1);
    for _ in 0..3 {
        let got = run(&pool, block.clone()).await.unwrap();
        assert_eq!(got.columns(), block.columns());
    }
    assert_shared(pool.stats());
    manager.shutdown().await;
}

#[tokio::test]
async fn no_memory_is_made_for_a_block_that_finds_some() {
    let manager = manager();
    let body = "def f(x):\n    if x[0] == 50: raise ValueError('fifty')\n    return x + 1";
    let pool = Case::ints("f", body).pool(&manager, 1);
    for n in 0..100 {
        match run(&pool, constant(n)).await {
            Ok(out) => assert_eq!(values(&out), vec![Some(n + 1); MANY as usize]),
            Err(error) => assert_eq!((n, error.class()), (50, UdfErrorClass::User)),
        }
    }
    // What raised still held its block while the next one came.
    assert!(
        (2..=3).contains(&pool.stats().slots_created),
        "{:?}",
        pool.stats()
    );
    assert_eq!(
        descriptors(only_pid(&manager)),
        pool.stats().slots_created as usize
    );
    let other = Case::ints("g", "def g(x): return x").pool(&manager, 1);
    for n in 0..10 {
        run(&other, constant(n)).await.unwrap();
    }
    let stats = other.stats();
    assert_eq!(stats.slots_created, 0, "others had made them");
    assert_eq!(stats.bytes_shared, stats.bytes_in + stats.bytes_out);
    manager.shutdown().await;
}

#[tokio::test]
async fn slots_grow_with_blocks_and_go_with_their_worker() {
    for start_method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let manager = WorkerManager::new(WorkerSettings {
            start_method,
            ..settings()
        });
        // Gives how many it has open.
        let body = "
import os
def links():
    for number in os.listdir('/proc/self/fd'):
        try: yield os.readlink('/proc/self/fd/' + number)
        except OSError: pass
def f(x): return x * 0 + sum('mobula-' in link for link in links())";
        let pool = Case::ints("f", body).pool(&manager, 1);
        let mut open = 0;
        for round in 0..3 {
            for doubled in 0..7 {
                let out = run(&pool, counting(MANY << doubled)).await.unwrap();
                open = values(&out)[0].unwrap();
            }
            // 256 KiB to 16 MiB; each a step further than the last.
            let most = if round == 0 { 14 } else { 0 };
            assert!(
                pool.stats().slots_created <= 14 + most,
                "{:?}",
                pool.stats()
            );
        }
        let pid = only_pid(&manager);
        assert!((2..=8).contains(&descriptors(pid)), "{}", descriptors(pid));
        // One is its board.
        assert!(open <= 9, "{open} in the worker");
        drop(pool);
        manager.shutdown().await;
        gone(pid).await;
        drop(manager);
        assert_eq!(descriptors(pid), 0);
    }
}

#[tokio::test]
async fn a_block_of_100_megabytes_and_a_text_as_long() {
    let manager = manager();
    let pool = Case::ints("f", "def f(x): return x").pool(&manager, 1);
    let sent = counting(13_000_000);
    for _ in 0..2 {
        let got = run(&pool, sent.clone()).await.unwrap();
        assert_eq!(got.column(0).as_ref(), sent.column(0).as_ref());
    }
    assert_shared(pool.stats());
    let text = [("x", DataType::Utf8)];
    let twice = Case::scalar("f", &text, DataType::Utf8, "def f(x): return x").pyarrow();
    let column: ArrayRef = Arc::new(StringArray::from(vec!["naïve 🐟 ".repeat(9_000_000)]));
    let sent = RecordBatch::try_new(Arc::clone(&twice.input), vec![column]).unwrap();
    let got = run(&twice.pool(&manager, 1), sent.clone()).await.unwrap();
    assert_eq!(got.column(0).as_ref(), sent.column(0).as_ref());
    manager.shutdown().await;
}

#[tokio::test]
async fn what_user_code_keeps_never_changes() {
    let manager = manager();
    // What is kept of a block `x`; all of it refers to the block's memory.
    for (format, kept) in [
        (BatchFormat::Numpy, "x"),
        (BatchFormat::Numpy, "x[100:200].reshape(2, 50)"),
        (BatchFormat::Numpy, "memoryview(x)"),
        (BatchFormat::Pyarrow, "x"),
        (BatchFormat::Pyarrow, "x.slice(19_000).to_numpy()"),
        (BatchFormat::Pyarrow, "x.buffers()[1]"),
        (BatchFormat::Polars, "x"),
        (BatchFormat::Pandas, "x"),
    ] {
        // The value of every element of the n-th block is n.
        let body = format!(
            "
import numpy as np, pyarrow as pa
def elements(kept):
    if isinstance(kept, pa.Buffer): return np.frombuffer(kept, np.int64)
    return np.asarray(kept)
class f:
    def __init__(self): self.kept = []
    def __call__(self, x):
        self.kept.append({kept})
        changed = sum((elements(kept) != n).any() for n, kept in enumerate(self.kept))
        return np.full(len(x), changed)"
        );
        let pool = Case::ints("f", &body)
            .class()
            .in_format(format)
            .pool(&manager, 1);
        for n in 0..12 {
            let out = run(&pool, constant(n)).await;
            let out = out.unwrap_or_else(|e| panic!("{kept}: {e}"));
            assert_eq!(values(&out)[0], Some(0), "{kept} of {format}, block {n}");
        }
        // Four blocks stayed in slots, the rest went with their frames; outputs
        // had one slot.
        let stats = pool.stats();
        assert_eq!(stats.slots_created, 5, "{kept} of {format}: {stats:?}");
        let block = stats.bytes_in / 12;
        assert_eq!(stats.bytes_shared, 4 * block + 11 * stats.bytes_out / 12);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn memory_is_used_again_when_user_code_lets_go() {
    let manager = manager();
    let body = "
class f:
    def __init__(self): self.kept = []
    def __call__(self, x):
        self.kept = [x[5:], *self.kept[:2]]
        assert [k[0] for k in self.kept] == [x[0] - i for i in range(len(self.kept))]
        return x";
    let pool = Case::ints("f", body).class().pool(&manager, 1);
    for n in 0..30 {
        assert_eq!(values(&run(&pool, constant(n)).await.unwrap())[0], Some(n));
    }
    assert_eq!(pool.stats().slots_created, 5);
    assert_shared(pool.stats());
    manager.shutdown().await;
}

#[tokio::test]
async fn what_a_child_of_user_code_sees_never_changes() {
    let manager = manager();
    let body = "
import os
class f:
    def __init__(self): self.calls = 0
    def __call__(self, x):
        if self.calls == 0:
            (wait, self.go), (self.answer, tell) = os.pipe(), os.pipe()
            if os.fork() == 0:
                os.read(wait, 1)
                os.write(tell, b'same' if (x == 0).all() else b'changed')
                os._exit(0)
        self.calls += 1
        if self.calls == 6:
            os.write(self.go, b'!')
            assert os.read(self.answer, 10) == b'same'
        return x + 1";
    let pool = Case::ints("f", body).class().pool(&manager, 1);
    for n in 0..6 {
        let out = run(&pool, constant(n)).await;
        let out = out.unwrap_or_else(|e| panic!("{e}: {:?}", e.traceback()));
        assert_eq!(values(&out)[0], Some(n + 1));
    }
    // The child's block, the others' and their outputs'.
    assert_eq!(pool.stats().slots_created, 3);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_generator_of_large_parts_fills_slots() {
    let manager = manager();
    let body = "
import numpy as np
def f(rows):
    for i in range(300): yield {'y': np.full(rows['x'][0], i)}";
    let pool = Case::table("f", &[("y", DataType::Int64)], body).pool(&manager, 1);
    for rows in [20_000, 10_000, 50_000] {
        let mut stream = pool.call(ints([Some(rows)])).await.unwrap();
        for i in 0..300 {
            let part = next(&mut stream).await.unwrap().unwrap();
            assert_eq!(values(&part), vec![Some(i); rows as usize]);
        }
        assert!(next(&mut stream).await.is_none());
    }
    let stats = pool.stats();
    assert!(
        (2..=4).contains(&stats.slots_created),
        "two for each size: {stats:?}"
    );
    // But for the first few.
    assert!(stats.bytes_shared > stats.bytes_out / 10 * 9, "{stats:?}");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_worker_killed_with_a_slot_in_its_hands_leaves_nothing() {
    let manager = manager();
    let fine = Case::ints("f", "def f(x): return x").pool(&manager, 1);
    for ending in ["os.kill(os.getpid(), 9)", "os._exit(3)"] {
        let body = format!("\nimport os\ndef g(x):\n    if x[0] == 2: {ending}\n    return x");
        let deadly = Case::ints("g", &body).pool(&manager, 1);
        for n in 0..2 {
            run(&deadly, constant(n)).await.unwrap();
        }
        let pid = only_pid(&manager);
        assert_eq!(descriptors(pid), 2);
        let error = run(&deadly, constant(2)).await.unwrap_err();
        assert!(matches!(error, UdfError::WorkerLost { .. }), "{error}");
        gone(pid).await;
        assert_eq!(descriptors(pid), 0);
        assert_eq!(values(&run(&fine, constant(7)).await.unwrap())[0], Some(7));
    }
    // A reader that goes away kills its worker in the middle, too.
    let slow = "\nimport time\ndef h(x):\n    time.sleep(600)";
    let slow = Case::ints("h", slow).pool(&manager, 1);
    let stream = slow.call(constant(1)).await.unwrap();
    let pid = worker_in(&manager, "busy").await;
    drop(stream);
    gone(pid).await;
    assert_eq!(descriptors(pid), 0);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_worker_that_lies_about_slots_is_a_protocol_error() {
    let manager = manager();
    for (lie, expected) in [
        (
            "return number, at + 2**40, count",
            "in slot 2, which has 262144",
        ),
        ("return number, 2**64 - 8, 16", "bytes from byte"),
        ("return number, at, 2**63", "bytes from byte"),
        (
            "return 99, at, count",
            "it filled slot 99, which it may not",
        ),
        ("return 1, at, count", "it filled slot 1, which it may not"),
        (
            "self.released.append(77); return number, at, count",
            "it gives back slot 77, which it does not have",
        ),
        ("return number, at, 0", ""),
        ("return number, at + 8, count", ""),
        (
            "memoryview(self.outputs[number]).cast('B')[at:at + 400] = bytes(400); return number, at, count",
            "",
        ),
        (
            "memoryview(self.outputs[number]).cast('B')[at:at + 400] = b'\\xff' * 400; return number, at, count",
            "",
        ),
    ] {
        let body = format!(
            "
import sys
def f(x):
    Slots = sys.modules['mobula_worker.slots'].Slots
    honest = Slots.fill
    def fill(self, block, size):
        filled = honest(self, block, size)
        if filled is None: return None
        number, at, count = filled
        {lie}
    Slots.fill = fill
    return x"
        );
        let pool = Case::ints("f", &body).pool(&manager, 1);
        // The first output has no slot yet.
        run(&pool, constant(0)).await.unwrap();
        let error = run(&pool, constant(1)).await.unwrap_err();
        assert_eq!(error.class(), UdfErrorClass::Bug, "{lie}: {error}");
        assert!(error.to_string().contains(expected), "{lie}: {error}");
        match expected {
            "" => assert!(matches!(error, UdfError::Block { .. }), "{lie}: {error}"),
            _ => assert!(matches!(error, UdfError::Protocol { .. }), "{lie}: {error}"),
        }
    }
    let fine = Case::ints("f", "def f(x): return x").pool(&manager, 1);
    assert_eq!(values(&run(&fine, constant(7)).await.unwrap())[0], Some(7));
    manager.shutdown().await;
}

#[tokio::test]
async fn without_shared_memory_all_goes_through_the_socket() {
    let manager = WorkerManager::new(WorkerSettings {
        shared_memory: false,
        ..settings()
    });
    let pool = Case::ints("f", "def f(x): return x").pool(&manager, 1);
    for n in 0..5 {
        assert_eq!(values(&run(&pool, constant(n)).await.unwrap())[0], Some(n));
    }
    let stats = pool.stats();
    assert_eq!((stats.bytes_shared, stats.slots_created), (0, 0));
    assert_eq!(descriptors(only_pid(&manager)), 0);
    manager.shutdown().await;
}
