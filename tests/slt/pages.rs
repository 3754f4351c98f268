//! The SQL of the documentation runs as it stands.

use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use mobula_execution::{Engine, EngineSettings};
use mobula_flight_server::service::client::{RemoteOutcome, RemoteSession};
use mobula_flight_server::tpch_data::TpchData;
use mobula_flight_server::{Database, Outcome, ServerError};
use mobula_plan::MobulaOptions;
use mobula_tests::{ServerProcess, python};
use tempfile::TempDir;

use crate::database::Target;
use crate::modes::CLUSTER;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_runs() {
    let mut failures = vec![];
    let data = data();
    for page in pages() {
        let engine = Engine::embedded(EngineSettings {
            options: MobulaOptions::default(),
            python: python(),
        });
        let database = Database::open(engine.unwrap(), None).await.unwrap();
        let mut target = Target::Embedded(database.new_session().unwrap());
        failures.extend(failures_of(&page, &mut target, &data).await);
        database.engine().shutdown().await;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_runs_on_executors() {
    let mut failures = vec![];
    let data = data();
    for page in pages() {
        let server = ServerProcess::start(&CLUSTER).unwrap();
        let session = RemoteSession::connect(&server.clients).await.unwrap();
        let mut target = Target::Server(Box::new(session));
        failures.extend(failures_of(&page, &mut target, &data).await);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// What the pages read.
fn data() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let tpch = TpchData {
        scale_factor: 0.01,
        parts: 1,
        out: data.path().to_path_buf(),
    };
    tpch.make(false).unwrap();
    data
}

/// The statements of a page that fail, and why.
async fn failures_of(page: &Path, target: &mut Target, data: &TempDir) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let mut statements: Vec<_> = blocks(&text).flat_map(statements).collect();
    statements.extend(cells(&text));
    assert!(!statements.is_empty(), "{}: no SQL", page.display());
    let location = data.path().join("lineitem.parquet");
    let location = location.display();
    let table = format!("CREATE EXTERNAL TABLE lineitem STORED AS PARQUET LOCATION '{location}'");
    run(target, &table).await.unwrap();
    let mut failures = vec![];
    for statement in statements {
        if let Err(error) = run(target, &statement).await {
            failures.push(format!("{}: {error}\n{statement}", page.display()));
        }
    }
    failures
}

/// The pages of the operators, and those about functions, actors, clusters and blocks.
fn pages() -> Vec<PathBuf> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let operators = std::fs::read_dir(docs.join("operators")).unwrap();
    let mut pages: Vec<_> = operators.map(|entry| entry.unwrap().path()).collect();
    for guide in [
        "actors",
        "cluster",
        "functions",
        "failed-rows",
        "blocks",
        "keyed-actors",
        "ray-and-spark",
        "splits",
    ] {
        pages.push(docs.join(format!("guide/{guide}.md")));
    }
    pages.sort();
    pages
}

/// What stands between "```sql" and "```".
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.split("```sql\n").skip(1);
    starts.filter_map(|rest| rest.split("```").next())
}

/// Statements in cells of tables; those with `…` or with a placeholder file are
/// forms, not statements.
fn cells(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let code = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let starts = ["SELECT ", "EXPLAIN ", "DESCRIBE "];
    let is_statement = |code: &&str| {
        let is_setting = code.starts_with("SET ") && code.contains('=');
        is_setting || starts.iter().any(|start| code.starts_with(start))
    };
    let statements = code.filter(is_statement);
    let whole = statements.filter(|code| !code.contains('…') && !code.contains("'dir/"));
    whole.map(str::to_owned).collect()
}

/// Statements end with a semicolon at a line's end, before a comment there, outside of a
/// body.
fn statements(block: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let mut in_body = false;
    for line in block.lines() {
        in_body ^= line.matches("$$").count() % 2 == 1;
        let last = statements.last_mut().unwrap();
        last.push_str(line);
        last.push('\n');
        let code = line.split(" --").next().unwrap_or_default();
        if !in_body && code.trim_end().ends_with(';') {
            statements.push(String::new());
        }
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

async fn run(target: &mut Target, sql: &str) -> Result<(), ServerError> {
    match target {
        Target::Embedded(session) => {
            if let Outcome::Rows(rows) = session.sql(sql).await? {
                rows.stream.try_collect::<Vec<_>>().await?;
            }
        }
        Target::Server(session) => {
            if let RemoteOutcome::Rows { stream, .. } = session.execute(sql).await? {
                stream.try_collect::<Vec<_>>().await?;
            }
        }
    }
    Ok(())
}
