//! Sessions of an embedded database: definitions over restarts, files that come
//! and go, settings, and what kind each statement is.

use std::path::Path;

use futures::TryStreamExt;

use super::*;
use crate::catalog::DataDir;
use arrow::util::display::array_value_to_string;
use mobula_execution::{Engine, EngineSettings};
use mobula_plan::MobulaOptions;

mod actors;
mod functions;
mod kept_plans;
mod splits;

fn python() -> std::path::PathBuf {
    std::env::var_os("MOBULA_PYTHON").map_or_else(|| "python3".into(), Into::into)
}

async fn open(data_dir: Option<&Path>) -> Arc<Session> {
    let mut options = MobulaOptions::default();
    options.set_value("udf_batch_rows", "1234").unwrap();
    let engine = Engine::embedded(EngineSettings {
        options,
        python: python(),
    })
    .unwrap();
    let data_dir = data_dir.map(|path| DataDir::take(path).unwrap());
    let database = Database::open(engine, data_dir).await.unwrap();
    database.new_session().unwrap()
}

/// All values of the first column, as text.
async fn values(session: &Session, sql: &str) -> Vec<String> {
    let Outcome::Rows(run) = session.sql(sql).await.unwrap() else {
        panic!("{sql} gives no rows");
    };
    let blocks: Vec<_> = run.stream.try_collect().await.unwrap();
    let texts = blocks.iter().flat_map(|block| {
        (0..block.num_rows()).map(|row| array_value_to_string(block.column(0), row).unwrap())
    });
    texts.collect()
}

async fn all(session: &Session, statements: &[&str]) {
    for sql in statements {
        if let Err(error) = session.sql(sql).await {
            panic!("{sql}: {error}");
        }
    }
}

async fn refused(session: &Session, sql: &str) -> String {
    match session.sql(sql).await {
        Ok(_) => panic!("{sql} works"),
        Err(error) => error.to_string(),
    }
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    /// `a.csv` with one column `n` and the rows 1 and 2.
    fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::write(files.path("a.csv"), "n\n1\n2\n").unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn table(&self, name: &str, file: &str) -> String {
        format!(
            "CREATE OR REPLACE EXTERNAL TABLE {name} STORED AS CSV LOCATION '{}' OPTIONS ('format.has_header' 'true')",
            self.path(file)
        )
    }
}

#[tokio::test]
async fn definitions_survive_a_restart() {
    let (files, data) = (Files::new(), tempfile::tempdir().unwrap());
    let session = open(Some(data.path())).await;
    all(
        &session,
        &[
            "CREATE SCHEMA s",
            &files.table("t", "a.csv"),
            "CREATE VIEW s.v AS SELECT n + 1 AS m FROM t",
            // Younger than the view that reads it.
            &files.table("t", "a.csv"),
            "SET datafusion.catalog.default_schema = 's'",
            "CREATE VIEW w AS SELECT m * 10 FROM v",
        ],
    )
    .await;
    drop(session);
    let session = open(Some(data.path())).await;
    assert_eq!(values(&session, "SELECT * FROM s.w").await, ["20", "30"]);
    assert!(session.database().unusable().await.is_empty());
    all(
        &session,
        &["DROP VIEW s.w", "DROP SCHEMA s CASCADE", "DROP TABLE t"],
    )
    .await;
    drop(session);
    let session = open(Some(data.path())).await;
    for sql in ["SELECT * FROM t", "SELECT * FROM s.v", "DROP SCHEMA s"] {
        refused(&session, sql).await;
    }
}

#[tokio::test]
async fn what_is_there_already_stays_when_it_is_to_be_made_if_not() {
    let (files, data) = (Files::new(), tempfile::tempdir().unwrap());
    let session = open(Some(data.path())).await;
    all(
        &session,
        &[
            &files.table("t", "a.csv"),
            "CREATE VIEW v AS SELECT n + 1 AS m FROM t",
            "CREATE TABLE IF NOT EXISTS t AS SELECT 7 AS n",
            "CREATE TABLE IF NOT EXISTS v AS SELECT 7 AS m",
        ],
    )
    .await;
    drop(session);
    let session = open(Some(data.path())).await;
    assert_eq!(values(&session, "SELECT * FROM t").await, ["1", "2"]);
    assert_eq!(values(&session, "SELECT * FROM v").await, ["2", "3"]);
}

