//! The executor process: a listener, worker processes and a line to the
//! coordinator.
//!
//! Executors have one port, behind the cluster token: plans arrive by the
//! base's service, blocks leave by Flight `DoGet`. They hold no state that a
//! query could not rebuild: one that dies is replaced by starting another.

pub mod contact;
pub mod failed_rows;
pub mod listener;
pub mod operators;
pub mod registration;
pub mod report;
pub mod resources;
pub mod task_host;
pub mod task_output;
pub mod task_run;
pub mod tasks;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mobula_plan::MobulaOptions;
use tokio::sync::oneshot;

use self::contact::Contact;
use self::listener::{Listener, advertised_url};
use self::registration::{Registration, RegistrationEnd};
use crate::error::ExecutionError;
use crate::exchange::channels::parse_address;
use crate::functions::RustFunctions;
use crate::process::Process;
use crate::token::ClusterToken;

/// What an executor is started with.
#[derive(Debug, Clone)]
pub struct ExecutorSettings {
    /// The coordinator's cluster listener: `grpc://HOST:PORT`.
    pub coordinator: String,
    pub token: ClusterToken,
    /// Port 0 picks a free one.
    pub listen: SocketAddr,
    /// `HOST:PORT` at which others reach the listener; `None`: as it listens.
    pub advertise: Option<String>,
    pub options: MobulaOptions,
    /// Python interpreter of its workers.
    pub python: PathBuf,
    /// `None` makes one up.
    pub id: Option<String>,
}

/// A running executor.
pub struct Executor {
    id: String,
    address: SocketAddr,
    process: Arc<Process>,
    listener: Listener,
    registration: Registration,
}

impl Executor {
    /// Listens, then registers with the coordinator. Returns once registered;
    /// a coordinator that does not answer yet is waited for.
    ///
    /// # Errors
    /// A port in use, a bad address, or a refusal (wrong token, other version).
    pub async fn start(settings: ExecutorSettings) -> Result<Self, ExecutionError> {
        Self::start_with(settings, RustFunctions::default()).await
    }

    /// As [`Executor::start`], with `functions` of the program itself: those that
    /// the coordinator has.
    ///
    /// # Errors
    /// As [`Executor::start`].
    pub async fn start_with(
        settings: ExecutorSettings,
        functions: RustFunctions,
    ) -> Result<Self, ExecutionError> {
        let coordinator = parse_address(&settings.coordinator)?;
        let id = settings.id.unwrap_or_else(made_up_id);
        let (options, python) = (settings.options, settings.python);
        let process = Process::try_new(options, python, &id, &settings.token, functions)?;
        let bound = listener::bind(settings.listen).await?;
        let address = bound
            .local_addr()
            .map_err(|source| ExecutionError::Listen {
                address: settings.listen,
                source,
            })?;
        let url = advertised_url(address, settings.advertise.as_deref())?;
        process.failed_rows().lead_to(coordinator.clone());
        process.actor_line().lead_to(coordinator.clone());
        process.pool_line().lead_to(coordinator.clone());
        let tasks = process.task_source();
        let listener = Listener::serve(bound, &process, tasks, None, &url, settings.token)?;
        let registration = Registration::start(&process, coordinator, id.clone(), url).await?;
        process.prestart();
        Ok(Self {
            id,
            address,
            process,
            listener,
            registration,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether its coordinator answers.
    pub fn contact(&self) -> Arc<Contact> {
        Arc::clone(self.registration.contact())
    }

    /// Serves until `shutdown` completes, then says goodbye.
    ///
    /// # Errors
    /// When the coordinator refuses this executor later on, or the listener
    /// breaks.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ExecutionError> {
        let (refused, refusal) = oneshot::channel();
        let beats = self.registration.keep_alive(refused)?;
        let result = tokio::select! {
            () = shutdown => Ok(()),
            Ok(RegistrationEnd::Refused(error)) = refusal => Err(error),
            error = self.listener.broken() => Err(error),
        };
        beats.leave().await;
        self.process.shutdown().await;
        result
    }
}

fn made_up_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("e-{}", random.get(..8).unwrap_or(&random))
}
