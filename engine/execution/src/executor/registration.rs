//! The executor's line to its coordinator: register, heartbeat, leave.
//!
//! A coordinator that does not answer is tried again for ever, with a bounded
//! pause: it may be restarting, and running tasks do not need it. A refusal
//! (wrong token, other version) is final. So is an id that another one has, if it still
//! does when that one would have been missed: an executor that was killed and is started
//! again elsewhere comes before the loss of the one it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mobula_proto::cluster::{
    ACTION_HEARTBEAT, ACTION_LEAVE, ACTION_REGISTER, Heartbeat, HeartbeatReply, Leave, Register,
    RegisterReply,
};
use prost::Message;
use tokio::sync::oneshot;
use tonic::{Code, Status};
use url::Url;

use super::contact::Contact;
use crate::error::ExecutionError;
use crate::exchange::action::act;
use crate::exchange::channels::ChannelPool;
use crate::executor::resources::to_wire;
use crate::process::Process;

/// Pause before the second try; doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How a registration ends by itself.
#[derive(Debug)]
pub enum RegistrationEnd {
    Refused(ExecutionError),
}

/// A registered executor's side of the line.
pub struct Registration {
    line: Line,
    epoch: u64,
    interval: Duration,
}

/// Heartbeats until dropped or [`Beats::leave`].
///
/// They have a thread and a runtime of their own: tasks may keep every thread
/// of the main runtime busy for longer than the coordinator is patient.
pub struct Beats {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Line {
    process: Arc<Process>,
    channels: ChannelPool,
    coordinator: Url,
    id: String,
    url: Url,
    contact: Arc<Contact>,
}

impl Registration {
    /// Registers; waits for a coordinator that is not there yet.
    ///
    /// # Errors
    /// [`ExecutionError::Refused`].
    pub async fn start(
        process: &Arc<Process>,
        coordinator: Url,
        id: String,
        url: Url,
    ) -> Result<Self, ExecutionError> {
        let line = Line {
            process: Arc::clone(process),
            channels: process.channels().clone(),
            coordinator,
            id,
            url,
            contact: Arc::default(),
        };
        let reply = line.register().await?;
        Ok(Self {
            line,
            epoch: reply.epoch,
            interval: Duration::from_millis(reply.heartbeat_interval_ms.max(1)),
        })
    }

    /// Whether the coordinator answers.
    pub fn contact(&self) -> &Arc<Contact> {
        &self.line.contact
    }

    /// Sends heartbeats from now on; tells `refused` if registering again is
    /// refused.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn keep_alive(
        self,
        refused: oneshot::Sender<RegistrationEnd>,
    ) -> Result<Beats, ExecutionError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ExecutionError::Thread { source })?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || runtime.block_on(self.beat_until(stopped, refused)))
            .map_err(|source| ExecutionError::Thread { source })?;
        Ok(Beats {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    async fn beat_until(
        mut self,
        stopped: oneshot::Receiver<()>,
        refused: oneshot::Sender<RegistrationEnd>,
    ) {
        // A connection belongs to the runtime that made it.
        self.line.channels = self.line.channels.fresh();
        let epoch = AtomicU64::new(self.epoch);
        let end = tokio::select! {
            _ = stopped => None,
            end = self.line.beat_for_ever(self.interval, &epoch) => end.err(),
        };
        match end {
            Some(error) => {
                let _ = refused.send(RegistrationEnd::Refused(error));
            }
            None => self.line.leave(epoch.load(Ordering::Relaxed)).await,
        }
    }
}

impl Beats {
    /// Says goodbye and waits until that is done; bounded in time.
    pub async fn leave(mut self) {
        self.stop.take();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if joined.await.is_err() {
            tracing::debug!("the heartbeat thread ended badly");
        }
    }
}

impl Line {
    async fn register(&self) -> Result<RegisterReply, ExecutionError> {
        let request = Register {
            executor_id: self.id.clone(),
            url: self.url.to_string(),
            version: crate::VERSION.to_owned(),
            cores: cores(),
            pid: std::process::id(),
            resources: Some(to_wire(self.process.ledger().capacity())),
            takes_tasks: self.process.roles().tasks,
            runs_actors: self.process.roles().actors,
        };
        let mut pause = MIN_PAUSE;
        let missed_by = Instant::now() + 2 * self.process.heartbeat_timeout();
        loop {
            match self.call(ACTION_REGISTER, request.encode_to_vec()).await {
                Ok(body) => {
                    return RegisterReply::decode(body.as_slice()).map_err(|_| {
                        ExecutionError::Malformed {
                            what: "registration reply",
                        }
                    });
                }
                Err(status) if is_final(&status) => return Err(self.refused(&status)),
                Err(status) if status.code() == Code::AlreadyExists => {
                    if Instant::now() > missed_by {
                        return Err(self.refused(&status));
                    }
                    tokio::time::sleep(MIN_PAUSE).await;
                }
                Err(status) => {
                    tracing::warn!(coordinator = %self.coordinator, error = status.message(), "no answer from the coordinator, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    async fn beat_for_ever(
        &self,
        interval: Duration,
        epoch: &AtomicU64,
    ) -> Result<(), ExecutionError> {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Told once, however long the coordinator stays away.
        let mut alone = false;
        let mut silent_since = None;
        loop {
            ticks.tick().await;
            let beat = Heartbeat {
                executor_id: self.id.clone(),
                epoch: epoch.load(Ordering::Relaxed),
                load: Some(self.process.load()),
                hosted: self.process.hosted(),
            };
            match self.call(ACTION_HEARTBEAT, beat.encode_to_vec()).await {
                Ok(body) => {
                    if std::mem::take(&mut alone) {
                        tracing::warn!("the coordinator answers again");
                    }
                    let reply = HeartbeatReply::decode(body.as_slice()).unwrap_or_default();
                    reply
                        .ended
                        .iter()
                        .for_each(|hosted| self.process.end_hosted(hosted));
                    silent_since = None;
                    if !reply.known {
                        self.process.end_all_hosted();
                        tracing::info!("the coordinator forgot this executor, registering again");
                        epoch.store(self.register().await?.epoch, Ordering::Relaxed);
                    }
                }
                Err(status) => {
                    // Whose actors they are has been told that they are lost.
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.process.heartbeat_timeout() {
                        self.process.end_all_hosted();
                    }
                    if !std::mem::replace(&mut alone, true) {
                        tracing::warn!(coordinator = %self.coordinator, error = status.message(), "no answer to heartbeats, trying on");
                    }
                }
            }
        }
    }

    async fn leave(&self, epoch: u64) {
        let leave = Leave {
            executor_id: self.id.clone(),
            epoch,
        };
        if let Err(e) = self.call(ACTION_LEAVE, leave.encode_to_vec()).await {
            tracing::debug!(error = %e, "the coordinator did not hear the goodbye");
        }
    }

    async fn call(&self, action: &'static str, body: Vec<u8>) -> Result<Vec<u8>, Status> {
        let (channels, url) = (&self.channels, &self.coordinator);
        let answer = act(channels, url, action, body, CALL_TIMEOUT).await;
        match &answer {
            Ok(_) => self.contact.heard(),
            Err(status) => self.contact.missed(status.message()),
        }
        answer
    }

    fn refused(&self, status: &Status) -> ExecutionError {
        ExecutionError::Refused {
            coordinator: self.coordinator.to_string(),
            message: status.message().to_owned(),
        }
    }
}

/// Answers that no repetition will change.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::Unimplemented
    )
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}
