//! `mobula serve`: clients on one port, executors on another.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use mobula_execution::{
    ClusterSettings, ClusterToken, Engine, EngineSettings, LocalExecutors, RustFunctions,
};
use mobula_plan::MobulaOptions;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::embedded::{Embedded, parent_gone};
use crate::catalog::DataDir;
use crate::http::HttpFront;
use crate::service::{self, Entry, ServiceSettings};
use crate::{Database, ServerError, python_env};

/// Own executors have so long to register.
const EXECUTORS_WAIT: Duration = Duration::from_secs(30);

/// Serves until SIGINT or SIGTERM, or until the program is gone that it is embedded in.
///
/// # Errors
/// What keeps it from starting: ports, data directory, token.
pub async fn run(
    matches: &ArgMatches,
    options: MobulaOptions,
    functions: RustFunctions,
) -> Result<(), ServerError> {
    let embedded = matches.get_one::<PathBuf>("embedded");
    let embedded = embedded.map(|dir| Embedded::take(dir)).transpose()?;
    let listen = address("--listen", options.listen(), &options)?;
    let settings = ServiceSettings::from_options(&options);
    // First, so that a port in use costs no executors.
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|source| ServerError::Listen {
        address: listen.to_string(),
        source,
    })?;
    let http = http(&options).await?;
    let advertise = matches.get_one::<String>("advertise").cloned();
    let coordinator = Coordinator::start(options, advertise, functions).await?;
    for line in coordinator.database.unusable().await {
        eprintln!("warning: {line}");
    }
    let address = listener.local_addr().map_err(ServerError::Output)?;
    println!("mobula: clients on grpc://{address}");
    if let Some(cluster) = coordinator.database.engine().cluster_address() {
        println!("mobula: executors on grpc://{cluster}");
    }
    if let Some(http) = &http {
        println!("mobula: figures on http://{}/metrics", http.address());
        http.ready(Arc::clone(&coordinator.database));
    }
    println!("mobula: ready");
    let _ = std::io::stdout().flush();
    let database = Arc::clone(&coordinator.database);
    let entry = embedded.as_ref().map_or_else(Entry::open, Embedded::entry);
    let stop = async {
        tokio::select! {
            () = stop_signal() => {}
            () = parent_gone(), if embedded.is_some() => {}
        }
    };
    let result = service::serve_guarded(database, listener, settings, entry, stop).await;
    coordinator.stop().await;
    result
}

/// The listener for HTTP, if the settings ask for one.
///
/// # Errors
/// A wrong address, or a port in use.
pub async fn http(options: &MobulaOptions) -> Result<Option<HttpFront>, ServerError> {
    match options.http_listen() {
        "" => Ok(None),
        text => {
            let at = address("--http-listen", text, options)?;
            HttpFront::start(at).await.map(Some)
        }
    }
}

/// A database over a cluster, with the executors it started itself.
pub struct Coordinator {
    pub database: Arc<Database>,
    executors: Option<LocalExecutors>,
    /// Holds the token when there is no data directory.
    _scratch: Option<tempfile::TempDir>,
}

impl Coordinator {
    /// Takes the data directory, listens for executors, starts as many as the
    /// settings ask for and waits until they have registered. `advertise`: where they reach it,
    /// if that is not where it listens.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn start(
        options: MobulaOptions,
        advertise: Option<String>,
        functions: RustFunctions,
    ) -> Result<Self, ServerError> {
        let cluster_listen = address("--cluster-listen", options.cluster_listen(), &options)?;
        let data_dir = match options.data_dir() {
            None => None,
            Some(path) => Some(DataDir::take(path)?),
        };
        let scratch = match data_dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(ServerError::Output)?),
        };
        let token_file = token_file(&options, data_dir.as_ref(), scratch.as_ref());
        let token = ClusterToken::read_or_create(&token_file)?;
        let python = python_env::interpreter(&options);
        let n_executors = options.executors();
        let dealt = dealt(&mobula_execution::gpu_ids(&options), n_executors);
        let mut own = options.clone();
        if n_executors > 0 {
            own.set_value("gpus", "0")?;
        }
        let cluster = ClusterSettings {
            listen: cluster_listen,
            advertise,
            token,
            local_executor: options.local_executor(),
        };
        let settings = EngineSettings {
            options: own,
            python: python.clone(),
        };
        let engine = Engine::coordinator_with(settings, cluster, functions).await?;
        let executors = match (n_executors, engine.cluster_address()) {
            (0, _) | (_, None) => None,
            (_, Some(at)) => Some(start_executors(&dealt, at, &token_file, &python, &options)?),
        };
        engine
            .wait_for_executors(n_executors, EXECUTORS_WAIT)
            .await?;
        Ok(Self {
            database: Database::open(engine, data_dir).await?,
            executors,
            _scratch: scratch,
        })
    }

    /// Ends executors and workers.
    pub async fn stop(self) {
        let executors = self.executors;
        let ended = tokio::task::spawn_blocking(move || drop(executors));
        let _ = ended.await;
        self.database.engine().shutdown().await;
        self.database.loaded().close();
    }
}

