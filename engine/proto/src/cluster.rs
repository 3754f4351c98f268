//! What coordinator and executors say to each other.
//!
//! `Register`, `Heartbeat`, `Leave` and `FailedRowsReport` are bodies of Flight `DoAction` calls on
//! the coordinator's cluster listener (what it asks executors is in `report`); `TaskTicket` is the ticket of a `DoGet` (what a `DoExchange` says is in `actor`);
//! `QueryHeader` and `TaskHeader` travel base64-encoded in headers beside a plan; `WireError`
//! lies in the details of every gRPC status between executors.

/// Action name of [`Register`].
pub const ACTION_REGISTER: &str = "mobula.register";
/// Action name of [`Heartbeat`].
pub const ACTION_HEARTBEAT: &str = "mobula.heartbeat";
/// Action name of [`Leave`].
pub const ACTION_LEAVE: &str = "mobula.leave";
/// Action name of [`FailedRowsReport`].
pub const ACTION_FAILED_ROWS: &str = "mobula.failed_rows";
/// Header that carries a base64 [`QueryHeader`] with every plan.
pub const HEADER_QUERY: &str = "x-mobula-query";
/// Header that carries a base64 [`TaskHeader`] with every plan.
pub const HEADER_TASK: &str = "x-mobula-task";

/// An executor asks to be listed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Register {
    #[prost(string, tag = "1")]
    pub executor_id: String,
    /// Where others reach its listener: `http://host:port`.
    #[prost(string, tag = "2")]
    pub url: String,
    /// Must equal the coordinator's version.
    #[prost(string, tag = "3")]
    pub version: String,
    #[prost(uint32, tag = "4")]
    pub cores: u32,
    #[prost(uint32, tag = "5")]
    pub pid: u32,
    /// What it shares out.
    #[prost(message, optional, tag = "6")]
    pub resources: Option<Resources>,
    #[prost(bool, tag = "7")]
    pub takes_tasks: bool,
    #[prost(bool, tag = "8")]
    pub runs_actors: bool,
}

/// What a process has. Amounts are in thousandths.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Resources {
    #[prost(uint64, tag = "1")]
    pub cpus_milli: u64,
    #[prost(string, repeated, tag = "2")]
    pub gpu_ids: Vec<String>,
    #[prost(uint64, tag = "3")]
    pub memory_bytes: u64,
    #[prost(message, repeated, tag = "4")]
    pub custom: Vec<NamedAmount>,
    /// What is true of it.
    #[prost(message, repeated, tag = "5")]
    pub labels: Vec<KeyValue>,
}

/// What of [`Resources`] nobody has.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FreeResources {
    #[prost(uint64, tag = "1")]
    pub cpus_milli: u64,
    #[prost(message, repeated, tag = "2")]
    pub gpus: Vec<GpuFree>,
    #[prost(uint64, tag = "3")]
    pub memory_bytes: u64,
    #[prost(message, repeated, tag = "4")]
    pub custom: Vec<NamedAmount>,
}

/// What is left of one GPU.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GpuFree {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(uint64, tag = "2")]
    pub milli: u64,
}

/// An amount of a resource.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NamedAmount {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub milli: u64,
}

/// Answer to [`Register`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterReply {
    /// Heartbeats must name it; a restarted executor gets a new one.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(uint64, tag = "2")]
    pub heartbeat_interval_ms: u64,
}

/// Sign of life with running totals.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Heartbeat {
    #[prost(string, tag = "1")]
    pub executor_id: String,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(message, optional, tag = "3")]
    pub load: Option<ExecutorLoad>,
    /// Queries that have actors there, named actors as `actor KEY`, and tables whose blocks are
    /// kept there as `kept ID`.
    #[prost(string, repeated, tag = "4")]
    pub hosted: Vec<String>,
}

/// Totals since the process started, and what runs now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecutorLoad {
    /// Encoded bytes its `DoGet` sent.
    #[prost(uint64, tag = "1")]
    pub bytes_sent: u64,
    /// Encoded bytes it fetched by `DoGet`.
    #[prost(uint64, tag = "2")]
    pub bytes_received: u64,
    /// Block streams open now.
    #[prost(uint64, tag = "3")]
    pub streams: u64,
    /// Tasks whose plan it has been given.
    #[prost(uint64, tag = "4")]
    pub tasks_started: u64,
    /// Worker processes alive now.
    #[prost(uint64, tag = "5")]
    pub workers: u64,
    /// What nobody has now.
    #[prost(message, optional, tag = "6")]
    pub free: Option<FreeResources>,
}

/// Answer to [`Heartbeat`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeartbeatReply {
    /// False: the coordinator does not know this epoch; register again.
    #[prost(bool, tag = "1")]
    pub known: bool,
    /// Those of what is hosted there that the coordinator does not know.
    #[prost(string, repeated, tag = "2")]
    pub ended: Vec<String>,
}

