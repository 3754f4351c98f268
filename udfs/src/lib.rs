//! User code: its declaration, the worker processes that run it, and pools.
//!
//! A [`FunctionSpec`] says what a function is, a [`UdfCall`] how one plan uses
//! it. A [`WorkerManager`] owns the worker processes of one Mobula process and
//! opens a [`UdfPool`] per call and task; blocks go in, blocks come out. An
//! [`ActorHost`] holds the named actors, whose pools are handles on one worker. User
//! code never runs in this process, but for the [`native`] functions that are part
//! of the program. No DataFusion here, and no network.
//!
//! A block's way: [`UdfPool::call`] → `process_pool` → `crew` takes one from `roster`
//! or has one started through `launch` by the `zygote` → `block_run` has
//! `exchange` hand it to `channel`, which writes it by `protocol`, large ones to
//! memory from `slots` → `python/worker/*.py` → back the same way. Blocks of async
//! functions overlap in a worker, by a way of their own: `async_calls`. Where rows are routed
//! by key, each actor has a lane, and its state outlives it: `keyed`.

mod activity;
mod actor;
mod actor_host;
mod actor_pool;
mod apart;
mod async_calls;
mod block_id;
mod block_run;
mod board;
mod call;
mod channel;
mod crew;
mod descriptors;
mod error;
mod exchange;
mod failed_rows;
mod fused;
mod handling;
mod hosted;
mod idle;
mod keyed;
mod launch;
mod line;
mod linger;
mod log;
mod manager;
pub mod native;
mod order;
mod overlap;
mod pool;
mod process;
mod process_pool;
mod protocol;
mod python;
pub mod resources;
mod roster;
mod schema_bytes;
#[cfg(target_os = "linux")]
mod segment;
#[cfg(not(target_os = "linux"))]
#[path = "segment_absent.rs"]
mod segment;
mod sender;
mod signal;
mod slot_table;
mod slots;
mod spawn;
mod spec;
mod train;
mod turns;
mod user_line;
mod work;
mod worker;
mod zygote;

pub use activity::{WorkerInfo, WorkerState};
pub use actor::{
    ActorInfo, ActorSpec, ActorState, DescribedMethod, DescribedParam, PoolBounds, member_key,
};
pub use actor_host::{ActorHost, BuiltActor};
pub use actor_pool::ActorPool;
pub use block_id::BlockId;
pub use call::{CallMode, GROUP_STARTS, Literal, Priority, UdfCall};
pub use error::{Down, ErrorBound, RemoteFailure, UdfError, UdfErrorClass, UserFailure};
pub use failed_rows::{ErrorPolicy, FailedRow, OnError, RowFailure};
pub use fused::{Step, Take};
pub use handling::Handling;
pub use keyed::{KeptShare, KeptStates, Keyed};
pub use manager::{StartMethod, WorkerManager, WorkerSettings};
pub use native::{
    Native, NativeError, NativeFunction, NativeFunctions, NativeInstance, NativePlace,
    NativeThreads,
};
pub use overlap::{DEFAULT_IN_FLIGHT, Overlap, ROW_PLACES};
pub use pool::{Answer, AnswerStream, PoolStats, UdfPool, one_by_one};
pub use resources::{Amount, Capacity, Claim, Demand, LabelSelector, Ledger, Placement};
pub use spec::{
    BatchFormat, CallDefaults, FunctionSpec, Language, MethodOf, ObjectKind, Param, ParamKind,
    Returns, UnknownBatchFormat, Volatility,
};
pub use train::TRAIN_BLOCKS;
pub use work::ActorLoad;
