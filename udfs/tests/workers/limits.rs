//! What a worker may take of its machine.

use std::sync::Arc;

use mobula_udfs::{StartMethod, UdfErrorClass, WorkerManager, WorkerSettings};

use crate::bench::*;

const GIB: usize = 1 << 30;

/// Takes as many times 256 MiB as its argument, each in its own way.
const TAKES: [&str; 4] = [
    "\ndef f(x):\n    return x * 0 + len(bytearray(int(x[0]) << 28))",
    "\nimport numpy as np\ndef f(x):\n    return x * 0 + np.ones(int(x[0]) << 25).nbytes",
    "\nimport pyarrow as pa\ndef f(x):\n    return x * 0 + pa.allocate_buffer(int(x[0]) << 28).size",
    "\ndef f(x):\n    a = []\n    while len(a) < int(x[0]) << 8: a.append(bytearray(1 << 20))\n    return x * 0 + (len(a) << 20)",
];

fn manager_of(start_method: StartMethod, worker_memory_bytes: usize) -> Arc<WorkerManager> {
    WorkerManager::new(WorkerSettings {
        start_method,
        worker_memory_bytes,
        ..settings()
    })
}

/// The soft and the hard limit named `name` of a process.
fn limit_of(pid: u32, name: &str) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let mut found = limits.lines().filter_map(|line| line.strip_prefix(name));
    let mut values = found.next().unwrap().split_whitespace().map(str::to_owned);
    (values.next().unwrap(), values.next().unwrap())
}

fn oom_score_adj(process: &str) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
    text.trim().parse().unwrap()
}

#[tokio::test]
async fn workers_leave_no_core_files_and_go_before_the_engine() {
    let none = ("0".to_owned(), "0".to_owned());
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let manager = manager_of(method, 0);
        let pool = Case::ints("f", "def f(x): return x").pool(&manager, 1);
        run(&pool, counting(1)).await.unwrap();
        let pid = only_pid(&manager);
        assert_eq!(limit_of(pid, "Max core file size"), none);
        let space = limit_of(pid, "Max data size");
        assert_eq!(space, limit_of(std::process::id(), "Max data size"));
        let ours = oom_score_adj("self");
        assert_eq!(oom_score_adj(&pid.to_string()), (ours + 500).min(1000));
        manager.shutdown().await;
    }
}

#[tokio::test]
async fn who_takes_too_much_memory_gets_an_error() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let manager = manager_of(method, 3 * GIB / 2);
        for body in TAKES {
            let pool = Case::ints("f", body).pool(&manager, 1);
            let error = run(&pool, ints([Some(8)])).await.unwrap_err();
            let text = error.to_string();
            assert_eq!(error.class(), UdfErrorClass::User, "{text}");
            assert!(text.starts_with("function \"f\" failed: "), "{text}");
            assert!(text.contains("MemoryError"), "{text}");
            let said = "; `udf_worker_memory` lets a worker take 1610612736 bytes)";
            assert!(text.contains("(line ") && text.ends_with(said), "{text}");
            // What it may take, it gets, from the same worker.
            let out = run(&pool, ints([Some(1)])).await.unwrap();
            assert_eq!(values(&out), [Some(GIB as i64 / 4)]);
            assert_eq!(pool.stats().retries, 0);
        }
        let (soft, hard) = limit_of(only_pid(&manager), "Max data size");
        assert!(soft == hard && soft.parse::<usize>().unwrap() > 3 * GIB / 2);
        manager.shutdown().await;
    }
}

#[tokio::test]
async fn a_result_that_takes_too_much_memory_is_the_functions_error() {
    let manager = manager_of(StartMethod::default(), GIB / 4);
    // Each value is the same text here, and is copied for the answer.
    let body = "\ndef f(x):\n    return ['y' * (1 << 20)] * 1000";
    let case = Case::scalar(
        "f",
        &[("x", arrow::datatypes::DataType::Int64)],
        arrow::datatypes::DataType::Utf8,
        body,
    );
    let pool = case.pool(&manager, 1);
    let error = run(&pool, counting(1000)).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.class(), UdfErrorClass::User, "{text}");
    assert!(text.contains("MemoryError"), "{text}");
    assert!(text.contains("`udf_worker_memory`"), "{text}");
    manager.shutdown().await;
}

#[tokio::test]
async fn blocks_that_are_shared_do_not_count() {
    let manager = manager_of(StartMethod::default(), GIB / 32);
    let pool = Case::ints("f", "def f(x): return x").pool(&manager, 1);
    for rows in [100_000, 10_000_000, 100_000] {
        let out = run(&pool, counting(rows)).await.unwrap();
        assert_eq!(out.num_rows() as i64, rows);
    }
    assert_eq!(pool.stats().workers_started, 1);
    manager.shutdown().await;
}
