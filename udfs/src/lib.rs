//! User code: its declaration, the worker processes that run it, and pools.
//!
//! A [`FunctionSpec`] says what a function is, a [`UdfCall`] how one plan uses
//! it. A [`WorkerManager`] owns the worker processes of one Mobula process and
//! opens a [`UdfPool`] per call and task; blocks go in, blocks come out. User
//! code never runs in this process, but for the [`native`] functions that are part
//! of the program. No DataFusion here, and no network.
//!
//! A block's way: [`UdfPool::call`] → `process_pool` takes a worker from `roster`
//! or has one started through `launch` by the `zygote` → `exchange` writes it by
//! `protocol` → `python/worker/*.py` → back the same way.

mod activity;
mod call;
mod channel;
mod error;
mod exchange;
mod launch;
mod log;
mod manager;
pub mod native;
mod order;
mod pool;
mod process;
mod process_pool;
mod protocol;
mod python;
mod roster;
mod schema_bytes;
mod signal;
mod spawn;
mod spec;
mod worker;
mod zygote;

pub use activity::{WorkerInfo, WorkerState};
pub use call::{CallMode, Literal, UdfCall};
pub use error::{UdfError, UdfErrorClass, UserFailure};
pub use manager::{StartMethod, WorkerManager, WorkerSettings};
pub use native::{Native, NativeError, NativeFunction, NativeFunctions, NativeInstance};
pub use pool::{BlockStream, PoolStats, UdfPool};
pub use spec::{
    BatchFormat, CallDefaults, FunctionSpec, Language, ObjectKind, Param, ParamKind, Returns,
    UnknownBatchFormat, Volatility,
};
