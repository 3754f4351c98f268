//! What can be said at the prompt besides SQL: lines that begin with `\`, or with a dot for
//! those whose fingers know other shells.

/// A command, as the help lists it.
struct Named {
    name: &'static str,
    /// The name that SQLite's and DuckDB's shells have for it.
    dotted: &'static str,
    argument: &'static str,
    help: &'static str,
}

const COMMANDS: [Named; 16] = [
    named(
        "\\d",
        ".schema",
        "[NAME]",
        "tables and views; columns of one",
    ),
    named("\\dt", ".tables", "", "tables and views of all schemas"),
    named("\\dn", "", "", "schemas"),
    named("\\df", "", "", "functions of users"),
    named("\\da", "", "", "actors"),
    named("\\dp", "", "", "actor pools"),
    named("\\ds", "", "", "settings"),
    named("\\dq", "", "", "queries that run or wait"),
    named("\\mode", ".mode", "FORMAT", "table, csv or json"),
    named("\\rows", ".maxrows", "N|all", "rows that a table shows"),
    named(
        "\\pager",
        "",
        "[on|off]",
        "long results through $PAGER, all rows",
    ),
    named(
        "\\o",
        ".output",
        "[FILE]",
        "results go to a file; or here again",
    ),
    named("\\i", ".read", "FILE", "runs the statements of a file"),
    named("\\timing", ".timer", "[on|off]", "times after statements"),
    named(
        "\\progress",
        "",
        "[on|off]",
        "how far a statement is, while it runs",
    ),
    named("\\q", ".quit", "", "leave (also Ctrl-D)"),
];

const fn named(
    name: &'static str,
    dotted: &'static str,
    argument: &'static str,
    help: &'static str,
) -> Named {
    Named {
        name,
        dotted,
        argument,
        help,
    }
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// What a statement answers.
    Sql(String),
    Mode(String),
    /// `None`: all.
    Rows(Option<usize>),
    /// `None`: the other way round.
    Pager(Option<bool>),
    Timing(Option<bool>),
    Progress(Option<bool>),
    /// `None`: the terminal.
    Output(Option<String>),
    Read(String),
    Help,
    Leave,
    /// It makes no sense, for this reason.
    Unknown(String),
}

/// Whether `line` is no SQL.
pub fn is_command(line: &str) -> bool {
    let line = line.trim_start();
    let dotted = line.strip_prefix('.');
    line.starts_with('\\') || dotted.is_some_and(|rest| rest.starts_with(char::is_alphabetic))
}

/// Those names that begin like `word`.
pub fn names_like(word: &str) -> Vec<String> {
    let names = COMMANDS.iter().flat_map(|c| [c.name, c.dotted]);
    let names = names.filter(|name| !name.is_empty() && name.starts_with(word));
    names.map(str::to_owned).collect()
}

