//! A named actor: what `CREATE ACTOR` declares, and how it is seen from outside.
//!
//! The bytes of an [`ActorSpec`] stand in the catalog, as those of a function do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::call::Literal;
use crate::error::UdfError;
use crate::resources::Demand;
use crate::spec::{BatchFormat, FunctionSpec};

/// A declared actor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActorSpec {
    /// As SQL knows it.
    pub name: String,
    /// A copy: what becomes of the function later changes no actor.
    pub class: FunctionSpec,
    /// Keyword arguments of the constructor.
    pub args: Vec<(String, Literal)>,
    /// Longest time one block may take in it; `None`: as the session is set.
    pub timeout: Option<Duration>,
    /// Longest time it may take to be built; `None`: as the process is set.
    pub init_timeout: Option<Duration>,
    /// What can be called, `__call__` under the actor's own name first.
    pub methods: Vec<FunctionSpec>,
    /// What its process asks for, or that of each of a pool.
    #[serde(default)]
    pub demand: Demand,
    /// How many there are; `None`: it is one, and has all its state.
    #[serde(default)]
    pub pool: Option<PoolBounds>,
    /// Tells it from others of its name: those of a pool, and the one that it replaces. 0:
    /// there is none.
    #[serde(default)]
    pub member: u64,
}

/// How many actors a named pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolBounds {
    /// At least 1: without so many it is not created.
    pub min: usize,
    /// So many there are at most: more than `min` while blocks wait.
    pub max: usize,
    /// How long an actor beyond `min` is kept when it has nothing to do; `None`: as the
    /// process is set.
    #[serde(default)]
    pub idle_ttl: Option<Duration>,
}

impl ActorSpec {
    /// It as member `member` of those with its name.
    pub fn as_member(&self, member: u64) -> Self {
        Self {
            member,
            ..self.clone()
        }
    }

    /// What its host calls it.
    pub fn key(&self) -> String {
        member_key(&self.name, self.member)
    }

    /// The declaration as bytes.
    ///
    /// # Errors
    /// [`UdfError::EncodeSpec`] for an Arrow type that IPC cannot write.
    pub fn encode(&self) -> Result<Vec<u8>, UdfError> {
        rmp_serde::to_vec_named(self).map_err(UdfError::EncodeSpec)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`UdfError::DecodeSpec`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, UdfError> {
        rmp_serde::from_slice(bytes).map_err(UdfError::DecodeSpec)
    }
}

/// What hosts call member `member` of the actors called `name`.
pub fn member_key(name: &str, member: u64) -> String {
    match member {
        0 => name.to_owned(),
        member => format!("{name}#{member}"),
    }
}

/// A method as a worker sees it in its class; its types are still texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DescribedMethod {
    pub name: String,
    pub params: Vec<DescribedParam>,
    /// As after RETURNS.
    pub returns: Option<String>,
    /// What whole batches come as, if it takes them; else it takes plain values.
    pub batches: Option<BatchFormat>,
    /// Why it cannot be called; continues a sentence that starts with it.
    pub problem: Option<String>,
}

/// A parameter of a method.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DescribedParam {
    pub name: String,
    /// As in CREATE FUNCTION; `None` where the method has a problem.
    #[serde(rename = "type")]
    pub sql_type: Option<String>,
}

/// A named actor, as others see it.
#[derive(Debug, Clone)]
pub struct ActorInfo {
    pub name: String,
    /// The function that is its class.
    pub class: String,
    pub state: ActorState,
    /// `None` while it has no process.
    pub pid: Option<u32>,
    /// Blocks that wait for their turn.
    pub queue: usize,
    /// Blocks it is through with, those of actors of its name that died included.
    pub calls: u64,
    /// The share of its age that it was at work.
    pub busy_share: f64,
    /// How often it was built anew.
    pub restarts: u64,
    /// What its process holds now; 0 where the system does not tell.
    pub memory_bytes: u64,
    /// Since it was created, or this process started.
    pub age: Duration,
    /// The last thing that went wrong in it; empty: nothing.
    pub last_error: String,
    /// Whether it is one of a pool, whose name it has.
    pub is_pooled: bool,
    /// See [`ActorSpec::member`].
    pub member: u64,
}

/// Where a named actor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorState {
    /// Being built for the first time in this process.
    Starting,
    Idle,
    Busy,
    /// It died, and is being built anew.
    Restarting,
    /// It could not be built; that is tried again.
    Failed,
    /// No call finds it any more: it ends when it is through with what it is at.
    Retiring,
}

impl fmt::Display for ActorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
            Self::Retiring => "retiring",
        })
    }
}
