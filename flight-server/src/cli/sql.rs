//! `mobula sql`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ArgMatches;
use mobula_execution::{Engine, EngineSettings, RustFunctions};
use mobula_plan::MobulaOptions;

use crate::catalog::DataDir;
use crate::service::client::RemoteSession;
use crate::shell::{Format, Script, Shell, Target, Watch};
use crate::{Database, ServerError, python_env};

/// Runs the shell, embedded or connected.
///
/// # Errors
/// What a script fails with.
pub async fn run(
    matches: &ArgMatches,
    options: MobulaOptions,
    functions: RustFunctions,
) -> Result<(), ServerError> {
    let script = Script {
        commands: matches
            .get_many::<String>("command")
            .map(|all| all.cloned().collect())
            .unwrap_or_default(),
        file: matches.get_one::<PathBuf>("file").cloned(),
    };
    let format = matches
        .get_one::<Format>("format")
        .copied()
        .unwrap_or(Format::Table);
    if let Some(url) = matches.get_one::<String>("connect") {
        let session = RemoteSession::connect(url).await?;
        let shell = Shell::new(Target::Remote(Box::new(session)), format)
            .with_progress(Watch::Remote(url.clone()));
        return shell.run(script, history()).await;
    }
    let database = embedded(options, functions).await?;
    let shell = Shell::new(Target::Local(database.new_session()?), format)
        .with_progress(Watch::Local(Arc::clone(&database)));
    let result = shell.run(script, history()).await;
    database.engine().shutdown().await;
    result
}

/// A database of this process alone.
pub async fn embedded(
    options: MobulaOptions,
    functions: RustFunctions,
) -> Result<Arc<Database>, ServerError> {
    let data_dir = match options.data_dir() {
        None => None,
        Some(path) => Some(DataDir::take(path)?),
    };
    let python = python_env::interpreter(&options);
    let engine = Engine::embedded_with(EngineSettings { options, python }, functions)?;
    Database::open(engine, data_dir).await
}

/// Where lines typed at the prompt are kept.
fn history() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    Some(PathBuf::from(home).join(".mobula_history"))
}
