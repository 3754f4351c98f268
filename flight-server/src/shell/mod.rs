//! `mobula sql`: statements from a prompt, the command line, a file or a pipe.
//!
//! The same shell speaks to an embedded database and to a server. Ctrl-C drops
//! the running statement, which cancels it everywhere; at the prompt it clears
//! the line, and a second one leaves.

mod commands;
mod names;
mod output;
mod progress;
mod prompt;
mod sink;
mod split;
mod typing;

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use indicatif::ProgressBar;
pub use output::Format;
use output::ResultWriter;
use progress::Progress;
pub use progress::Watch;
pub use prompt::print_error;
use sink::Sink;
use split::{is_blank, split};

use crate::service::client::{RemoteOutcome, RemoteSession};
use crate::{Outcome, ServerError, Session};

/// Rows that a table shows at the prompt; scripts get all.
const PROMPT_ROWS: usize = 40;

/// Where statements go.
pub enum Target {
    Local(Arc<Session>),
    Remote(Box<RemoteSession>),
}

/// What is to be run.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Texts of `-c`, in order.
    pub commands: Vec<String>,
    pub file: Option<PathBuf>,
}

/// A shell over one session.
pub struct Shell {
    target: Target,
    format: Format,
    timing: bool,
    max_rows: Option<usize>,
    /// Whether long results go through a pager.
    pages: bool,
    /// Where results go if not to the terminal.
    file: Option<sink::Target>,
    /// Where progress is asked for, and whether it is.
    watch: Option<Watch>,
    shows_progress: bool,
}

struct Rows {
    schema: SchemaRef,
    blocks: BoxStream<'static, Result<RecordBatch, ServerError>>,
}

enum Answer {
    Rows(Rows),
    Affected(Option<u64>),
}

impl Shell {
    pub fn new(target: Target, format: Format) -> Self {
        Self {
            target,
            format,
            timing: false,
            max_rows: None,
            pages: false,
            file: None,
            watch: None,
            shows_progress: true,
        }
    }

    /// Shows how far a statement is while it runs, where standard error is a terminal.
    pub fn with_progress(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Prints a line with rows and time after each statement.
    pub fn with_timing(mut self) -> Self {
        self.timing = true;
        self
    }

    /// Runs `script`; with an empty one, standard input: a prompt if it is a
    /// terminal. `history` keeps the lines typed there.
    ///
    /// # Errors
    /// A script ends at its first error; the prompt prints errors and goes on.
    pub async fn run(
        mut self,
        script: Script,
        history: Option<PathBuf>,
    ) -> Result<(), ServerError> {
        for text in &script.commands {
            self.run_text(text).await?;
        }
        if let Some(path) = &script.file {
            self.run_file(path).await?;
        }
        if !script.commands.is_empty() || script.file.is_some() {
            return Ok(());
        }
        if std::io::stdin().is_terminal() {
            self.timing = true;
            self.max_rows = Some(PROMPT_ROWS);
            return prompt::run(&mut self, history).await;
        }
        self.run_text(&standard_input()?).await
    }

    async fn run_file(&mut self, path: &Path) -> Result<(), ServerError> {
        let text = match path.as_os_str() == "-" {
            true => standard_input()?,
            false => std::fs::read_to_string(path).map_err(unreadable(path))?,
        };
        self.run_text(&text).await
    }

    async fn run_text(&mut self, text: &str) -> Result<(), ServerError> {
        let parts = split(text);
        let last = (!is_blank(parts.rest)).then_some(parts.rest);
        for statement in parts.statements.into_iter().chain(last) {
            self.statement(statement).await?;
        }
        Ok(())
    }

    /// Runs one statement and writes what it gives; Ctrl-C cancels it.
    async fn statement(&mut self, sql: &str) -> Result<(), ServerError> {
        let started = Instant::now();
        let watch = self.watch.as_ref().filter(|_| self.shows_progress);
        let progress = watch.map(|watch| Progress::of(watch, sql));
        let bar = progress.as_ref().map(Progress::bar);
        let work = async {
            let answer = answer(&mut self.target, sql).await?;
            let line = match answer {
                Answer::Affected(Some(rows)) => format!("{} written", rows_text(rows as usize)),
                Answer::Affected(None) => "done".to_owned(),
                Answer::Rows(rows) => self.write(rows, bar).await?,
            };
            Ok(line)
        };
        let line = tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err(ServerError::Cancelled),
        };
        // Not on the line that is written next.
        drop(progress);
        let line = line?;
        if self.timing {
            println!("{line} in {:.3} s", started.elapsed().as_secs_f64());
        }
        std::io::stdout().flush().map_err(ServerError::Output)
    }

    /// Writes a result, and says how many rows it had.
    async fn write(
        &self,
        mut rows: Rows,
        progress: Option<ProgressBar>,
    ) -> Result<String, ServerError> {
        let pages = self.pages && std::io::stdout().is_terminal();
        let max_rows = self.max_rows.filter(|_| !pages && self.file.is_none());
        let mut sink = Sink::new(self.file.as_ref(), pages, progress)?;
        let written = async {
            let mut writer = ResultWriter::new(&mut sink, self.format, rows.schema, max_rows);
            while let Some(block) = rows.blocks.try_next().await? {
                writer.write(&block)?;
            }
            writer.finish()
        };
        let written = written.await;
        let count = sink.end(written)?;
        Ok(count.map_or_else(|| "left".to_owned(), rows_text))
    }
}

/// What `target` answers to `sql`.
async fn answer(target: &mut Target, sql: &str) -> Result<Answer, ServerError> {
    match target {
        Target::Local(session) => Ok(match session.sql(sql).await? {
            Outcome::Affected(rows) => Answer::Affected(rows),
            Outcome::Rows(run) => Answer::Rows(Rows {
                schema: run.stream.schema(),
                blocks: run.stream.map_err(ServerError::from).boxed(),
            }),
        }),
        Target::Remote(session) => Ok(match session.execute(sql).await? {
            RemoteOutcome::Affected(rows) => Answer::Affected(rows),
            RemoteOutcome::Rows { schema, stream } => Answer::Rows(Rows {
                schema,
                blocks: stream,
            }),
        }),
    }
}

fn standard_input() -> Result<String, ServerError> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(unreadable(Path::new("standard input")))?;
    Ok(text)
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> ServerError {
    move |source| ServerError::File {
        deed: "read",
        path: path.to_path_buf(),
        source,
    }
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> ServerError {
    move |source| ServerError::File {
        deed: "write",
        path: path.to_path_buf(),
        source,
    }
}

fn rows_text(rows: usize) -> String {
    match rows {
        1 => "1 row".to_owned(),
        n => format!("{n} rows"),
    }
}
