//! User code that does what it should not: the next call does not suffer for it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::DataType;
use mobula_udfs::{UdfError, UdfErrorClass, UdfPool, WorkerManager, WorkerSettings};
use tempfile::TempDir;

use crate::bench::*;

/// Writes `NOISE` to its socket, unasked: once, in the middle of a block that starts
/// with 1; and from a thread, for a block that starts with 2, when it is told to.
#[cfg(target_os = "linux")]
const NOISY: &str = "
import os, struct, threading, time
def say():
    for number in os.listdir('/proc/self/fd'):
        try: link = os.readlink('/proc/self/fd/' + number)
        except OSError: continue
        if link.startswith('socket:'): os.write(int(number), NOISE)
def say_later():
    while not os.path.exists(DIR + '/now'): time.sleep(0.001)
    say()
    open(DIR + '/said', 'w').close()
def f(x):
    if x[0] == 1 and not os.path.exists(DIR + '/once'):
        open(DIR + '/once', 'w').close()
        say()
    if x[0] == 2:
        threading.Thread(target=say_later, daemon=True).start()
    return x * 10";

/// Frames that nobody asked for, and what is none.
#[cfg(target_os = "linux")]
const NOISES: [&str; 4] = [
    "b'garbage, and more of it than a header has'",
    // DONE and OUTPUT of the first request, which is over.
    "struct.pack('<IBBHQ', 2, 20, 0, 0, 1) + b'{}'",
    "struct.pack('<IBBHQ', 2, 19, 0, 0, 1) + b'{}'",
    // Longer than any frame.
    "struct.pack('<IBBHQ', 2**32 - 1, 20, 0, 0, 3)",
];

async fn works(manager: &Arc<WorkerManager>) {
    let next = Case::ints("next", "def next(x): return x + 1").pool(manager, 1);
    let out = run(&next, counting(3)).await.unwrap();
    assert_eq!(values(&out), [Some(1), Some(2), Some(3)]);
}

