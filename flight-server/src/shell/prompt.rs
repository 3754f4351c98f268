//! The interactive prompt.

use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use super::Shell;
use super::split::{is_blank, split};
use crate::ServerError;

/// Lines kept in the history.
const HISTORY_LINES: usize = 10_000;

const HELP: &str = "\
Statements end with a semicolon and may span lines.
  \\d           list tables          \\d NAME      columns of a table
  \\timing      times on or off      \\rows N|all  rows that a table shows
  \\h           this help            \\q           leave (also Ctrl-D)
Ctrl-C cancels the running statement.";

/// Reads and runs statements until the end of input.
pub async fn run(shell: &mut Shell, history: Option<PathBuf>) -> Result<(), ServerError> {
    let config = Config::builder().auto_add_history(false);
    let config = config
        .max_history_size(HISTORY_LINES)
        .map_err(|e| terminal(&e))?
        .build();
    let mut editor = Editor::<(), FileHistory>::with_config(config).map_err(|e| terminal(&e))?;
    if let Some(path) = &history {
        // A first start has no history yet.
        let _ = editor.load_history(path);
    }
    println!("mobula {}. \\h for help.", env!("CARGO_PKG_VERSION"));
    let mut text = String::new();
    let mut interrupted = false;
    loop {
        let prompt = if is_blank(&text) {
            "mobula> "
        } else {
            "   ...> "
        };
        match tokio::task::block_in_place(|| editor.readline(prompt)) {
            Ok(line) => {
                interrupted = false;
                if line.trim() == "\\q" {
                    break;
                }
                if is_blank(&text) && line.trim_start().starts_with('\\') {
                    if meta(shell, line.trim()).await {
                        break;
                    }
                    continue;
                }
                text.push_str(&line);
                text.push('\n');
                text = run_complete(shell, &mut editor, text).await;
            }
            Err(ReadlineError::Interrupted) if is_blank(&text) && interrupted => break,
            Err(ReadlineError::Interrupted) => {
                interrupted = true;
                text.clear();
                println!("Ctrl-C again leaves.");
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal(&error)),
        }
    }
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        tracing::debug!(%error, "the history was not saved");
    }
    Ok(())
}

/// Runs the finished statements of `text` and returns the rest.
async fn run_complete(
    shell: &mut Shell,
    editor: &mut Editor<(), FileHistory>,
    text: String,
) -> String {
    let parts = split(&text);
    for statement in &parts.statements {
        let _ = editor.add_history_entry(format!("{statement};"));
        if let Err(error) = shell.statement(statement).await {
            print_error(&error);
        }
    }
    match is_blank(parts.rest) {
        true => String::new(),
        false => parts.rest.to_owned(),
    }
}

/// Runs a backslash command; true to leave.
async fn meta(shell: &mut Shell, line: &str) -> bool {
    let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    let sql = match (command, argument) {
        ("\\q", _) => return true,
        ("\\d", "") => "SHOW TABLES".to_owned(),
        ("\\d", name) => format!("DESCRIBE {name}"),
        ("\\timing", _) => {
            shell.timing = !shell.timing;
            println!("timing is {}", if shell.timing { "on" } else { "off" });
            return false;
        }
        ("\\rows", "all") => {
            shell.max_rows = None;
            return false;
        }
        ("\\rows", n) if n.parse::<usize>().is_ok() => {
            shell.max_rows = n.parse().ok();
            return false;
        }
        _ => {
            println!("{HELP}");
            return false;
        }
    };
    if let Err(error) = shell.statement(&sql).await {
        print_error(&error);
    }
    false
}

/// One line on standard error, and the user's traceback below it.
pub fn print_error(error: &ServerError) {
    eprintln!("error: {error}");
    if let Some(detail) = error.detail() {
        eprintln!("{}", detail.trim_end());
    }
}

fn terminal(error: &ReadlineError) -> ServerError {
    ServerError::Output(std::io::Error::other(error.to_string()))
}
