//! Which executors are alive: a pure state machine.
//!
//! Time is an argument, so every transition can be tested without waiting. An
//! executor is known by its id; each registration gets a new epoch, and only
//! the newest epoch counts, so that a restarted executor cannot be confused
//! with its dead self.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mobula_proto::cluster::{ExecutorLoad, Heartbeat, Leave, Register};
use mobula_udfs::Capacity;
use url::Url;

use crate::exchange::channels::parse_address;
use crate::executor::resources::{Roles, from_wire};

/// Most executors a coordinator lists.
const MAX_EXECUTORS: usize = 4096;
/// Longest executor id, in bytes.
const MAX_ID_LEN: usize = 128;

/// An executor that is alive.
#[derive(Debug, Clone)]
pub struct Member {
    pub executor_id: String,
    pub url: Url,
    pub version: String,
    pub cores: u32,
    pub pid: u32,
    pub epoch: u64,
    pub registered: Instant,
    pub last_heartbeat: Instant,
    /// A query has lost it; its next heartbeat clears this.
    pub is_suspect: bool,
    /// What it shares out.
    pub capacity: Capacity,
    pub roles: Roles,
    pub load: ExecutorLoad,
}

/// Why a registration is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    #[error(
        "executor \"{executor_id}\" has version {theirs}, the coordinator {ours}. Run the same version on both"
    )]
    Version {
        executor_id: String,
        theirs: String,
        ours: String,
    },
    #[error(
        "executor \"{executor_id}\" is already registered from {url}. Give this one another --id"
    )]
    Duplicate { executor_id: String, url: String },
    #[error(
        "\"{url}\" is not an address like grpc://HOST:PORT. Give one that others can reach with --advertise"
    )]
    Address { url: String },
    #[error("an executor id has 1 to {MAX_ID_LEN} printable ASCII characters")]
    Id,
    #[error("the coordinator already lists {MAX_EXECUTORS} executors")]
    Full,
    #[error(
        "executor \"{executor_id}\" tells of more resources and labels, or longer names, than anyone can list. Name fewer"
    )]
    Resources { executor_id: String },
}

/// All executors of a coordinator.
#[derive(Debug)]
pub struct Membership {
    members: BTreeMap<String, Member>,
    timeout: Duration,
    version: String,
    next_epoch: u64,
}

impl Membership {
    /// Nobody yet; an executor silent for `timeout` is gone.
    pub fn new(timeout: Duration, version: impl Into<String>) -> Self {
        Self {
            members: BTreeMap::new(),
            timeout,
            version: version.into(),
            next_epoch: 1,
        }
    }

    /// Lists an executor and returns its epoch.
    ///
    /// # Errors
    /// [`Refusal`]; the list stays as it was.
    pub fn register(&mut self, now: Instant, request: Register) -> Result<u64, Refusal> {
        let id = &request.executor_id;
        if id.is_empty() || id.len() > MAX_ID_LEN || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Refusal::Id);
        }
        if request.version != self.version {
            return Err(Refusal::Version {
                executor_id: request.executor_id,
                theirs: request.version,
                ours: self.version.clone(),
            });
        }
        let Ok(url) = parse_address(&request.url) else {
            return Err(Refusal::Address { url: request.url });
        };
        match self.members.get(id) {
            // A restart comes from the same address or after the old one died.
            Some(old) if old.url != url && old.pid != request.pid && self.is_alive(now, old) => {
                return Err(Refusal::Duplicate {
                    executor_id: request.executor_id,
                    url: old.url.to_string(),
                });
            }
            None if self.members.len() >= MAX_EXECUTORS => return Err(Refusal::Full),
            _ => {}
        }
        let Some(capacity) = from_wire(request.resources.unwrap_or_default()) else {
            return Err(Refusal::Resources {
                executor_id: request.executor_id,
            });
        };
        // Two ids behind one address would count the same process twice.
        self.members.retain(|_, member| member.url != url);
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let member = Member {
            executor_id: request.executor_id.clone(),
            url,
            version: request.version,
            cores: request.cores,
            pid: request.pid,
            epoch,
            registered: now,
            last_heartbeat: now,
            is_suspect: false,
            capacity,
            roles: Roles {
                tasks: request.takes_tasks,
                actors: request.runs_actors,
            },
            load: ExecutorLoad::default(),
        };
        self.members.insert(request.executor_id, member);
        Ok(epoch)
    }

    /// Notes a sign of life; false when the sender has to register again.
    pub fn heartbeat(&mut self, now: Instant, beat: Heartbeat) -> bool {
        match self.members.get_mut(&beat.executor_id) {
            Some(member) if member.epoch == beat.epoch => {
                member.last_heartbeat = now;
                member.is_suspect = false;
                if let Some(load) = beat.load {
                    member.load = load;
                }
                true
            }
            _ => false,
        }
    }

    /// Keeps new queries off the executor at `url` until it shows signs of life.
    pub fn suspect(&mut self, url: &str) {
        let bare = |url: &str| url.trim_end_matches('/').to_owned();
        let wanted = bare(url);
        let found = self
            .members
            .values_mut()
            .find(|m| bare(m.url.as_str()) == wanted);
        if let Some(member) = found {
            member.is_suspect = true;
        }
    }

    /// Forgets an executor that said goodbye.
    pub fn leave(&mut self, leave: &Leave) {
        let current = self
            .members
            .get(&leave.executor_id)
            .is_some_and(|member| member.epoch == leave.epoch);
        if current {
            self.members.remove(&leave.executor_id);
        }
    }

    /// Removes and returns those silent for too long.
    pub fn expire(&mut self, now: Instant) -> Vec<Member> {
        let (alive, dead) = std::mem::take(&mut self.members)
            .into_iter()
            .partition(|(_, member)| self.is_alive(now, member));
        self.members = alive;
        dead.into_values().collect()
    }

    /// Everyone listed, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    fn is_alive(&self, now: Instant, member: &Member) -> bool {
        now.saturating_duration_since(member.last_heartbeat) < self.timeout
    }
}