#[tokio::test]
async fn a_view_over_missing_files_names_them_and_works_when_they_are_back() {
    let (files, data) = (Files::new(), tempfile::tempdir().unwrap());
    let session = open(Some(data.path())).await;
    all(
        &session,
        &[
            &files.table("t", "a.csv"),
            "CREATE VIEW v AS SELECT * FROM t",
            "CREATE VIEW w AS SELECT * FROM v",
        ],
    )
    .await;
    drop(session);
    std::fs::rename(files.path("a.csv"), files.path("b.csv")).unwrap();
    let session = open(Some(data.path())).await;
    let text = refused(&session, "SELECT * FROM w").await;
    assert!(
        text.starts_with("view \"public.w\" cannot be used: table \"public.t\""),
        "{text}"
    );
    assert!(text.contains("a.csv") && !text.contains('\n'), "{text}");
    assert_eq!(session.database().unusable().await.len(), 3);
    std::fs::rename(files.path("b.csv"), files.path("a.csv")).unwrap();
    assert_eq!(values(&session, "SELECT * FROM w").await, ["1", "2"]);
    assert!(session.database().unusable().await.is_empty());
}

#[tokio::test]
async fn what_is_unusable_can_be_replaced_and_dropped() {
    let (files, data) = (Files::new(), tempfile::tempdir().unwrap());
    let session = open(Some(data.path())).await;
    all(
        &session,
        &[
            &files.table("t", "a.csv"),
            &files.table("u", "a.csv"),
            "CREATE VIEW v AS SELECT * FROM t",
        ],
    )
    .await;
    drop(session);
    std::fs::rename(files.path("a.csv"), files.path("b.csv")).unwrap();
    let session = open(Some(data.path())).await;
    all(&session, &["DROP TABLE u", &files.table("t", "b.csv")]).await;
    assert_eq!(values(&session, "SELECT * FROM v").await, ["1", "2"]);
    let text = refused(&session, "DROP TABLE u").await;
    assert_eq!(text, "table \"u\" does not exist");
}

#[tokio::test]
async fn a_failed_replacement_leaves_the_old_table() {
    let files = Files::new();
    std::fs::write(files.path("no.parquet"), "not parquet").unwrap();
    let session = open(None).await;
    all(&session, &[&files.table("t", "a.csv")]).await;
    let wrong = format!(
        "CREATE OR REPLACE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'",
        files.path("no.parquet")
    );
    let text = refused(&session, &wrong).await;
    assert!(text.contains("no.parquet"), "{text}");
    refused(&session, &files.table("t", "gone.csv")).await;
    assert_eq!(values(&session, "SELECT * FROM t").await, ["1", "2"]);
}

#[tokio::test]
async fn locations_that_match_nothing_are_named() {
    let files = Files::new();
    std::fs::create_dir(files.path("empty")).unwrap();
    std::fs::write(files.path("x.unknown"), "1").unwrap();
    let session = open(None).await;
    for name in ["no.csv", "no/", "n*.csv", "empty", "no/*.csv"] {
        let text = refused(&session, &files.table("t", name)).await;
        assert!(
            text.starts_with("no file matches") && text.contains(&files.path(name)),
            "{text}"
        );
    }
    for name in ["no.csv", "n*.csv"] {
        let text = refused(&session, &format!("SELECT * FROM '{}'", files.path(name))).await;
        assert!(text.starts_with("no file matches"), "{text}");
    }
    // Of an empty folder everything is known where the statement has the columns.
    let columns = "CREATE EXTERNAL TABLE later (n BIGINT, t TEXT) STORED AS CSV";
    let later = format!("{columns} LOCATION '{}'", files.path("empty"));
    all(&session, &[&later]).await;
    let counted = "SELECT count(*) FROM later";
    assert_eq!(values(&session, counted).await, ["0"]);
    std::fs::write(files.path("empty/a.csv"), "n,t\n1,x\n").unwrap();
    assert_eq!(values(&session, counted).await, ["1"]);
    let gone = later.replace("/empty", "/gone").replace("later", "gone");
    let text = refused(&session, &gone).await;
    assert!(text.starts_with("no file matches"), "{text}");
    let odd = format!("SELECT * FROM '{}'", files.path("x.unknown"));
    assert!(refused(&session, &odd).await.contains("names no format"));
    let pattern = format!("SELECT count(*) FROM '{}'", files.path("[a-b].c?v"));
    assert_eq!(values(&session, &pattern).await, ["2"]);
    // Another mistake in a query over a good file is told as it is.
    let wrong = format!("SELECT nope FROM '{}'", files.path("a.csv"));
    assert!(refused(&session, &wrong).await.contains("nope"));
}

