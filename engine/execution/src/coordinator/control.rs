//! The coordinator's side of register, heartbeat and leave, and of failed rows.
//!
//! [`Control`] owns the [`Membership`], a sweep that notices silent executors,
//! and a watch that running queries listen to. It answers Flight `DoAction`
//! calls that have passed the token gate.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mobula_proto::cluster::{
    ACTION_FAILED_ROWS, ACTION_HEARTBEAT, ACTION_LEAVE, ACTION_REGISTER, FailedRowsReply,
    FailedRowsReport, Heartbeat, HeartbeatReply, Leave, Register, RegisterReply,
};
use mobula_proto::pool::{ACTION_POOLS_FIND, FindPools, FoundPools};
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::Status;
use url::Url;

use super::membership::{Member, Membership, Refusal};
use crate::exchange::channels::ChannelPool;
use crate::kept::store::KeptStore;
use crate::kept::{hosted_name, table_hosted};
use crate::pool::directory::{Asker, Directory, to_wire};
use crate::row_errors::RowErrors;
use crate::spawn::{OwnedTask, spawn_on};

/// How often silence is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// A sweep this late proves nothing: heartbeats have been waiting as well.
const SWEEP_LATE: Duration = Duration::from_millis(500);

/// Listens to executors.
pub struct Control {
    membership: Mutex<Membership>,
    alive: watch::Sender<BTreeSet<Url>>,
    heartbeat_interval: Duration,
    channels: ChannelPool,
    row_errors: Arc<RowErrors>,
    directory: Arc<Directory>,
    kept: Arc<KeptStore>,
}

impl Control {
    pub fn new(
        membership: Membership,
        heartbeat_interval: Duration,
        channels: ChannelPool,
        row_errors: Arc<RowErrors>,
        directory: Arc<Directory>,
        kept: Arc<KeptStore>,
    ) -> Self {
        Self {
            membership: Mutex::new(membership),
            alive: watch::Sender::new(BTreeSet::new()),
            heartbeat_interval,
            channels,
            row_errors,
            directory,
            kept,
        }
    }

    /// Looks for silent executors until the returned task is dropped, on `threads` that no
    /// query holds.
    pub fn sweep(self: &Arc<Self>, threads: &Handle) -> OwnedTask<()> {
        let control = Arc::downgrade(self);
        spawn_on(threads, "membership-sweep", async move {
            let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut last = Instant::now();
            loop {
                ticks.tick().await;
                let Some(control) = control.upgrade() else {
                    return;
                };
                let since_last = last.elapsed();
                last = Instant::now();
                if since_last > SWEEP_INTERVAL + SWEEP_LATE {
                    continue;
                }
                let dead = control.membership.lock().expire(Instant::now());
                for member in &dead {
                    tracing::warn!(executor = %member.executor_id, url = %member.url, "executor is gone: no heartbeat");
                    control.channels.forget(&member.url);
                }
                if !dead.is_empty() {
                    control.publish();
                }
            }
        })
    }

    /// Who is alive now, by id.
    pub fn members(&self) -> Vec<Member> {
        self.membership.lock().members().cloned().collect()
    }

    /// Takes note that a query has lost the executor at `url`: others that run
    /// on it go on, new ones are planned without it until its next heartbeat.
    pub fn suspect(&self, url: &str) {
        self.membership.lock().suspect(url);
    }

    /// The URLs alive; changes with every join and leave.
    pub fn watch_alive(&self) -> watch::Receiver<BTreeSet<Url>> {
        self.alive.subscribe()
    }

    /// Answers one action.
    ///
    /// # Errors
    /// An unknown action, a malformed body, or a refused registration.
    pub fn handle(&self, action: &str, body: &[u8]) -> Result<Vec<u8>, Status> {
        match action {
            ACTION_REGISTER => self.register(decode(body)?),
            ACTION_HEARTBEAT => {
                let mut beat: Heartbeat = decode(body)?;
                let ended = self.ended(std::mem::take(&mut beat.hosted));
                let known = self.membership.lock().heartbeat(Instant::now(), beat);
                Ok(HeartbeatReply { known, ended }.encode_to_vec())
            }
            ACTION_LEAVE => {
                let leave: Leave = decode(body)?;
                tracing::info!(executor = %leave.executor_id, "executor left");
                self.membership.lock().leave(&leave);
                self.publish();
                Ok(Vec::new())
            }
            ACTION_POOLS_FIND => {
                let asked: FindPools = decode(body)?;
                let (query, directory) = (&asked.query_id, &self.directory);
                let asker = Asker {
                    call_id: asked.call_id,
                    number: asked.asker,
                };
                let found = directory.find_for(query, asker, asked.waiting);
                let pools = found.ok_or_else(|| Status::not_found("that query has ended"))?;
                let pools = to_wire(&pools);
                let failure = directory.failure(query);
                Ok(FoundPools { pools, failure }.encode_to_vec())
            }
            ACTION_FAILED_ROWS => {
                let report: FailedRowsReport = decode(body)?;
                let total = self.row_errors.add(report);
                let total = total.map_err(|full| Status::resource_exhausted(full.to_string()))?;
                Ok(FailedRowsReply { total }.encode_to_vec())
            }
            other => Err(Status::unimplemented(format!("unknown action \"{other}\""))),
        }
    }

    /// Of what an executor hosts, what is wanted no more.
    fn ended(&self, hosted: Vec<String>) -> Vec<String> {
        let is_table = |hosted: &String| table_hosted(hosted).is_some();
        let (tables, actors): (Vec<_>, Vec<_>) = hosted.into_iter().partition(is_table);
        let ids = tables.iter().filter_map(|table| table_hosted(table));
        let tables = self.kept.not_held(ids.map(str::to_owned).collect());
        let mut ended = self.directory.ended(actors);
        ended.extend(tables.iter().map(|id| hosted_name(id)));
        ended
    }

    fn register(&self, request: Register) -> Result<Vec<u8>, Status> {
        let (id, url) = (request.executor_id.clone(), request.url.clone());
        let epoch = self
            .membership
            .lock()
            .register(Instant::now(), request)
            .map_err(|refusal| match refusal {
                // That one may be dead, which is not known yet.
                Refusal::Duplicate { .. } => Status::already_exists(refusal.to_string()),
                _ => Status::failed_precondition(refusal.to_string()),
            })?;
        tracing::info!(executor = %id, %url, "executor registered");
        self.publish();
        let reply = RegisterReply {
            epoch,
            heartbeat_interval_ms: self.heartbeat_interval.as_millis() as u64,
        };
        Ok(reply.encode_to_vec())
    }

    fn publish(&self) {
        let urls: BTreeSet<Url> = self
            .membership
            .lock()
            .members()
            .map(|member| member.url.clone())
            .collect();
        self.alive.send_replace(urls);
    }
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, Status> {
    M::decode(body).map_err(|e| Status::invalid_argument(format!("malformed action body: {e}")))
}
