//! Workers that die, hang, flood or lie: an error that says so, never a hang.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use mobula_udfs::{UdfError, UdfErrorClass, WorkerManager};

use crate::bench::*;

/// The error of a body that ends its own process.
async fn lost(body: &str) -> (String, UdfError) {
    let error = Case::ints("f", body).fails(counting(3)).await;
    let UdfError::WorkerLost { function, exit, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (function.as_str(), error.class()),
        ("f", UdfErrorClass::Lost)
    );
    (exit.clone(), error)
}

#[tokio::test]
async fn a_worker_killed_twice_is_named() {
    let manager = manager();
    let body = "\nimport time\ndef f(x):\n    print('last words')\n    time.sleep(600)";
    let pool = Case::ints("f", body).pool(&manager, 1);
    let call = run(&pool, counting(3));
    // The block is sent to a second worker, not to a third.
    let kill = async {
        let mut pid = 0;
        for _ in 0..2 {
            let last = pid;
            while pid == last {
                pid = worker_in(&manager, "busy").await;
                tokio::task::yield_now().await;
            }
            let status = std::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status();
            assert!(status.unwrap().success());
            gone(pid).await;
        }
        pid
    };
    let since = Instant::now();
    let (out, pid) = tokio::join!(call, kill);
    let error = out.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("function \"f\" lost its worker (pid {pid}): killed by SIGKILL")
    );
    assert!(since.elapsed() < Duration::from_secs(10));
    gone(pid).await;
    let again = Case::ints("f", "def f(x): return x").pool(&manager, 1);
    assert_eq!(run(&again, counting(3)).await.unwrap().num_rows(), 3);
    manager.shutdown().await;
}

#[tokio::test]
async fn crashes_tell_signal_and_line() {
    let (exit, error) = lost("\nimport ctypes\ndef f(x):\n    ctypes.string_at(0)").await;
    assert_eq!(exit, "killed by SIGSEGV");
    let message = error.to_string();
    assert!(
        message.ends_with("SIGSEGV (line 4: ctypes.string_at(0))"),
        "{message}"
    );
    let log = error.traceback().unwrap();
    assert!(
        log.contains("Segmentation fault") && log.contains("line 4 in f"),
        "{log}"
    );
    let (exit, error) = lost("\nimport os\ndef f(x):\n    print('bye')\n    os._exit(3)").await;
    assert_eq!(exit, "exit code 3");
    assert_eq!(error.traceback(), Some("bye\n"));
}