async fn there(file: &Path) {
    let since = Instant::now();
    while !file.exists() {
        assert!(since.elapsed() < PATIENCE, "no {file:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn endless_recursion_is_an_error_of_the_function() {
    let manager = manager();
    let pool = Case::ints("f", "\ndef f(x):\n    return f(x)").pool(&manager, 1);
    let error = run(&pool, counting(3)).await.unwrap_err();
    assert_eq!(error.class(), UdfErrorClass::User);
    let text = error.to_string();
    let start = "function \"f\" failed: RecursionError: maximum recursion depth exceeded";
    assert!(text.starts_with(start), "{text}");
    assert!(text.ends_with("(line 3: return f(x))"), "{text}");
    assert!(error.traceback().unwrap().len() < 10_000);
    let pid = only_pid(&manager);
    works(&manager).await;
    assert_eq!(only_pid(&manager), pid);
    manager.shutdown().await;
}

#[tokio::test]
async fn recursion_past_the_stack_ends_the_worker_alone() {
    let body = "
import sys
sys.setrecursionlimit(10**9)
class Deep:
    def __repr__(self):
        return repr([Deep()])
def f(x):
    return len(repr(Deep()))";
    let manager = manager();
    let pool = Case::ints("f", body).pool(&manager, 1);
    let error = run(&pool, counting(3)).await.unwrap_err();
    let text = error.to_string();
    match &error {
        UdfError::WorkerLost { pid, .. } => {
            assert!(text.contains(": killed by SIGSEGV (line "), "{text}");
            gone(*pid).await;
        }
        // Later Pythons count calls in C as well, whatever the limit.
        _ => assert!(text.contains("RecursionError"), "{text}"),
    }
    works(&manager).await;
    manager.shutdown().await;
}

#[tokio::test]
async fn after_every_fault_the_next_call_works() {
    let manager = WorkerManager::new(WorkerSettings {
        call_timeout: Some(Duration::from_secs(2)),
        ..settings()
    });
    for fault in [
        "import ctypes; ctypes.string_at(0)",
        "import os; os._exit(3)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.abort()",
        "while True: pass",
        "sum(range(10**15))",
        "print('x' * 10_000_000, flush=True); import os; os._exit(3)",
    ] {
        let pool = Case::ints("f", &format!("\ndef f(x):\n    {fault}")).pool(&manager, 1);
        let pid = match run(&pool, counting(3)).await.unwrap_err() {
            UdfError::WorkerLost { pid, .. } | UdfError::TimedOut { pid, .. } => pid,
            other => panic!("{fault}: {other:?}"),
        };
        gone(pid).await;
        works(&manager).await;
        last_pid(&manager).await;
    }
    let prints = "\ndef f(x):\n    print('x' * 10_000_000)\n    return x";
    let pool = Case::ints("f", prints).pool(&manager, 1);
    run(&pool, counting(3)).await.unwrap();
    let pid = only_pid(&manager);
    works(&manager).await;
    assert_eq!(only_pid(&manager), pid);
    manager.shutdown().await;
    gone(pid).await;
}

#[cfg(target_os = "linux")]
fn noisy(noise: &str, dir: &TempDir, is_class: bool) -> Case {
    let dir = format!("{:?}", dir.path().display().to_string());
    let body = NOISY.replace("NOISE", noise).replace("DIR", &dir);
    if !is_class {
        return Case::ints("f", &body);
    }
    let class = "\nclass f:\n    def __call__(self, x):\n        return noisy(x)";
    let body = body.replace("def f(x)", "def noisy(x)");
    Case::ints("f", &(body + class)).class()
}

#[cfg(target_os = "linux")]
async fn times_ten(pool: &Arc<dyn UdfPool>, x: i64) {
    let out = run(pool, ints([Some(x), Some(7)])).await.unwrap();
    assert_eq!(values(&out), [Some(x * 10), Some(70)]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_that_speaks_after_its_answer_is_replaced() {
    for (noise, is_class) in NOISES.iter().flat_map(|n| [(n, false), (n, true)]) {
        let dir = TempDir::new().unwrap();
        let manager = manager();
        let pool = noisy(noise, &dir, is_class).pool(&manager, 1);
        times_ten(&pool, 2).await;
        let pid = only_pid(&manager);
        std::fs::write(dir.path().join("now"), "").unwrap();
        there(&dir.path().join("said")).await;
        times_ten(&pool, 3).await;
        gone(pid).await;
        assert_eq!(pool.stats().retries, 0, "{noise}");
        last_pid(&manager).await;
        manager.shutdown().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_that_speaks_out_of_turn_is_replaced() {
    for (noise, is_class) in NOISES.iter().flat_map(|n| [(n, false), (n, true)]) {
        let dir = TempDir::new().unwrap();
        let manager = manager();
        let pool = noisy(noise, &dir, is_class).pool(&manager, 1);
        times_ten(&pool, 0).await;
        let pid = only_pid(&manager);
        times_ten(&pool, 1).await;
        gone(pid).await;
        assert_eq!(pool.stats().retries, 1, "{noise}");
        manager.shutdown().await;
    }
}

#[tokio::test]
async fn answers_that_are_kept_keep_no_slots() {
    const ROWS: i64 = 100_000;
    let manager = manager();
    let pool = Case::ints("f", "def f(x): return x + 1").pool(&manager, 1);
    let mut unread = vec![];
    for n in 0..30 {
        unread.push(
            pool.call(ints((0..ROWS).map(|x| Some(x + n))))
                .await
                .unwrap(),
        );
    }
    let mut kept = vec![];
    for stream in &mut unread {
        while let Some(block) = next(stream).await {
            kept.push(block.unwrap());
        }
    }
    assert!(pool.stats().slots_created <= 4, "{:?}", pool.stats());
    for (n, block) in (0..30).zip(&kept) {
        let expected = (0..ROWS).map(|x| Some(x + n + 1));
        assert!(values(block).into_iter().eq(expected), "block {n}");
    }

    let body =
        "\ndef f(rows):\n    for part in range(12):\n        yield {'y': rows['x'] * 100 + part}";
    let pool = Case::table("f", &[("y", DataType::Int64)], body).pool(&manager, 3);
    let mut streams = vec![];
    for n in 0..3 {
        streams.push(
            pool.call(ints((0..ROWS).map(|x| Some(x + n))))
                .await
                .unwrap(),
        );
    }
    let mut kept = vec![];
    for part in 0..12 {
        for (n, stream) in (0..).zip(&mut streams) {
            kept.push((part, n, next(stream).await.unwrap().unwrap()));
        }
    }
    for stream in &mut streams {
        assert!(next(stream).await.is_none());
    }
    for (part, n, block) in kept {
        let expected = (0..ROWS).map(|x| Some((x + n) * 100 + part));
        assert!(
            values(&block).into_iter().eq(expected),
            "part {part} of {n}"
        );
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn who_closes_what_others_print_to_does_not_harm_them() {
    let manager = manager();
    let closes = "
import os
def f(x):
    for number in range(3): os.close(number)
    return x";
    let prints = "
import os
def g(x):
    print('hello', flush=True)
    os.write(2, b'hello')
    return x + os.read(0, 1).__len__()";
    let closes = Case::ints("f", closes).pool(&manager, 1);
    let prints = Case::ints("g", prints).pool(&manager, 1);
    for _ in 0..2 {
        assert_eq!(values(&run(&closes, counting(1)).await.unwrap()), [Some(0)]);
        assert_eq!(values(&run(&prints, counting(1)).await.unwrap()), [Some(0)]);
    }
    assert_eq!(manager.workers().len(), 1, "one worker served both");
    manager.shutdown().await;
}
