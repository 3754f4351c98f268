//! `mobula executor`.

use std::io::Write;
use std::net::SocketAddr;

use clap::ArgMatches;
use mobula_execution::{ClusterToken, Executor, ExecutorSettings, RustFunctions, parse_address};
use mobula_plan::MobulaOptions;

use crate::{ServerError, python_env};

/// Runs tasks until told to stop.
///
/// # Errors
/// A port in use, a bad token file, or a coordinator that refuses.
pub async fn run(
    matches: &ArgMatches,
    options: MobulaOptions,
    functions: RustFunctions,
) -> Result<(), ServerError> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let coordinator = text("coordinator").unwrap_or_default();
    parse_address(&coordinator)?;
    let token = match options.cluster_token_file() {
        None => {
            return Err(ServerError::Setting {
                source_name: "--cluster-token-file".into(),
                message:
                    "an executor needs the coordinator's token file, DATA_DIR/cluster-token there"
                        .into(),
            });
        }
        Some(path) => ClusterToken::read(path)?,
    };
    let listen = match options.get("listen") {
        // The client port's default means nothing here.
        Some(listen) if !is_default_listen(&options) => {
            super::serve::address("--listen", listen, &options)?
        }
        _ => SocketAddr::from(([127, 0, 0, 1], 0)),
    };
    let http = super::serve::http(&options).await?;
    let coordinator_url = coordinator.clone();
    let settings = ExecutorSettings {
        coordinator,
        token,
        listen,
        advertise: text("advertise"),
        python: python_env::interpreter(&options),
        options,
        id: text("id"),
    };
    let executor = Executor::start_with(settings, functions).await?;
    println!(
        "mobula: executor {} on grpc://{}",
        executor.id(),
        executor.address()
    );
    if let Some(http) = &http {
        println!("mobula: health on http://{}/health", http.address());
        http.executor_ready(coordinator_url, executor.contact());
    }
    println!("mobula: ready");
    let _ = std::io::stdout().flush();
    let with_stdin = matches.get_flag("exit_with_stdin");
    executor
        .run(async move {
            tokio::select! {
                () = super::serve::stop_signal() => {}
                () = super::embedded::parent_gone(), if with_stdin => {}
            }
        })
        .await?;
    Ok(())
}

fn is_default_listen(options: &MobulaOptions) -> bool {
    !options.non_default().iter().any(|(key, _)| key == "listen")
}
