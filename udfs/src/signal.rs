//! Signals to worker processes, what the system says of them, and how a process ended
//! in words.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Ends the process and all it started, at once.
pub(crate) fn kill(pid: u32) {
    signal_group(pid, Signal::KILL);
}

/// Asks the process and all it started to end.
pub(crate) fn terminate(pid: u32) {
    signal_group(pid, Signal::TERM);
}

/// Asks the process to write where its threads are to its standard error.
pub(crate) fn ask_for_stack(pid: u32) {
    if let Some(pid) = raw(pid) {
        // Gone already: whoever waits for it will see that.
        let _ = kill_process(pid, Signal::USR1);
    }
}

/// Lets the process go on that a signal has stopped.
pub(crate) fn resume(pid: u32) {
    if let Some(pid) = raw(pid) {
        // Gone already: its owner will see that.
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// Memory that the process holds now; 0 where the system does not tell.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let kib = status.ok().and_then(|status| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kib.unwrap_or(0) << 10
}

fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = raw(pid) {
        // An empty group is what we want.
        let _ = kill_process_group(pid, signal);
    }
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Whether [`describe_exit`] says that a signal ended the process.
pub(crate) fn is_killed(exit: &str) -> bool {
    exit.starts_with("killed by ")
}

/// How a process ended, in words: `killed by SIGSEGV`, `exit code 3`.
pub(crate) fn describe_exit(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by {}", signal_name(signal)),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

fn signal_name(signal: i32) -> String {
    const NAMES: [(Signal, &str); 14] = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::HUP, "SIGHUP"),
        (Signal::ILL, "SIGILL"),
        (Signal::INT, "SIGINT"),
        (Signal::KILL, "SIGKILL"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::SYS, "SIGSYS"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::USR1, "SIGUSR1"),
    ];
    NAMES
        .iter()
        .find(|(known, _)| known.as_raw() == signal)
        .map_or_else(
            || format!("signal {signal}"),
            |(_, name)| (*name).to_owned(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_have_names() {
        assert_eq!(describe_exit(ExitStatus::from_raw(9)), "killed by SIGKILL");
        assert!(is_killed(&describe_exit(ExitStatus::from_raw(9))));
        assert!(!is_killed(&describe_exit(ExitStatus::from_raw(9 << 8))));
        assert_eq!(describe_exit(ExitStatus::from_raw(11)), "killed by SIGSEGV");
        assert_eq!(
            describe_exit(ExitStatus::from_raw(60)),
            "killed by signal 60"
        );
        assert_eq!(describe_exit(ExitStatus::from_raw(3 << 8)), "exit code 3");
    }
}
