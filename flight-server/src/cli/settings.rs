//! Settings from defaults, files, environment and flags, in rising order.
//!
//! Names, kinds, defaults and help all come from the one table in the plan
//! crate; this module only finds values and says where a bad one stands.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches};
use mobula_plan::{MobulaOptions, SETTINGS, Setting, SettingKind};

use crate::ServerError;

/// Settings file read from the working directory and the data directory.
const FILE_NAME: &str = "mobula.toml";
/// Turns the local executor off; the flag that people look for.
const NO_LOCAL_EXECUTOR: &str = "no_local_executor";

/// The flags of all settings, and `--config`.
pub fn flags() -> Vec<Arg> {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Settings file [default: mobula.toml here and in the data directory, if there]")
        .value_parser(clap::value_parser!(PathBuf));
    let no_local = Arg::new(NO_LOCAL_EXECUTOR)
        .long("no-local-executor")
        .help("Let the coordinator take no tasks: short for --local-executor false")
        .action(ArgAction::SetTrue)
        .conflicts_with("local_executor");
    SETTINGS
        .iter()
        .map(flag)
        .chain([config, no_local])
        .map(|arg| arg.help_heading("Settings"))
        .collect()
}

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        text => format!("default: {text}, "),
    };
    let arg = Arg::new(setting.key)
        .long(setting.key.replace('_', "-"))
        .value_name(value_name(&setting.kind))
        .help(format!(
            "{} [{default}env: {}]",
            setting.doc,
            variable(setting)
        ));
    match setting.kind {
        SettingKind::Bool => arg.num_args(0..=1).default_missing_value("true"),
        // Each adds to those before.
        SettingKind::Amounts | SettingKind::Labels => arg.action(ArgAction::Append),
        _ => arg,
    }
}

fn value_name(kind: &SettingKind) -> &'static str {
    match kind {
        SettingKind::Bool => "true|false",
        SettingKind::Count { .. } => "N",
        SettingKind::Bytes { .. } => "BYTES",
        SettingKind::Duration { .. } => "TIME",
        SettingKind::Path => "PATH",
        SettingKind::Text => "TEXT",
        SettingKind::Choice(_) => "NAME",
        SettingKind::Amount => "N",
        SettingKind::BytesOrAuto => "BYTES",
        SettingKind::Gpus => "N|IDS",
        SettingKind::Amounts => "NAME=AMOUNT",
        SettingKind::Labels => "KEY=VALUE",
    }
}

fn variable(setting: &Setting) -> String {
    format!("MOBULA_{}", setting.key.to_uppercase())
}

/// Settings of this run.
///
/// # Errors
/// [`ServerError::Setting`], naming the file and line, the variable or the flag
/// that holds a bad value.
pub fn load(
    matches: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<MobulaOptions, ServerError> {
    let above = |key: &str| {
        from_flag(matches, key).or_else(|| {
            Setting::of(key)
                .ok()
                .and_then(|s| environment(&variable(s)))
        })
    };
    let mut options = MobulaOptions::default();
    for (path, required) in files(matches, above("data_dir")) {
        apply_file(&mut options, &path, required)?;
    }
    for setting in SETTINGS {
        let name = variable(setting);
        if let Some(value) = environment(&name) {
            set(&mut options, setting.key, &value, || name.clone())?;
        }
        if let Some(value) = from_flag(matches, setting.key) {
            let flag = || format!("--{}", setting.key.replace('_', "-"));
            set(&mut options, setting.key, &value, flag)?;
        }
    }
    Ok(options)
}

fn from_flag(matches: &ArgMatches, key: &str) -> Option<String> {
    if key == "local_executor" && matches.get_flag(NO_LOCAL_EXECUTOR) {
        return Some("false".to_owned());
    }
    let given = matches.get_many::<String>(key)?;
    Some(given.cloned().collect::<Vec<_>>().join(","))
}

/// Files to read, weakest first, and whether each has to exist.
fn files(matches: &ArgMatches, data_dir: Option<String>) -> Vec<(PathBuf, bool)> {
    if let Some(path) = matches.get_one::<PathBuf>("config") {
        return vec![(path.clone(), true)];
    }
    let mut files = vec![(PathBuf::from(FILE_NAME), false)];
    if let Some(dir) = data_dir {
        files.push((Path::new(&dir).join(FILE_NAME), false));
    }
    files
}

fn apply_file(options: &mut MobulaOptions, path: &Path, required: bool) -> Result<(), ServerError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // A data directory that is none is told where it is used.
        Err(e)
            if !required && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            return Ok(());
        }
        Err(source) => {
            return Err(ServerError::File {
                deed: "read the settings file",
                path: path.to_path_buf(),
                source,
            });
        }
    };
    let at = |line: usize| format!("{} line {line}", path.display());
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let offset = e.span().map_or(0, |span| span.start);
        ServerError::Setting {
            source_name: at(line_of(&text, offset)),
            message: e.message().to_owned(),
        }
    })?;
    for (key, value) in table {
        let line = || at(line_with_key(&text, &key));
        let value = match value {
            toml::Value::String(text) => text,
            scalar
            @ (toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Float(_)) => {
                scalar.to_string()
            }
            _ => {
                return Err(ServerError::Setting {
                    source_name: line(),
                    message: format!("\"{key}\" must be a text, a number, true or false"),
                });
            }
        };
        set(options, &key, &value, line)?;
    }
    Ok(())
}

