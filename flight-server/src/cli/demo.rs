//! `mobula demo`: data, an actor and a query over both, from nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use mobula_execution::RustFunctions;
use mobula_plan::MobulaOptions;

use super::serve::Coordinator;
use super::sql::embedded;
use crate::shell::{Format, Script, Shell, Target};
use crate::tpch_data::{TABLES, TpchData};
use crate::{Database, ServerError, Session, python_env};

/// An actor: built once per worker, called with batches of columns.
const FUNCTION: &str = "\
CREATE OR REPLACE FUNCTION margin(price DOUBLE, discount DOUBLE, tax DOUBLE) RETURNS DOUBLE
LANGUAGE python IMMUTABLE AS $$
class margin:
    def __init__(self):
        self.fee = 0.25    # built once per worker: load a model here

    def __call__(self, price, discount, tax):
        return price * (1 - discount) * (1 + tax) - self.fee
$$";

/// Joins four tables and feeds the actor.
const QUERY: &str = "\
SELECT n_name AS nation, count(*) AS items, round(sum(margin), 2) AS margin
FROM map_batches(
    TABLE(SELECT n_name,
                 CAST(l_extendedprice AS DOUBLE) AS price,
                 CAST(l_discount AS DOUBLE) AS discount,
                 CAST(l_tax AS DOUBLE) AS tax
          FROM lineitem
          JOIN orders ON l_orderkey = o_orderkey
          JOIN customer ON o_custkey = c_custkey
          JOIN nation ON c_nationkey = n_nationkey
          WHERE o_orderdate >= DATE '1997-01-01'),
    margin, batch_size => 65536, concurrency => 2)
GROUP BY n_name
ORDER BY margin DESC
LIMIT 10";

/// Runs the demo, embedded or on executor processes.
///
/// # Errors
/// No space, no Python, no network: one line each.
pub async fn run(matches: &ArgMatches, mut options: MobulaOptions) -> Result<(), ServerError> {
    let dir = match options.data_dir() {
        Some(dir) => dir.to_path_buf(),
        None => default_dir()?,
    };
    set(&mut options, "data_dir", &dir.to_string_lossy())?;
    std::fs::create_dir_all(&dir).map_err(|source| ServerError::File {
        deed: "make the data directory",
        path: dir.clone(),
        source,
    })?;
    let data = TpchData {
        scale_factor: matches.get_one("sf").copied().unwrap_or(1.0),
        parts: 1,
        out: dir.join(format!(
            "tpch-sf{}",
            matches.get_one::<f64>("sf").copied().unwrap_or(1.0)
        )),
    };
    let (data, options) = tokio::task::spawn_blocking(move || -> Result<_, ServerError> {
        data.make(false)?;
        ensure_python(&options)?;
        Ok((data, options))
    })
    .await
    .unwrap_or_else(|e| Err(ServerError::Output(std::io::Error::other(e))))?;
    if options.executors() == 0 {
        let database = embedded(options, RustFunctions::default()).await?;
        show(&database, &data, &dir).await?;
        database.engine().shutdown().await;
        return Ok(());
    }
    // The executors asked for do the work, not this process.
    let mut options = options;
    for (key, value) in [
        ("local_executor", "false"),
        ("cluster_listen", "127.0.0.1:0"),
    ] {
        set(&mut options, key, value)?;
    }
    let coordinator = Coordinator::start(options, None, RustFunctions::default()).await?;
    let result = show(&coordinator.database, &data, &dir).await;
    coordinator.stop().await;
    result
}

async fn show(database: &Arc<Database>, data: &TpchData, dir: &Path) -> Result<(), ServerError> {
    let session = database.new_session()?;
    for table in TABLES {
        let location = data.location(table);
        let sql = format!(
            "CREATE OR REPLACE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}'",
            location.display()
        );
        session.sql(&sql).await?;
    }
    session.sql(FUNCTION).await?;
    println!("{FUNCTION};\n\n{QUERY};\n");
    print(&session, QUERY).await?;
    println!("Where the time went:\n");
    print(&session, &format!("EXPLAIN ANALYZE {QUERY}")).await?;
    println!("\nThe tables and the function stay. Go on with:\n");
    println!("    {}\n", reopening(dir));
    Ok(())
}

/// The command that opens `dir` again, wherever it is typed.
fn reopening(dir: &Path) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("mobula"));
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    format!("{} sql --data-dir {}", program.display(), dir.display())
}

async fn print(session: &Arc<Session>, sql: &str) -> Result<(), ServerError> {
    let script = Script {
        commands: vec![sql.to_owned()],
        file: None,
    };
    Shell::new(Target::Local(Arc::clone(session)), Format::Table)
        .with_timing()
        .run(script, None)
        .await
}

fn ensure_python(options: &MobulaOptions) -> Result<(), ServerError> {
    let python = python_env::interpreter(options);
    if python_env::is_complete(&python) {
        return Ok(());
    }
    println!("mobula: {} has no pyarrow and numpy", python.display());
    python_env::setup(options)
}

fn default_dir() -> Result<PathBuf, ServerError> {
    let home = std::env::var_os("HOME").ok_or_else(|| ServerError::Setting {
        source_name: "HOME".into(),
        message: "it is not set. Say where the data goes with --data-dir DIR".into(),
    })?;
    Ok(PathBuf::from(home).join(".local/share/mobula/demo"))
}

fn set(options: &mut MobulaOptions, key: &str, value: &str) -> Result<(), ServerError> {
    Ok(options.set_value(key, value)?)
}