#[cfg(test)]
mod tests {
    use mobula_proto::cluster::Resources;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn request(id: &str, port: u16) -> Register {
        Register {
            executor_id: id.into(),
            url: format!("grpc://127.0.0.1:{port}"),
            version: "1".into(),
            cores: 2,
            pid: u32::from(port),
            takes_tasks: true,
            ..Register::default()
        }
    }

    fn beat(id: &str, epoch: u64) -> Heartbeat {
        Heartbeat {
            executor_id: id.into(),
            epoch,
            load: None,
            hosted: vec![],
        }
    }

    #[test]
    fn silence_ends_membership_and_an_old_epoch_stays_dead() {
        let (mut list, start) = (Membership::new(TIMEOUT, "1"), Instant::now());
        let first = list.register(start, request("a", 1)).unwrap();
        let almost = start + TIMEOUT - Duration::from_millis(1);
        assert!(list.expire(almost).is_empty());
        assert!(list.heartbeat(almost, beat("a", first)));
        assert!(list.expire(start + TIMEOUT).is_empty());
        assert_eq!(list.expire(almost + TIMEOUT).len(), 1);
        assert!(!list.heartbeat(almost + TIMEOUT, beat("a", first)));
        let second = list.register(almost + TIMEOUT, request("a", 1)).unwrap();
        assert!(second > first && !list.heartbeat(almost + TIMEOUT, beat("a", first)));
    }

    #[test]
    fn a_suspect_is_one_until_its_next_heartbeat() {
        let (mut list, now) = (Membership::new(TIMEOUT, "1"), Instant::now());
        let epoch = list.register(now, request("a", 1)).unwrap();
        let url = list.members().next().unwrap().url.to_string();
        list.suspect("http://elsewhere:1");
        assert!(!list.members().any(|m| m.is_suspect));
        list.suspect(url.trim_end_matches('/'));
        assert!(list.members().all(|m| m.is_suspect));
        list.heartbeat(now, beat("a", epoch));
        assert!(!list.members().any(|m| m.is_suspect));
    }

    #[test]
    fn another_version_is_refused_with_both_named() {
        let mut list = Membership::new(TIMEOUT, "2");
        let text = list
            .register(Instant::now(), request("a", 1))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("version 1") && text.contains("coordinator 2"),
            "{text}"
        );
    }

    #[test]
    fn an_id_in_use_is_refused_while_its_owner_lives() {
        let (mut list, now) = (Membership::new(TIMEOUT, "1"), Instant::now());
        list.register(now, request("a", 1)).unwrap();
        assert!(matches!(
            list.register(now, request("a", 2)),
            Err(Refusal::Duplicate { .. })
        ));
        assert!(list.register(now + TIMEOUT, request("a", 2)).is_ok());
    }

    #[test]
    fn one_address_is_one_executor() {
        let (mut list, now) = (Membership::new(TIMEOUT, "1"), Instant::now());
        list.register(now, request("a", 1)).unwrap();
        list.register(now, request("b", 1)).unwrap();
        assert_eq!(
            list.members()
                .map(|m| m.executor_id.as_str())
                .collect::<Vec<_>>(),
            ["b"]
        );
    }

    #[test]
    fn what_an_executor_has_is_listed_and_bounded() {
        let (mut list, now) = (Membership::new(TIMEOUT, "1"), Instant::now());
        let told = |gpus: usize| Register {
            resources: Some(Resources {
                gpu_ids: (0..gpus).map(|id| id.to_string()).collect(),
                ..Resources::default()
            }),
            takes_tasks: false,
            runs_actors: true,
            ..request("a", 1)
        };
        let refused = list.register(now, told(1000)).unwrap_err().to_string();
        assert!(refused.contains("\"a\" tells of more"), "{refused}");
        list.register(now, told(2)).unwrap();
        let member = list.members().next().unwrap();
        assert_eq!(member.capacity.gpu_ids, ["0", "1"]);
        assert!(member.roles.actors && !member.roles.tasks);
    }

    #[test]
    fn goodbye_counts_only_for_the_current_epoch() {
        let (mut list, now) = (Membership::new(TIMEOUT, "1"), Instant::now());
        let epoch = list.register(now, request("a", 1)).unwrap();
        let leave = |epoch| Leave {
            executor_id: "a".into(),
            epoch,
        };
        list.leave(&leave(epoch + 7));
        assert_eq!(list.members().count(), 1);
        list.leave(&leave(epoch));
        assert_eq!(list.members().count(), 0);
    }
}
