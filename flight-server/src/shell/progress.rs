//! How far the running statement is: one line on the terminal, from the engine's own tables.
//!
//! Another session asks `system.progress` for it, once a second, from when the statement has run
//! for two.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mobula_execution::{OwnedTask, spawn_named};

use super::Target;
use crate::service::client::RemoteSession;
use crate::{Database, ServerError};

/// What is over sooner needs no progress.
const SHOWN_AFTER: Duration = Duration::from_secs(2);
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// The engine knows no more of a statement.
const SQL_BYTES_MAX: usize = 4096;

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
    tokio::time::sleep(SHOWN_AFTER).await;
    let mut session = watch.session().await?;
    let question = question(sql);
    while !bar.is_finished() {
        let answer = super::answer(&mut session, &question).await?;
        let blocks = match answer {
            super::Answer::Rows(rows) => rows.blocks.try_collect::<Vec<_>>().await?,
            super::Answer::Affected(_) => vec![],
        };
        if let Some(message) = blocks.iter().find_map(message) {
            bar.set_message(message);
            bar.tick();
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
    Ok(())
}

/// The statement's message; of a long one the engine knows how it begins.
fn question(sql: &str) -> String {
    let sql = &sql[..sql.floor_char_boundary(SQL_BYTES_MAX)];
    let sql = sql.replace('\'', "''");
    format!(
        "SELECT message FROM system.progress WHERE sql <> '' AND starts_with('{sql}', sql) \
         ORDER BY elapsed_ms LIMIT 1"
    )
}

fn message(block: &RecordBatch) -> Option<String> {
    let texts = cast(block.column(0), &DataType::Utf8).ok()?;
    let message = texts.as_string::<i32>().iter().next()??;
    Some(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_of_the_statement_stay_its_own() {
        assert!(question("SELECT 'x'").contains("starts_with('SELECT ''x''', sql)"));
    }
}