#[tokio::test]
async fn a_worker_that_leaves_a_child_behind_is_still_lost() {
    // The child holds the socket open; the end of the process must be seen.
    let body = "
import os, time
def f(x):
    if os.fork() == 0:
        time.sleep(600)
    print('child', flush=True)
    os._exit(4)";
    let since = Instant::now();
    assert_eq!(lost(body).await.0, "exit code 4");
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn a_child_that_comes_back_does_not_answer() {
    let manager = manager();
    for back in ["return x + 100", "raise ValueError('child')"] {
        let body = format!(
            "
import os
def f(x):
    child = os.fork()
    if child == 0:
        {back}
    assert os.waitpid(child, 0)[1] == 0
    return x"
        );
        let pool = Case::ints("f", &body).pool(&manager, 1);
        for _ in 0..3 {
            let out = run(&pool, counting(2)).await.unwrap();
            assert_eq!(values(&out), [Some(0), Some(1)]);
        }
    }
    let rows = "
import os
def f(rows):
    child = os.fork()
    yield {'y': [child == 0]}
    if child: os.waitpid(child, 0)";
    let pool = Case::table("f", &[("y", DataType::Boolean)], rows).pool(&manager, 1);
    let out = run(&pool, counting(1)).await.unwrap();
    assert_eq!(
        out.column(0).as_boolean().iter().collect::<Vec<_>>(),
        [Some(false)]
    );
    assert_eq!(manager.workers().len(), 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn a_tight_loop_ends_with_its_stack() {
    for body in [
        "\ndef f(x):\n    while True:\n        pass",
        "\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef f(x):\n    while True: pass",
        "\ndef f(x):\n    return sum(range(10**15))",
    ] {
        let manager = WorkerManager::new(mobula_udfs::WorkerSettings {
            call_timeout: Some(Duration::from_secs(1)),
            ..settings()
        });
        let pool = Case::ints("f", body).pool(&manager, 1);
        let error = run(&pool, counting(3)).await.unwrap_err();
        assert_eq!(error.class(), UdfErrorClass::Timeout);
        let text = error.to_string();
        assert!(
            text.starts_with("function \"f\" did not answer within 1s (line "),
            "{text}"
        );
        assert!(text.contains("`udf_call_timeout`"), "{text}");
        let stack = error.traceback().unwrap();
        assert!(
            stack.contains("File \"<function f>\", line") && stack.contains("in f"),
            "{stack}"
        );
        assert!(
            !stack.contains("<mobula") && !stack.contains("<string>"),
            "{stack}"
        );
        let UdfError::TimedOut { pid, .. } = error else {
            panic!("{text}")
        };
        gone(pid).await;
    }
}

#[tokio::test]
async fn a_slow_reader_is_not_a_timeout() {
    let manager = WorkerManager::new(mobula_udfs::WorkerSettings {
        call_timeout: Some(Duration::from_millis(1500)),
        ..settings()
    });
    let body = "\ndef f(rows):\n    for i in range(12): yield {'y': [i] * 100_000}";
    let pool = Case::table("f", &[("y", DataType::Int64)], body).pool(&manager, 1);
    let mut stream = pool.call(counting(1)).await.unwrap();
    let mut rows = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    while let Some(part) = next(&mut stream).await {
        rows += part.unwrap().num_rows();
        ticks.tick().await;
    }
    assert_eq!(rows, 1_200_000);
    manager.shutdown().await;
}

#[tokio::test]
async fn ten_megabytes_of_prints_are_only_logs() {
    let body = "
import sys, os
def f(x):
    for i in range(100_000):
        print('x' * 100)
    sys.stderr.write('y' * 1_000_000)
    os.write(1, b'\\x00\\x01raw bytes')
    return x";
    let out = Case::ints("f", body).once(counting(10)).await.unwrap();
    assert_eq!(out.num_rows(), 10);
}

#[tokio::test]
async fn a_worker_that_ends_at_the_start_is_told_apart() {
    let exits = Case::ints("f", "import os\nos._exit(9)")
        .fails(counting(1))
        .await;
    assert!(matches!(exits, UdfError::WorkerLost { .. }), "{exits:?}");

    for (python, class, expected) in [
        (
            "/nowhere/python3",
            UdfErrorClass::Setup,
            "python \"/nowhere/python3\" cannot be started. ",
        ),
        (
            "false",
            UdfErrorClass::Setup,
            "python \"false\" ended before it was ready: exit code 1. ",
        ),
    ] {
        let python = PathBuf::from(python);
        let manager = WorkerManager::new(mobula_udfs::WorkerSettings {
            python,
            ..settings()
        });
        let spec = Case::ints("f", "def f(x): return x").spec;
        let error = manager.describe(&spec).await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(
            error.to_string().contains("`mobula python setup`"),
            "{error}"
        );
        assert_eq!(error.class(), class);
        assert!(manager.workers().is_empty());
    }
}

#[tokio::test]
async fn a_slow_start_times_out_with_its_stack() {
    let manager = WorkerManager::new(mobula_udfs::WorkerSettings {
        init_timeout: Duration::from_secs(8),
        ..settings()
    });
    let body = "\nimport time\nclass f:\n  def __init__(self):\n    time.sleep(600)\n  def __call__(self, x): pass";
    let pool = Case::ints("f", body).class().pool(&manager, 1);
    let error = run(&pool, counting(1)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("function \"f\" did not start within 8s"),
        "{error}"
    );
    assert!(
        error.traceback().unwrap().contains("line 5 in __init__"),
        "{error:?}"
    );
}

#[tokio::test]
async fn python_without_packages_says_what_to_install() {
    // The interpreter alone, without its site-packages.
    let dir = std::env::temp_dir().join(format!("mobula-udfs-bare-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let bare = dir.join("python");
    let script = format!("#!/bin/sh\nexec {} -I -S \"$@\"\n", python().display());
    std::fs::write(&bare, script).unwrap();
    std::fs::set_permissions(&bare, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let manager = WorkerManager::new(mobula_udfs::WorkerSettings {
        python: bare,
        ..settings()
    });
    let error = manager
        .describe(&Case::ints("f", "def f(x): return x").spec)
        .await;
    std::fs::remove_dir_all(&dir).unwrap();
    let error = error.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("lacks pyarrow. Run `mobula python setup`"),
        "{error}"
    );
    assert_eq!(error.class(), UdfErrorClass::Setup);
}

#[tokio::test]
async fn long_messages_are_split_and_a_long_row_is_refused() {
    let manager = WorkerManager::new(mobula_udfs::WorkerSettings {
        max_frame_bytes: 64 << 10,
        ..settings()
    });
    let grow = Case::scalar(
        "grow",
        &[("x", DataType::Int64)],
        DataType::Utf8,
        "\ndef grow(x):\n    return ['y' * int(v) for v in x]",
    );
    let pool = grow.pool(&manager, 1);
    // 400 kB in, 1 MB out, through frames of 64 kB.
    let out = run(&pool, ints((0..50_000).map(|i| Some(i % 40))))
        .await
        .unwrap();
    assert_eq!(out.num_rows(), 50_000);
    let text = out
        .column(0)
        .as_any()
        .downcast_ref::<arrow::array::StringArray>()
        .unwrap();
    assert_eq!((text.value(39).len(), text.value(49_999).len()), (39, 39));
    let error = run(&pool, ints([Some(1), Some(100_000)]))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("bytes for one row, but a message to a worker may have 65536. Raise `udf_max_frame_bytes`"), "{error}");
    assert_eq!(error.class(), UdfErrorClass::Setup);
    // The worker is as good as before.
    assert_eq!(run(&pool, counting(2)).await.unwrap().num_rows(), 2);
    assert_eq!(manager.workers().len(), 1);
    manager.shutdown().await;
}
