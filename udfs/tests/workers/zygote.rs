//! Workers that are forked: alike where they should be, and not where they must not.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::DataType;
use mobula_udfs::{StartMethod, UdfError, WorkerManager, WorkerSettings};

use crate::bench::*;

/// What a worker finds around itself, in one text.
const LOOK: &str = "
import os, signal, sys, threading
def f(x):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]
    open_files = sorted(os.readlink('/proc/self/fd/' + n).split(':')[0]
                        for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n))
    found = [
        sys.argv, os.environ['MOBULA_EXECUTOR_ID'], os.getpgid(0) == os.getpid(),
        threading.active_count(), all(h == signal.SIG_DFL for h in handlers),
        signal.getsignal(signal.SIGINT) == signal.default_int_handler,
        signal.pthread_sigmask(signal.SIG_BLOCK, []),
        signal.set_wakeup_fd(-1), sys.stdin.read(), open_files,
    ]
    return [str(found)] * len(x)";

fn manager_that(start_method: StartMethod) -> Arc<WorkerManager> {
    WorkerManager::new(WorkerSettings {
        start_method,
        ..settings()
    })
}

async fn pid_of(manager: &Arc<WorkerManager>) -> u32 {
    let pool = Case::ints("f", "def f(x): return x").pool(manager, 1);
    run(&pool, counting(1)).await.unwrap();
    only_pid(manager)
}

/// The field of `/proc/PID/stat` that names the parent.
fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn forked_and_spawned_workers_find_the_same() {
    let mut found = Vec::new();
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let manager = manager_that(method);
        let params = [("x", DataType::Int64)];
        let pool = Case::scalar("f", &params, DataType::Utf8, LOOK).pool(&manager, 1);
        let out = run(&pool, counting(1)).await.unwrap();
        let text: &StringArray = out.column(0).as_string();
        found.push(text.value(0).to_owned());
        let forked = parent_of(only_pid(&manager)) != std::process::id();
        assert_eq!(forked, method == StartMethod::ForkServer);
        manager.shutdown().await;
    }
    assert_eq!(found[0], found[1]);
    // Whether signals are ignored depends on who started the tests.
    assert!(found[0].starts_with("[['mobula'], 'executor-7', True, 1, "));
    assert!(found[0].contains("set(), -1, ''"), "{}", found[0]);
}

#[tokio::test]
async fn forked_workers_throw_their_own_dice() {
    let body = "
import numpy
class f:
    def __init__(self):
        self.seen = numpy.random.randint(2**62)
    def __call__(self, x):
        import time
        time.sleep(0.05)
        return x * 0 + self.seen";
    let manager = manager();
    let pool = Case::ints("f", body).class().pool(&manager, 3);
    let calls = (0..6).map(|_| run(&pool, counting(1)));
    let outs = futures::future::join_all(calls).await;
    let seen: HashSet<_> = outs.into_iter().map(|out| values(&out.unwrap())).collect();
    assert_eq!(seen.len(), manager.workers().len());
    assert!(seen.len() > 1, "{seen:?}");
    manager.shutdown().await;
}

#[tokio::test]
async fn a_killed_zygote_is_replaced() {
    let manager = manager();
    let body = "\nimport os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    while True: pass";
    let first = pid_of(&manager).await;
    let zygote = parent_of(first);
    assert_ne!(zygote, std::process::id());
    let killer = Case::ints("f", body).pool(&manager, 1);
    let error = run(&killer, counting(1)).await.unwrap_err();
    assert!(matches!(error, UdfError::WorkerLost { .. }), "{error:?}");
    dead(first).await;
    let second = pid_of(&manager).await;
    assert_ne!(parent_of(second), zygote);
    assert_ne!(parent_of(second), std::process::id());
    manager.shutdown().await;
}

#[tokio::test]
async fn a_stopped_zygote_goes_on() {
    let manager = manager();
    let body = "\nimport os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGSTOP)\n    os._exit(7)";
    let zygote = parent_of(pid_of(&manager).await);
    assert_ne!(zygote, std::process::id());
    let stopper = Case::ints("f", body).pool(&manager, 1);
    let error = run(&stopper, counting(1)).await.unwrap_err();
    assert!(matches!(error, UdfError::WorkerLost { .. }), "{error:?}");
    assert_eq!(parent_of(pid_of(&manager).await), zygote);
    manager.shutdown().await;
}

#[tokio::test]
async fn the_zygote_goes_with_its_manager() {
    let manager = manager();
    let zygote = parent_of(pid_of(&manager).await);
    assert_ne!(zygote, std::process::id());
    drop(manager);
    gone(zygote).await;
}

#[tokio::test]
async fn a_zygote_started_ahead_is_the_one_that_forks() {
    let manager = manager();
    manager.warm();
    manager.warm();
    let case = Case::ints("f", "\nclass f:\n    def __call__(self, x): return x").class();
    let pools = [case.pool(&manager, 1), case.pool(&manager, 1)];
    let calls = pools.iter().map(|pool| run(pool, counting(1)));
    for out in futures::future::join_all(calls).await {
        out.unwrap();
    }
    let workers = manager.workers();
    let parents: HashSet<_> = workers.iter().map(|w| parent_of(w.pid)).collect();
    assert_eq!((workers.len(), parents.len()), (2, 1));
    manager.shutdown().await;
}

#[tokio::test]
async fn a_python_with_threads_of_its_own_is_not_forked() {
    // Python reads sitecustomize before anything else.
    let dir = std::env::temp_dir().join(format!("mobula-udfs-threads-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let text = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n";
    std::fs::write(dir.join("sitecustomize.py"), text).unwrap();
    let wrapper = dir.join("python");
    let script = format!(
        "#!/bin/sh\nPYTHONPATH={} exec {} \"$@\"\n",
        dir.display(),
        python().display()
    );
    std::fs::write(&wrapper, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&wrapper, executable).unwrap();
    let manager = WorkerManager::new(WorkerSettings {
        python: wrapper,
        ..settings()
    });
    assert_eq!(parent_of(pid_of(&manager).await), std::process::id());
    manager.shutdown().await;
    std::fs::remove_dir_all(&dir).unwrap();
}