#[tokio::test]
async fn settings_go_back_to_what_the_process_was_given() {
    let session = open(None).await;
    let show = "SELECT value FROM information_schema.df_settings WHERE name = ";
    for (name, initial) in [
        ("mobula.udf_batch_rows", "1234"),
        ("datafusion.execution.batch_size", "8192"),
        ("datafusion.catalog.information_schema", "true"),
    ] {
        let other = if initial == "true" { "true" } else { "77" };
        all(&session, &[&format!("SET {name} = '{other}'")]).await;
        assert_eq!(values(&session, &format!("{show}'{name}'")).await, [other]);
        all(&session, &[&format!("RESET {name}")]).await;
        assert_eq!(
            values(&session, &format!("{show}'{name}'")).await,
            [initial]
        );
    }
    refused(&session, "RESET mobula.nope").await;
    let text = refused(&session, "SET mobula.listen = 'x'").await;
    assert!(text.contains("MOBULA_LISTEN"), "{text}");
    all(&session, &["SET datafusion.execution.time_zone = '+05:00'"]).await;
    let zone = values(&session, "SELECT arrow_typeof(now())").await;
    assert!(zone[0].contains("+05:00"), "{zone:?}");
}

#[tokio::test]
async fn statements_are_of_the_kind_they_answer_as() {
    let session = open(None).await;
    all(&session, &["CREATE TABLE t AS SELECT 1 AS n"]).await;
    let kinds = [
        ("SELECT 1", StatementKind::Query),
        ("EXPLAIN SELECT 1", StatementKind::Query),
        ("SHOW TABLES", StatementKind::Query),
        ("SHOW FUNCTIONS", StatementKind::Query),
        ("DESCRIBE t", StatementKind::Query),
        ("INSERT INTO t VALUES (2)", StatementKind::Dml),
        ("COPY t TO 'x.csv'", StatementKind::Dml),
        ("SET mobula.udf_batch_rows = 5", StatementKind::Ddl),
        ("DROP TABLE t", StatementKind::Ddl),
        ("CREATE VIEW v AS SELECT 1", StatementKind::Ddl),
        ("DROP FUNCTION IF EXISTS f", StatementKind::Ddl),
    ];
    for (sql, kind) in kinds {
        let prepared = session.prepare(sql).await.unwrap();
        assert_eq!(prepared.kind, kind, "{sql}");
        assert_eq!(
            prepared.schema.fields().is_empty(),
            kind != StatementKind::Query
        );
    }
    // Preparing did nothing.
    assert_eq!(values(&session, "SELECT n FROM t").await, ["1"]);
}

#[tokio::test]
async fn what_is_not_supported_says_what_is() {
    let files = Files::new();
    let session = open(None).await;
    let unbounded = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE t STORED AS CSV LOCATION '{}'",
        files.path("a.csv")
    );
    for (sql, hint) in [
        ("PREPARE p AS SELECT 1", "driver"),
        ("EXECUTE p", "driver"),
        ("SELECT $1", "none were bound"),
        ("CREATE VIEW v AS SELECT ?", "Write the values"),
        ("SELECT 1; SELECT 2", "one at a time"),
        ("", "empty"),
        ("DROP SCHEMA public", "cannot be dropped"),
        ("CREATE VIEW system.v AS SELECT 1", "read-only"),
        (&unbounded, "UNBOUNDED"),
        (
            "CREATE EXTERNAL TABLE t STORED AS ORC LOCATION 'x'",
            "none of",
        ),
    ] {
        let text = refused(&session, sql).await;
        assert!(text.contains(hint), "{sql}: {text}");
    }
}