fn set(
    options: &mut MobulaOptions,
    key: &str,
    value: &str,
    source_name: impl Fn() -> String,
) -> Result<(), ServerError> {
    options
        .set_value(key, value)
        .map_err(|error| ServerError::Setting {
            source_name: source_name(),
            message: error.to_string(),
        })
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

fn line_with_key(text: &str, key: &str) -> usize {
    let starts = |line: &str| {
        line.trim_start()
            .strip_prefix(key)
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    1 + text.lines().position(starts).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(args: &[&str], environment: &[(&str, &str)]) -> Result<MobulaOptions, ServerError> {
        let matches = clap::Command::new("t")
            .args(flags())
            .get_matches_from(["t"].iter().chain(args));
        load(&matches, |name| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.toml");
        std::fs::write(
            &file,
            "udf_batch_rows = 11\nmax_sessions = 12\nprepared_max = 13\n",
        )
        .unwrap();
        let file = file.to_str().unwrap();
        let options = loaded(
            &["--config", file, "--udf-batch-rows", "31"],
            &[
                ("MOBULA_UDF_BATCH_ROWS", "21"),
                ("MOBULA_MAX_SESSIONS", "22"),
            ],
        )
        .unwrap();
        assert_eq!(options.udf_batch_rows(), 31);
        assert_eq!(options.max_sessions(), 22);
        assert_eq!(options.prepared_max(), 13);
        assert_eq!(options.sql_max_bytes(), 16 << 20);
    }

    #[test]
    fn a_bad_value_names_where_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.toml");
        std::fs::write(&file, "# x\nudf_batch_rows = \"many\"\n").unwrap();
        let text = loaded(&["--config", file.to_str().unwrap()], &[])
            .unwrap_err()
            .to_string();
        assert!(text.contains("m.toml line 2"), "{text}");
        let text = loaded(&[], &[("MOBULA_LOCAL_EXECUTOR", "maybe")])
            .unwrap_err()
            .to_string();
        assert!(text.contains("MOBULA_LOCAL_EXECUTOR"), "{text}");
        let text = loaded(&["--heartbeat-timeout", "soon"], &[])
            .unwrap_err()
            .to_string();
        assert!(text.contains("--heartbeat-timeout"), "{text}");
    }

    #[test]
    fn flags_of_resources_add_up() {
        let flags = [
            "--resource",
            "a=1",
            "--resource",
            "b=0.5,c=2",
            "--label=zone=a",
        ];
        let options = loaded(&flags, &[("MOBULA_LABEL", "zone=b")]).unwrap();
        assert_eq!(
            (options.resource(), options.label()),
            ("a=1,b=0.5,c=2", "zone=a")
        );
        let twice = loaded(&["--resource", "a=1", "--resource", "a=2"], &[]);
        let text = twice.unwrap_err().to_string();
        assert!(
            text.contains("--resource") && text.contains("each once"),
            "{text}"
        );
    }

    #[test]
    fn bare_switches() {
        assert!(loaded(&["--insecure"], &[]).unwrap().insecure());
        assert!(
            !loaded(&["--no-local-executor"], &[])
                .unwrap()
                .local_executor()
        );
    }
}