/// Starts one executor for each of `gpus`, the ids of those it has.
fn start_executors(
    gpus: &[String],
    coordinator: SocketAddr,
    token_file: &Path,
    python: &Path,
    options: &MobulaOptions,
) -> Result<LocalExecutors, ServerError> {
    let program = std::env::current_exe().map_err(ServerError::Output)?;
    let mut args = vec!["--python".to_owned(), python.to_string_lossy().into_owned()];
    for (key, value) in options.non_default() {
        if !OWN_SETTINGS.contains(&key.as_str()) {
            args.push(format!("--{}", key.replace('_', "-")));
            args.push(value);
        }
    }
    let url = format!("grpc://{coordinator}");
    let with_gpus = |gpus: &String| [&args[..], &["--gpus".to_owned(), gpus.clone()]].concat();
    let args: Vec<_> = gpus.iter().map(with_gpus).collect();
    Ok(LocalExecutors::start(&program, &url, token_file, &args)?)
}

/// `ids` in turn to `n` processes, each as its setting `gpus` says it: two would
/// else share out the same device.
fn dealt(ids: &[String], n: usize) -> Vec<String> {
    let of = |idx: usize| {
        let own = ids.iter().skip(idx).step_by(n);
        match own.map(|id| format!("{id},")).collect::<String>() {
            none if none.is_empty() => "0".to_owned(),
            own => own,
        }
    };
    (0..n).map(of).collect()
}

/// Settings that are the coordinator's alone.
const OWN_SETTINGS: [&str; 12] = [
    "listen",
    "cluster_listen",
    "cluster_token_file",
    "data_dir",
    "executors",
    "gpus",
    "http_listen",
    "insecure",
    "loaded_dir",
    "local_executor",
    "python",
    "roles",
];

fn token_file(
    options: &MobulaOptions,
    data_dir: Option<&DataDir>,
    scratch: Option<&tempfile::TempDir>,
) -> PathBuf {
    if let Some(path) = options.cluster_token_file() {
        return path.to_path_buf();
    }
    let dir = data_dir.map(DataDir::path).or(scratch.map(|s| s.path()));
    dir.unwrap_or(Path::new(".")).join("cluster-token")
}

/// Reads `HOST:PORT`; refuses what is not loopback unless `insecure` is set.
///
/// # Errors
/// No address, or one that needs `--insecure`.
pub fn address(flag: &str, text: &str, options: &MobulaOptions) -> Result<SocketAddr, ServerError> {
    let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
    let Some(address) = found else {
        return Err(ServerError::Setting {
            source_name: flag.to_owned(),
            message: format!("\"{text}\" is not HOST:PORT of this machine"),
        });
    };
    if address.ip().is_loopback() {
        return Ok(address);
    }
    if !options.insecure() {
        return Err(ServerError::Insecure {
            address: text.to_owned(),
        });
    }
    eprintln!("warning: {address} is open to anyone who can reach it: no TLS, no users");
    Ok(address)
}

/// Completes at SIGINT or SIGTERM.
pub async fn stop_signal() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_dealt_out() {
        let ids = |n: usize| (0..n).map(|id| format!("GPU-{id}")).collect::<Vec<_>>();
        assert_eq!(
            dealt(&ids(5), 3),
            ["GPU-0,GPU-3,", "GPU-1,GPU-4,", "GPU-2,"]
        );
        assert_eq!(dealt(&ids(1), 2), ["GPU-0,", "0"]);
        assert!(dealt(&ids(2), 0).is_empty());
        let mut options = MobulaOptions::default();
        for gpus in dealt(&ids(5), 3) {
            options.set_value("gpus", &gpus).unwrap();
            assert!(mobula_execution::gpu_ids(&options).len() < 3);
        }
    }
}