async fn refusal(session: &Session, sql: &str) -> String {
    let run = match session.sql(sql).await {
        Ok(Outcome::Rows(run)) => run.stream.try_collect::<Vec<_>>().await,
        Ok(Outcome::Affected(_)) => panic!("{sql} is not refused"),
        Err(error) => return error.to_string(),
    };
    run.unwrap_err().to_string()
}

#[tokio::test]
async fn a_table_is_named_whose_file_turns_out_bad() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("a.csv"), "n\n1\n").unwrap();
    std::fs::write(files.path().join("b.csv"), "n\n2\nthree\n").unwrap();
    let location = files.path().display().to_string();
    let session = open(None).await;
    let create = format!("CREATE EXTERNAL TABLE t (n BIGINT) STORED AS CSV LOCATION '{location}'");
    all(&session, &[&create]).await;
    let text = refusal(&session, "SELECT sum(n) FROM t, (SELECT 1)").await;
    let place = format!("while reading table \"t\" at {location}/");
    assert!(text.contains("three") && text.contains(&place), "{text}");
    // An error of the statement alone blames no file.
    let good =
        format!("CREATE EXTERNAL TABLE good (n BIGINT) STORED AS CSV LOCATION '{location}/a.csv'");
    all(&session, &[&good]).await;
    let text = refusal(&session, "SELECT 1 / (n - n) FROM good").await;
    assert!(
        text.contains("zero") && !text.contains("while reading"),
        "{text}"
    );
}

#[tokio::test]
async fn settings_without_prefix_and_long_statements_are_told() {
    let session = open(None).await;
    let text = refusal(&session, "SET udf_batch_rows = 5").await;
    assert!(text.contains("mobula.udf_batch_rows"), "{text}");
    let long = format!("SELECT '{}'", "x".repeat(16 << 20));
    let text = refusal(&session, &long).await;
    assert!(text.contains("mobula.sql_max_bytes"), "{text}");
}

#[tokio::test]
async fn damaged_files_are_named_and_can_be_dropped() {
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = files.path().join("t.parquet");
    let location = file.display().to_string();
    let session = open(Some(dir.path())).await;
    let copy = format!("COPY (SELECT 1 AS n) TO '{location}'");
    let create = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{location}'");
    all(&session, &[&copy, &create]).await;
    drop(session);
    // The reader of footers panics at this one.
    for garbage in ["PAR1garbagePAR1", "no Parquet at all"] {
        std::fs::write(&file, garbage).unwrap();
        let session = open(Some(dir.path())).await;
        for sql in [
            format!("SELECT * FROM '{location}'"),
            "SELECT * FROM t".into(),
        ] {
            let text = refusal(&session, &sql).await;
            assert!(text.contains("t.parquet"), "{text}");
        }
        assert_eq!(values(&session, "SELECT 1").await, ["1"]);
    }
    let session = open(Some(dir.path())).await;
    all(&session, &["DROP TABLE t"]).await;
}

#[tokio::test]
async fn a_table_whose_file_is_gone_is_not_empty() {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("t.parquet");
    let session = open(None).await;
    let copy = format!("COPY (SELECT 1 AS n) TO '{}'", file.display());
    let create = format!(
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'",
        file.display()
    );
    all(&session, &[&copy, &create]).await;
    std::fs::remove_file(&file).unwrap();
    let text = refusal(&session, "SELECT 1 WHERE 1 IN (SELECT n FROM t)").await;
    assert!(text.starts_with("no file matches"), "{text}");
}

