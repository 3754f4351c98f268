//! The results file: times, and everything needed to judge them.

use std::fmt;
use std::path::Path;
use std::process::Command;

use mobula_flight_server::tpch_data::TpchData;
use serde::{Deserialize, Serialize};

use crate::arguments::Workload;
use crate::error::BenchmarkError;
use crate::system::Mode;
use crate::tpch::Query;

/// One results file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub benchmark: String,
    /// Commit of the checkout, with `-dirty` when files differ from it.
    pub commit: String,
    /// Cargo profile of this program, and of a `mobula` found beside it.
    pub profile: String,
    pub command: Vec<String>,
    pub machine: Machine,
    pub data: Data,
    pub systems: Vec<SystemTimes>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub memory_bytes: u64,
    pub cpu: String,
    pub kernel: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Data {
    pub scale_factor: f64,
    pub files_per_table: u32,
    pub directory: String,
}

/// What one system took.
#[derive(Debug, Serialize, Deserialize)]
pub struct SystemTimes {
    pub mode: String,
    /// Processes that run tasks; 0: the one that is asked.
    pub executors: usize,
    pub queries: Vec<QueryTimes>,
}

/// Seconds of each timed run, in their order.
#[derive(Debug, Serialize, Deserialize)]
pub struct QueryTimes {
    pub query: u32,
    pub seconds: Vec<f64>,
}

impl Record {
    /// A record of `systems`, with what this machine and checkout say.
    ///
    /// # Errors
    /// The program's own path is not known.
    pub fn new(
        workload: &Workload,
        data: &TpchData,
        systems: Vec<SystemTimes>,
    ) -> Result<Self, BenchmarkError> {
        let program = std::env::current_exe().map_err(BenchmarkError::file("find", "us"))?;
        let profile = program.parent().and_then(Path::file_name);
        Ok(Self {
            benchmark: "tpch".to_owned(),
            commit: commit(),
            profile: profile.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            command: std::env::args().skip(1).collect(),
            machine: Machine::here(),
            data: Data {
                scale_factor: workload.sf,
                files_per_table: workload.parts,
                directory: data.out.display().to_string(),
            },
            systems,
        })
    }

    /// Reads a results file.
    ///
    /// # Errors
    /// It is not there, or is something else.
    pub fn read(path: &Path) -> Result<Self, BenchmarkError> {
        let text = std::fs::read_to_string(path).map_err(BenchmarkError::file("read", path))?;
        serde_json::from_str(&text).map_err(|source| BenchmarkError::Results {
            path: path.to_path_buf(),
            source,
        })
    }

    /// Writes the file, if one is asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: Option<&Path>) -> Result<(), BenchmarkError> {
        let Some(path) = path else {
            return Ok(());
        };
        let text =
            serde_json::to_string_pretty(self).map_err(|source| BenchmarkError::Results {
                path: path.to_path_buf(),
                source,
            })?;
        std::fs::write(path, text).map_err(BenchmarkError::file("write", path))?;
        println!("results are in {}", path.display());
        Ok(())
    }

    /// Prints, for each query and for the total, the median over the rounds of
    /// the first system's time divided by the second's.
    pub fn print_ratios(&self) {
        let [subject, peer] = self.systems.as_slice() else {
            return;
        };
        println!(
            "\n{:>6} {:>12} {:>12} {:>7}",
            "query", "subject s", "peer s", "ratio"
        );
        for (ours, theirs) in subject.queries.iter().zip(&peer.queries) {
            println!(
                "{:>6} {:>12.4} {:>12.4} {:>7.3}",
                format!("q{}", ours.query),
                median(&ours.seconds),
                median(&theirs.seconds),
                median(&ratios(&ours.seconds, &theirs.seconds))
            );
        }
        let (ours, theirs) = (subject.rounds(), peer.rounds());
        println!(
            "{:>6} {:>12.4} {:>12.4} {:>7.3}   median of {} pairs, {} against {}",
            "total",
            median(&ours),
            median(&theirs),
            median(&ratios(&ours, &theirs)),
            ours.len(),
            subject.mode,
            peer.mode
        );
    }
}

impl SystemTimes {
    pub fn new(mode: &Mode, queries: &[Query]) -> Self {
        let queries = queries.iter().map(|query| QueryTimes {
            query: query.number,
            seconds: vec![],
        });
        Self {
            mode: mode.to_string(),
            executors: mode.executors(),
            queries: queries.collect(),
        }
    }

    /// Sum over the queries of their median, in seconds.
    pub fn total_median(&self) -> f64 {
        self.queries.iter().map(|q| median(&q.seconds)).sum()
    }

    /// Seconds of all queries in the last round.
    pub fn last_round(&self) -> f64 {
        self.rounds().last().copied().unwrap_or_default()
    }

    /// Seconds of all queries together, for each round that all queries ran in.
    fn rounds(&self) -> Vec<f64> {
        let complete = self.queries.iter().map(|q| q.seconds.len()).min();
        (0..complete.unwrap_or(0))
            .map(|round| self.queries.iter().map(|q| q.seconds[round]).sum())
            .collect()
    }
}

impl fmt::Display for QueryTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self
            .seconds
            .iter()
            .fold((f64::MAX, 0_f64), |(low, high), s| {
                (low.min(*s), high.max(*s))
            });
        let median = median(&self.seconds);
        write!(
            f,
            "q{:<3} {median:.4} s ({low:.4} to {high:.4})",
            self.query
        )
    }
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let memory = rustix::system::sysinfo();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory.totalram.saturating_mul(u64::from(memory.mem_unit)),
            cpu: model
                .and_then(|line| line.split_once(':'))
                .map_or_else(String::new, |(_, name)| name.trim().to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

fn commit() -> String {
    let git = Command::new("git")
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

/// The middle of `values`, the mean of the two middle ones for an even number;
/// NaN for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// Element by element, `ours` divided by `theirs`.
fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(a, b)| a / b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_rounds() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        let times = |query, seconds: &[f64]| QueryTimes {
            query,
            seconds: seconds.to_vec(),
        };
        let system = SystemTimes {
            mode: "embedded".into(),
            executors: 0,
            queries: vec![times(1, &[1.0, 2.0, 9.0]), times(2, &[10.0, 20.0])],
        };
        assert_eq!(system.rounds(), [11.0, 22.0]);
        assert_eq!(system.last_round(), 22.0);
        assert_eq!(system.total_median(), 17.0);
        assert_eq!(ratios(&[1.0, 3.0], &[2.0, 2.0]), [0.5, 1.5]);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        std::fs::write(&path, "{}").unwrap();
        let error = Record::read(&path).unwrap_err().to_string();
        assert!(error.contains("not a results file"), "{error}");
        let record = Record {
            benchmark: "tpch".into(),
            commit: commit(),
            profile: "release".into(),
            command: vec![],
            machine: Machine::here(),
            data: Data {
                scale_factor: 1.0,
                files_per_table: 1,
                directory: "/data".into(),
            },
            systems: vec![],
        };
        assert!(record.machine.cores > 0 && record.machine.memory_bytes > 0);
        record.write(Some(&path)).unwrap();
        assert_eq!(Record::read(&path).unwrap().commit, record.commit);
    }
}
