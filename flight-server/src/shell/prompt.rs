//! The interactive prompt.

use std::path::{Path, PathBuf};

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};

use super::commands::{self, Command, is_command};
use super::split::split;
use super::typing::Typing;
use super::{Format, Shell, names, sink};
use crate::ServerError;

/// Lines kept in the history.
const HISTORY_LINES: usize = 10_000;

type Typed = Editor<Typing, FileHistory>;

/// Reads and runs statements until the end of input.
pub async fn run(shell: &mut Shell, history: Option<PathBuf>) -> Result<(), ServerError> {
    let config = Config::builder()
        .auto_add_history(false)
        .completion_type(CompletionType::List);
    let config = config
        .max_history_size(HISTORY_LINES)
        .map_err(|e| terminal(&e))?
        .build();
    let mut editor = Typed::with_config(config).map_err(|e| terminal(&e))?;
    let mut typing = Typing::new();
    typing.know(names::of(&mut shell.target).await);
    editor.set_helper(Some(typing));
    if let Some(path) = &history {
        // A first start has no history yet.
        let _ = editor.load_history(path);
    }
    println!("mobula {}. \\h for help.", env!("CARGO_PKG_VERSION"));
    let mut interrupted = false;
    loop {
        match tokio::task::block_in_place(|| editor.readline("mobula> ")) {
            Ok(line) => {
                interrupted = false;
                if !is_command(&line) {
                    statements(shell, &mut editor, &line).await;
                    continue;
                }
                let _ = editor.add_history_entry(line.trim());
                match command(shell, commands::parse(&line)).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => print_error(&error),
                }
            }
            Err(ReadlineError::Interrupted) if interrupted => break,
            Err(ReadlineError::Interrupted) => {
                interrupted = true;
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

/// Runs the statements of `text`, all of which have an end.
async fn statements(shell: &mut Shell, editor: &mut Typed, text: &str) {
    for statement in split(text).statements {
        let _ = editor.add_history_entry(format!("{statement};"));
        if let Err(error) = shell.statement(statement).await {
            print_error(&error);
        }
        if names::changes(statement)
            && let Some(typing) = editor.helper_mut()
        {
            typing.know(names::of(&mut shell.target).await);
        }
    }
}

/// Does what a line that is no SQL asks for; true to leave.
async fn command(shell: &mut Shell, command: Command) -> Result<bool, ServerError> {
    let switched = |now: &mut bool, to: Option<bool>, what: &str| {
        *now = to.unwrap_or(!*now);
        println!("{what} is {}", if *now { "on" } else { "off" });
    };
    match command {
        Command::Leave => return Ok(true),
        Command::Help => println!("{}", commands::help()),
        Command::Unknown(why) => eprintln!("error: {why}"),
        Command::Sql(sql) => shell.statement(&sql).await?,
        Command::Mode(format) => match format.parse::<Format>() {
            Ok(format) => shell.format = format,
            Err(why) => eprintln!("error: {why}"),
        },
        Command::Rows(rows) => shell.max_rows = rows,
        Command::Timing(to) => switched(&mut shell.timing, to, "timing"),
        Command::Pager(to) => switched(&mut shell.pages, to, "the pager"),
        Command::Progress(to) => switched(&mut shell.shows_progress, to, "progress"),
        Command::Output(None) => shell.file = None,
        Command::Output(Some(path)) => {
            shell.file = Some(sink::Target::create(Path::new(&path))?);
        }
        Command::Read(path) => shell.run_file(Path::new(&path)).await?,
    }
    Ok(false)
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
