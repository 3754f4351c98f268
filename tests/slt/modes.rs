//! The two modes, and the proof that the second one exchanges blocks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use futures::TryStreamExt;
use mobula_execution::{Engine, EngineSettings};
use mobula_flight_server::Database;
use mobula_flight_server::service::client::{RemoteOutcome, RemoteSession};
use mobula_flight_server::tpch_data::TpchData;
use mobula_plan::MobulaOptions;
use mobula_tests::{ServerProcess, python};
use sqllogictest::{Runner, default_normalizer, default_validator, strict_column_validator};
use tempfile::TempDir;

use crate::database::{Places, StatementError, Target, TestDatabase};

/// A file that says this in its first lines need not exchange blocks.
const NO_EXCHANGES: &str = "# exchanges: none";
/// What this line says, in a file's first lines, is set at the start: `key=value` between
/// blanks.
const SETTINGS: &str = "# settings: ";
/// Executors count bytes at each heartbeat.
pub const CLUSTER: [&str; 7] = [
    "--no-local-executor",
    "--executors",
    "3",
    "--scan-bytes-per-task",
    "1",
    "--heartbeat-interval",
    "100ms",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    let suite = Suite::new();
    let approve = std::env::var_os("MOBULA_APPROVE").is_some();
    let mut failures = vec![];
    for file in suite.files() {
        let mut options = MobulaOptions::default();
        for (key, value) in settings(&file) {
            options.set_value(&key, &value).unwrap();
        }
        let engine = Engine::embedded(EngineSettings {
            options,
            python: python(),
        })
        .unwrap();
        let database = Database::open(engine, None).await.unwrap();
        let (places, _scratch) = suite.places();
        let result = run_file(&file, "embedded", approve, || async {
            Ok(TestDatabase {
                target: Target::Embedded(database.new_session()?),
                places: places.clone(),
            })
        })
        .await;
        failures.extend(result.err());
        database.engine().shutdown().await;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster() {
    let suite = Suite::new();
    let mut failures = vec![];
    for file in suite.files() {
        // A fresh server for each file, as a fresh database embedded.
        let own = settings(&file).into_iter();
        let own = own.flat_map(|(key, value)| [format!("--{}", key.replace('_', "-")), value]);
        let own: Vec<_> = own.collect();
        let args = CLUSTER
            .iter()
            .copied()
            .chain(own.iter().map(String::as_str));
        let server = ServerProcess::start(&args.collect::<Vec<_>>()).unwrap();
        let (places, _scratch) = suite.places();
        let result = run_file(&file, "cluster", false, || async {
            Ok(TestDatabase {
                target: Target::Server(Box::new(RemoteSession::connect(&server.clients).await?)),
                places: places.clone(),
            })
        })
        .await;
        failures.extend(result.err());
        if !needs_no_exchange(&file) && !exchanged_bytes(&server.clients).await {
            failures.push(format!("{}: no query exchanged bytes", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// The files and the data they read.
struct Suite {
    slt: PathBuf,
    data: TempDir,
}

impl Suite {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let tpch = TpchData {
            scale_factor: 0.01,
            parts: 4,
            out: data.path().to_path_buf(),
        };
        tpch.make(false).unwrap();
        let slt = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
        Self { slt, data }
    }

    /// The files in order; those whose name contains `MOBULA_SLT`, if set.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![];
        let mut dirs = vec![self.slt.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.extension() {
                    _ if path.is_dir() => dirs.push(path),
                    Some(extension) if extension == "slt" => files.push(path),
                    _ => {}
                }
            }
        }
        files.sort();
        assert!(
            files.len() > 10,
            "SQL files are missing in {}",
            self.slt.display()
        );
        let wanted = std::env::var("MOBULA_SLT").unwrap_or_default();
        files.retain(|file| file.to_string_lossy().contains(&wanted));
        files
    }

    /// The directories of one file; the second one is removed when dropped.
    fn places(&self) -> (Places, TempDir) {
        let scratch = tempfile::tempdir().unwrap();
        let places = Places {
            data: self.data.path().to_path_buf(),
            files: self.slt.join("data"),
            scratch: scratch.path().to_path_buf(),
        };
        (places, scratch)
    }
}

/// `mode`: what `onlyif` and `skipif` ask for.
async fn run_file<F, Fut>(file: &Path, mode: &str, approve: bool, connect: F) -> Result<(), String>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<TestDatabase, StatementError>>,
{
    let mut runner = Runner::new(&connect);
    runner.add_label(mode);
    runner.with_column_validator(strict_column_validator);
    if approve {
        let approved = runner.update_test_file(
            file,
            " ",
            default_validator,
            default_normalizer,
            strict_column_validator,
        );
        let approved = approved.await;
        return approved.map_err(|e| format!("{}: {e}", file.display()));
    }
    let result = runner.run_file_async(file).await;
    result.map_err(|e| format!("{}: {}", file.display(), e.display(false)))
}

fn needs_no_exchange(file: &Path) -> bool {
    first_lines(file).iter().any(|line| line == NO_EXCHANGES)
}

/// What `file` wants to be set.
fn settings(file: &Path) -> Vec<(String, String)> {
    let lines = first_lines(file);
    let mut said = lines.iter().filter_map(|line| line.strip_prefix(SETTINGS));
    let said = said.next().unwrap_or_default().split_whitespace();
    let pairs = said.map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn first_lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().take(5).map(str::to_owned).collect()
}

/// True once the executors report bytes sent; they do with each heartbeat.
async fn exchanged_bytes(clients: &str) -> bool {
    let mut session = RemoteSession::connect(clients).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        if bytes_sent(&mut session).await > 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

async fn bytes_sent(session: &mut RemoteSession) -> u64 {
    let sql = "select sum(bytes_sent) from system.executors";
    let RemoteOutcome::Rows { stream, .. } = session.execute(sql).await.unwrap() else {
        unreachable!("a query gives rows");
    };
    let blocks: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    let sums = blocks
        .iter()
        .map(|b| b.column(0).as_primitive::<UInt64Type>());
    sums.flat_map(|sum| sum.iter().flatten()).sum()
}