/// An executor says goodbye.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Leave {
    #[prost(string, tag = "1")]
    pub executor_id: String,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// An executor tells of rows that user code failed on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FailedRowsReport {
    #[prost(string, tag = "1")]
    pub query_id: String,
    #[prost(string, tag = "2")]
    pub executor: String,
    #[prost(string, tag = "3")]
    pub function: String,
    /// As in SQL.
    #[prost(string, tag = "4")]
    pub operator: String,
    /// Rows that failed; each has its place in `rows`, or none has.
    #[prost(uint64, tag = "5")]
    pub count: u64,
    #[prost(message, repeated, tag = "6")]
    pub rows: Vec<ListedRow>,
}

/// A failed row.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListedRow {
    /// A JSON object.
    #[prost(string, tag = "1")]
    pub row: String,
    #[prost(string, tag = "2")]
    pub error_type: String,
    #[prost(string, tag = "3")]
    pub message: String,
    #[prost(string, tag = "4")]
    pub traceback: String,
}

/// Answer to [`FailedRowsReport`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct FailedRowsReply {
    /// Rows that the function has failed on in the query so far.
    #[prost(uint64, tag = "1")]
    pub total: u64,
}

/// Names one partition of one task's output.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskTicket {
    /// 16 bytes; one attempt of a query has one.
    #[prost(bytes = "vec", tag = "1")]
    pub query_id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub stage_id: u64,
    #[prost(uint64, tag = "3")]
    pub task_idx: u64,
    #[prost(uint64, tag = "4")]
    pub partition: u64,
    /// How the stage's head prepares its output.
    #[prost(oneof = "TaskHead", tags = "5, 6, 7, 10")]
    pub head: Option<TaskHead>,
    /// `lz4`, `zstd` or `none`.
    #[prost(string, tag = "8")]
    pub compression: String,
    /// Partitions that all readers of the task open together; 0: unknown.
    #[prost(uint64, tag = "9")]
    pub n_partitions: u64,
}

/// The exchange kind seen from the producer.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum TaskHead {
    /// Blocks as the stage makes them.
    #[prost(bool, tag = "5")]
    Gather(bool),
    /// Every consumer task reads all; the number of output partitions.
    #[prost(uint64, tag = "6")]
    Broadcast(u64),
    /// Hash partitioned; the encoded partitioning.
    #[prost(bytes, tag = "7")]
    Shuffle(Vec<u8>),
    /// No task at all: blocks that were kept.
    #[prost(message, tag = "10")]
    Kept(KeptTicket),
}

/// Opens blocks that a process has kept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeptTicket {
    /// Of the table.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Of the table, for errors.
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint64, tag = "3")]
    pub part: u64,
    /// Columns that are read.
    #[prost(uint32, repeated, tag = "4")]
    pub projection: Vec<u32>,
}

/// Settings of a query that every executor must share.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueryHeader {
    #[prost(string, tag = "1")]
    pub query_id: String,
    /// Options that differ from their default.
    #[prost(message, repeated, tag = "2")]
    pub options: Vec<KeyValue>,
    /// Object stores the plan may read; credentials by reference only.
    #[prost(message, repeated, tag = "3")]
    pub stores: Vec<Store>,
    /// Where the actors are of calls that ask for resources.
    #[prost(message, repeated, tag = "4")]
    pub pools: Vec<crate::pool::PlacedPool>,
    /// Whether somebody seems to wait for it: it reads no table and calls for few rows.
    #[prost(bool, tag = "5")]
    pub is_interactive: bool,
}

/// Which task a plan is for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TaskHeader {
    /// 16 bytes, as in [`TaskTicket`].
    #[prost(bytes = "vec", tag = "1")]
    pub attempt_id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub stage_id: u64,
    #[prost(uint64, tag = "3")]
    pub task_idx: u64,
    /// Of the stage.
    #[prost(uint64, tag = "4")]
    pub n_tasks: u64,
    /// What the query calls the executor that gets the plan.
    #[prost(string, tag = "5")]
    pub url: String,
}

/// One option.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// One object store.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Store {
    #[prost(string, tag = "1")]
    pub url: String,
    #[prost(message, repeated, tag = "2")]
    pub options: Vec<KeyValue>,
}

/// An error with its class, so that it survives any number of hops.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WireError {
    /// Number of an error class of the execution crate.
    #[prost(uint32, tag = "1")]
    pub class: u32,
    /// One line.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Where it happened: the executor's URL.
    #[prost(string, tag = "3")]
    pub executor: String,
    /// A traceback, or empty.
    #[prost(string, tag = "4")]
    pub detail: String,
}
