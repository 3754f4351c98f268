//! How far the running statement is: one line on the terminal, from the engine's own tables.
//!
//! Another session asks for it, once a second, from when the statement has run for two. It
//! says how long it has run, the rows and bytes that went into its calls, or, without calls, out
//! of its tasks, and what limits it: what it spends most time waiting for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt64Type};
use futures::TryStreamExt;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mobula_execution::{OwnedTask, spawn_named};

use super::Target;
use crate::service::client::RemoteSession;
use crate::{Database, ServerError};

/// What is over sooner needs no progress.
const SHOWN_AFTER: Duration = Duration::from_secs(2);
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// Where another session can be had.
#[derive(Clone)]
pub enum Watch {
    Local(Arc<Database>),
    Remote(String),
}

impl Watch {
    async fn session(&self) -> Result<Target, ServerError> {
        Ok(match self {
            Self::Local(database) => Target::Local(database.new_session()?),
            Self::Remote(url) => Target::Remote(Box::new(RemoteSession::connect(url).await?)),
        })
    }
}

/// A line that is there until this goes, or something else is written.
pub struct Progress {
    bar: ProgressBar,
    _task: OwnedTask<()>,
}

impl Progress {
    /// Of the statement `sql`, which begins now; nothing is shown where standard error is no
    /// terminal.
    pub fn of(watch: &Watch, sql: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {wide_msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        let (watch, sql, shown) = (watch.clone(), sql.to_owned(), bar.clone());
        let task = spawn_named("progress", async move {
            if shown.is_hidden() {
                return;
            }
            // Who cannot see how far it is waits without.
            if let Err(error) = follow(&watch, &sql, &shown).await {
                tracing::debug!(%error, "no progress");
            }
        });
        Self { bar, _task: task }
    }

    /// The line, for who writes to the same terminal.
    pub fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

async fn follow(watch: &Watch, sql: &str, bar: &ProgressBar) -> Result<(), ServerError> {
    let since = Instant::now();
    tokio::time::sleep(SHOWN_AFTER).await;
    let mut session = watch.session().await?;
    let question = question(sql);
    while !bar.is_finished() {
        let answer = super::answer(&mut session, &question).await?;
        let blocks = match answer {
            super::Answer::Rows(rows) => rows.blocks.try_collect::<Vec<_>>().await?,
            super::Answer::Affected(_) => vec![],
        };
        let state = blocks.iter().find(|block| block.num_rows() > 0);
        if let Some(state) = state.map(State::of) {
            bar.set_message(state.text(since.elapsed()));
            bar.tick();
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
    Ok(())
}

/// One row for each function that the statement calls, that with most to do first.
fn question(sql: &str) -> String {
    let sql = sql.replace('\'', "''");
    format!(
        "WITH mine AS (SELECT query_id, waits_for, ahead FROM system.queries \
           WHERE sql = '{sql}' ORDER BY started DESC LIMIT 1), \
         calls AS (SELECT query_id, function, sum(rows_in) AS rows, sum(bytes_in) AS bytes, \
           sum(workers_at_once) AS workers, sum(wait_input_ms) AS input_ms, \
           sum(wait_workers_ms) AS workers_ms, sum(wait_downstream_ms) AS downstream_ms \
           FROM system.operators GROUP BY 1, 2), \
         steps AS (SELECT query_id, count(*) AS tasks, count(finished) AS finished, \
           sum(rows_out) AS rows, sum(bytes_out) AS bytes FROM system.tasks GROUP BY 1) \
         SELECT waits_for, ahead, function, coalesce(calls.rows, steps.rows) AS rows, \
           coalesce(calls.bytes, steps.bytes) AS bytes, workers, input_ms, workers_ms, \
           downstream_ms, tasks, finished \
         FROM mine LEFT JOIN calls USING (query_id) LEFT JOIN steps USING (query_id) \
         ORDER BY workers_ms DESC NULLS LAST LIMIT 1"
    )
}

/// What is known of the statement.
#[derive(Debug, Default)]
struct State {
    waits_for: Option<String>,
    ahead: u64,
    function: Option<String>,
    rows: u64,
    bytes: u64,
    workers: u64,
    input_ms: u64,
    workers_ms: u64,
    downstream_ms: u64,
    tasks: u64,
    finished: u64,
}

impl State {
    fn of(block: &RecordBatch) -> Self {
        let column = |name: &str, kind: &DataType| {
            let found = block.column_by_name(name);
            found.and_then(|column| cast(column, kind).ok())
        };
        let text = |name| {
            let found = column(name, &DataType::Utf8)?;
            let found = found.as_string::<i32>();
            found.iter().next().flatten().map(str::to_owned)
        };
        let number = |name| {
            let found = column(name, &DataType::UInt64);
            let found = found.and_then(|found| found.as_primitive::<UInt64Type>().iter().next()?);
            found.unwrap_or_default()
        };
        Self {
            waits_for: text("waits_for"),
            ahead: number("ahead"),
            function: text("function"),
            rows: number("rows"),
            bytes: number("bytes"),
            workers: number("workers"),
            input_ms: number("input_ms"),
            workers_ms: number("workers_ms"),
            downstream_ms: number("downstream_ms"),
            tasks: number("tasks"),
            finished: number("finished"),
        }
    }

    fn text(&self, since: Duration) -> String {
        let seconds = since.as_secs();
        if let Some(what) = &self.waits_for {
            let ahead = match self.ahead {
                0 => String::new(),
                ahead => format!(", {ahead} ahead"),
            };
            return format!("{seconds} s: waits for {what}{ahead}");
        }
        let (rows, bytes) = (count(self.rows), HumanBytes(self.bytes));
        match &self.function {
            Some(function) => {
                let limit = self.limit(function);
                format!("{seconds} s: {rows} rows, {bytes} into {function}; {limit}")
            }
            None if self.tasks > 1 => {
                let (finished, tasks) = (self.finished, self.tasks);
                format!(
                    "{seconds} s: {finished} of {tasks} tasks through, {rows} rows, {bytes} out of them"
                )
            }
            None => format!("{seconds} s: {rows} rows, {bytes}"),
        }
    }

    /// What its first function waits for most.
    fn limit(&self, function: &str) -> String {
        let most = self.input_ms.max(self.workers_ms).max(self.downstream_ms);
        if most == 0 {
            return format!("{function} has not begun");
        }
        if most == self.workers_ms {
            let workers = self.workers;
            return format!("limited by {function} ({workers} at work)");
        }
        if most == self.input_ms {
            return "limited by what it reads".to_owned();
        }
        "limited by what comes after it".to_owned()
    }
}

/// `12,345,678`.
fn count(rows: u64) -> String {
    indicatif::HumanCount(rows).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_limits() {
        let state = |input_ms, workers_ms, downstream_ms| State {
            function: Some("embed".to_owned()),
            rows: 1_234_567,
            bytes: 3 << 20,
            workers: 4,
            input_ms,
            workers_ms,
            downstream_ms,
            ..State::default()
        };
        let text = |state: State| state.text(Duration::from_millis(7_900));
        let found = text(state(1, 5, 2));
        assert_eq!(
            found,
            "7 s: 1,234,567 rows, 3.00 MiB into embed; limited by embed (4 at work)"
        );
        assert!(text(state(5, 1, 2)).ends_with("limited by what it reads"));
        assert!(text(state(1, 2, 5)).ends_with("limited by what comes after it"));
        assert!(text(state(0, 0, 0)).ends_with("embed has not begun"));
        let tasks = State {
            tasks: 8,
            finished: 3,
            rows: 7,
            ..State::default()
        };
        assert_eq!(
            text(tasks),
            "7 s: 3 of 8 tasks through, 7 rows, 0 B out of them"
        );
        let waits = State {
            waits_for: Some("num_gpus=1".to_owned()),
            ahead: 2,
            ..State::default()
        };
        assert_eq!(text(waits), "7 s: waits for num_gpus=1, 2 ahead");
    }

    #[test]
    fn quotes_of_the_statement_stay_its_own() {
        assert!(question("SELECT 'x'").contains("sql = 'SELECT ''x'''"));
    }
}