/// What `line` asks for.
pub fn parse(line: &str) -> Command {
    let line = line.trim().trim_end_matches(';').trim_end();
    let (word, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    let of = |c: &&Named| c.name == word || (!c.dotted.is_empty() && c.dotted == word);
    let name = match word {
        "\\h" | "\\?" | "\\help" | ".help" => return Command::Help,
        ".exit" => "\\q",
        word => match COMMANDS.iter().find(of) {
            Some(found) => found.name,
            None => return unknown(format!("there is no command {word}")),
        },
    };
    let listed = |what: &str| Command::Sql(what.to_owned());
    match name {
        "\\d" if argument.is_empty() => listed("SHOW TABLES"),
        "\\d" => Command::Sql(format!("DESCRIBE {argument}")),
        "\\dt" => listed(
            "SELECT table_schema, table_name, table_type FROM information_schema.tables \
             WHERE table_schema NOT IN ('information_schema', 'system') ORDER BY 1, 2",
        ),
        "\\dn" => listed(
            "SELECT schema_name FROM information_schema.schemata \
             WHERE schema_name <> 'information_schema' ORDER BY 1",
        ),
        "\\df" => listed(
            "SELECT name, language, kind, parameters, returns, volatility FROM system.functions \
             ORDER BY 1",
        ),
        "\\da" => listed("SELECT * FROM system.actors"),
        "\\dp" => listed("SHOW ACTOR POOLS"),
        "\\ds" => listed("SELECT name, value, scope, description FROM system.settings ORDER BY 1"),
        "\\dq" => listed("SELECT * FROM system.queries"),
        "\\mode" if argument.is_empty() => unknown("\\mode takes table, csv or json".to_owned()),
        "\\mode" => Command::Mode(argument.to_owned()),
        "\\rows" => match (argument, argument.parse()) {
            ("all", _) => Command::Rows(None),
            (_, Ok(rows)) => Command::Rows(Some(rows)),
            _ => unknown("\\rows takes a number or all".to_owned()),
        },
        "\\pager" => switch(name, argument, Command::Pager),
        "\\timing" => switch(name, argument, Command::Timing),
        "\\progress" => switch(name, argument, Command::Progress),
        "\\o" => Command::Output((!argument.is_empty()).then(|| unquoted(argument))),
        "\\i" if argument.is_empty() => unknown("\\i takes a file".to_owned()),
        "\\i" => Command::Read(unquoted(argument)),
        _ => Command::Leave,
    }
}

/// What the help says.
pub fn help() -> String {
    let mut text =
        "Statements end with a semicolon and may span lines. Tab completes names.\n".to_owned();
    for command in &COMMANDS {
        let what = format!("{} {}", command.name, command.argument);
        let also = match command.dotted {
            "" => String::new(),
            dotted => format!(" ({dotted})"),
        };
        text += &format!("  {what:<20} {}{also}\n", command.help);
    }
    text + "  \\h                   this help (.help)\nCtrl-C cancels the running statement."
}

fn switch(name: &str, argument: &str, command: impl Fn(Option<bool>) -> Command) -> Command {
    match argument {
        "" => command(None),
        "on" => command(Some(true)),
        "off" => command(Some(false)),
        other => unknown(format!("{name} is on or off, not {other}")),
    }
}

fn unknown(why: String) -> Command {
    Command::Unknown(format!("{why}. \\h lists the commands"))
}

fn unquoted(path: &str) -> String {
    let inner = path.strip_prefix('\'').and_then(|p| p.strip_suffix('\''));
    inner.unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_by_either_name() {
        assert!(is_command("\\d t") && is_command("  .tables") && !is_command("SELECT 1"));
        // A number is SQL's.
        assert!(!is_command(".5 AS x;"));
        for (line, command) in [
            ("\\d t;", Command::Sql("DESCRIBE t".to_owned())),
            (".schema", Command::Sql("SHOW TABLES".to_owned())),
            (".mode csv", Command::Mode("csv".to_owned())),
            ("\\rows all", Command::Rows(None)),
            ("\\rows 7", Command::Rows(Some(7))),
            ("\\timing", Command::Timing(None)),
            (".timer off", Command::Timing(Some(false))),
            (
                "\\o 'my file.csv'",
                Command::Output(Some("my file.csv".to_owned())),
            ),
            ("\\o", Command::Output(None)),
            (".read a.sql", Command::Read("a.sql".to_owned())),
            (".exit", Command::Leave),
            ("\\?", Command::Help),
        ] {
            assert_eq!(parse(line), command, "{line}");
        }
        for line in ["\\nope", "\\rows some", "\\pager perhaps", "\\mode", "\\i"] {
            assert!(matches!(parse(line), Command::Unknown(_)), "{line}");
        }
    }

    #[test]
    fn the_help_names_each_command() {
        let help = help();
        assert!(COMMANDS.iter().all(|command| help.contains(command.name)));
        assert_eq!(names_like("\\ti"), ["\\timing"]);
        assert_eq!(names_like(".m"), [".mode", ".maxrows"]);
    }
}