#[tokio::test]
async fn a_copy_that_fails_leaves_what_was_there() {
    let files = tempfile::tempdir().unwrap();
    let session = open(None).await;
    for name in ["t.csv", "t.parquet"] {
        let file = files.path().join(name);
        let copy = |n| {
            let rows = "(VALUES (1)) t(a)";
            format!("COPY (SELECT {n} AS n FROM {rows}) TO '{}'", file.display())
        };
        refusal(&session, &copy("1 / (a - 1)")).await;
        assert!(!file.exists());
        all(&session, &[&copy("7")]).await;
        let before = std::fs::read(&file).unwrap();
        refusal(&session, &copy("1 / (a - 1)")).await;
        assert_eq!(std::fs::read(&file).unwrap(), before);
        all(&session, &[&copy("8")]).await;
        assert_ne!(std::fs::read(&file).unwrap(), before);
    }
    assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 2);
}

/// A session whose program has the native function `twice(x BIGINT)`.
async fn open_native(data_dir: &Path) -> Arc<Session> {
    use arrow::array::{ArrayRef, AsArray};
    use arrow::datatypes::{DataType, Int64Type};
    let code = |batch: &arrow::array::RecordBatch| {
        let x = batch.column(0).as_primitive::<Int64Type>();
        Ok(Arc::new(x.unary::<_, Int64Type>(|x| 2 * x)) as ArrayRef)
    };
    let int = DataType::Int64;
    let twice = mobula_udfs::Native::scalar("twice", [("x", int.clone())], int, code);
    let functions = mobula_execution::RustFunctions::new().with_native(twice);
    let settings = EngineSettings {
        options: MobulaOptions::default(),
        python: python(),
    };
    let engine = Engine::embedded_with(settings, functions.unwrap()).unwrap();
    let data_dir = DataDir::take(data_dir).unwrap();
    let database = Database::open(engine, Some(data_dir)).await.unwrap();
    database.new_session().unwrap()
}

#[tokio::test]
async fn a_native_function_is_listed_and_keeps_its_name() {
    let data = tempfile::tempdir().unwrap();
    let session = open_native(data.path()).await;
    assert_eq!(values(&session, "SELECT twice(21)").await, ["42"]);
    let listed = "SELECT language || ' ' || kind || ' ' || parameters FROM system.functions";
    assert_eq!(values(&session, listed).await, ["native scalar x Int64"]);
    for create in ["CREATE", "CREATE OR REPLACE"] {
        let create = format!(
            "{create} FUNCTION twice(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$def twice(x): return x$$"
        );
        let text = refused(&session, &create).await;
        assert_eq!(
            text,
            "function \"twice\" is native, a part of this program. Choose another name"
        );
    }
    for drop in ["DROP FUNCTION twice", "DROP FUNCTION IF EXISTS twice"] {
        let text = refused(&session, drop).await;
        assert!(text.contains("cannot be dropped"), "{text}");
    }
    assert_eq!(values(&session, "SELECT twice(21)").await, ["42"]);
}

#[tokio::test]
async fn a_stored_function_gives_way_to_a_native_one_and_can_be_dropped() {
    let data = tempfile::tempdir().unwrap();
    let session = open(Some(data.path())).await;
    let create = "CREATE FUNCTION twice(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$x$$";
    let Some(MobulaStatement::CreateFunction(create)) =
        mobula_plan::parse_statements(create).unwrap().pop()
    else {
        panic!("it is a CREATE FUNCTION");
    };
    let stored = crate::catalog::Definition {
        kind: crate::catalog::ObjectKind::Function,
        name: "twice".into(),
        body: create.spec.encode().unwrap(),
        location: None,
        default_schema: None,
    };
    session.database().catalog().put(&stored).unwrap();
    drop(session);
    let session = open_native(data.path()).await;
    let unusable = session.database().unusable().await;
    assert!(
        unusable.len() == 1 && unusable[0].contains("\"twice\" is native"),
        "{unusable:?}"
    );
    assert_eq!(values(&session, "SELECT twice(21)").await, ["42"]);
    all(&session, &["DROP FUNCTION twice"]).await;
    assert!(session.database().unusable().await.is_empty());
    assert!(
        refused(&session, "DROP FUNCTION twice")
            .await
            .contains("cannot be dropped")
    );
    assert_eq!(values(&session, "SELECT twice(21)").await, ["42"]);
}
