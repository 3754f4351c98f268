//! What a process tells of its operators, workers, actors and tasks when the coordinator asks.
//!
//! `ReportRequest` is the body of a Flight `DoAction` on any cluster listener; the
//! answer is a stream of `Report`s, each of bounded length. Read for
//! `system.operators`, `system.workers`, `system.actors` and `system.tasks`.

/// Action name of [`ReportRequest`].
pub const ACTION_REPORT: &str = "mobula.report";

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReportRequest {
    #[prost(bool, tag = "1")]
    pub operators: bool,
    #[prost(bool, tag = "2")]
    pub workers: bool,
    #[prost(bool, tag = "3")]
    pub tasks: bool,
    #[prost(bool, tag = "4")]
    pub actors: bool,
}

/// A part of the answer to [`ReportRequest`]: all parts together are the answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    #[prost(message, repeated, tag = "1")]
    pub operators: Vec<OperatorReport>,
    #[prost(message, repeated, tag = "2")]
    pub workers: Vec<WorkerReport>,
    #[prost(message, repeated, tag = "3")]
    pub tasks: Vec<TaskReport>,
    #[prost(message, repeated, tag = "4")]
    pub actors: Vec<ActorReport>,
}

/// A named actor, or one of a named pool.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ActorReport {
    #[prost(string, tag = "1")]
    pub name: String,
    /// It is one of a pool of that name.
    #[prost(bool, tag = "2")]
    pub is_pooled: bool,
    /// Tells it from others of its name; 0: there are none.
    #[prost(uint64, tag = "3")]
    pub member: u64,
    /// The function that is its class.
    #[prost(string, tag = "4")]
    pub class: String,
    #[prost(string, tag = "5")]
    pub state: String,
    #[prost(uint32, optional, tag = "6")]
    pub pid: Option<u32>,
    /// Blocks in its line.
    #[prost(uint64, tag = "7")]
    pub queue: u64,
    #[prost(uint64, tag = "8")]
    pub calls: u64,
    #[prost(double, tag = "9")]
    pub busy_share: f64,
    #[prost(uint64, tag = "10")]
    pub restarts: u64,
    #[prost(uint64, tag = "11")]
    pub memory_bytes: u64,
    #[prost(uint64, tag = "12")]
    pub age_ms: u64,
    /// Empty: nothing went wrong.
    #[prost(string, tag = "13")]
    pub last_error: String,
}

/// An operator that calls user code, in one task.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorReport {
    #[prost(string, tag = "1")]
    pub query_id: String,
    /// As in SQL.
    #[prost(string, tag = "2")]
    pub operator: String,
    #[prost(string, tag = "3")]
    pub function: String,
    /// False: it has ended.
    #[prost(bool, tag = "4")]
    pub is_running: bool,
    /// Milliseconds since 1970, UTC.
    #[prost(int64, tag = "5")]
    pub started_ms: i64,
    #[prost(uint64, tag = "6")]
    pub elapsed_ms: u64,
    /// Most workers it may use.
    #[prost(uint64, tag = "7")]
    pub concurrency: u64,
    #[prost(uint64, tag = "8")]
    pub workers_at_once: u64,
    #[prost(uint64, tag = "9")]
    pub workers_started: u64,
    #[prost(uint64, tag = "10")]
    pub calls: u64,
    #[prost(uint64, tag = "11")]
    pub rows_in: u64,
    #[prost(uint64, tag = "12")]
    pub rows_out: u64,
    #[prost(uint64, tag = "13")]
    pub failed_rows: u64,
    #[prost(uint64, tag = "14")]
    pub bytes_in: u64,
    #[prost(uint64, tag = "15")]
    pub bytes_out: u64,
    #[prost(uint64, tag = "16")]
    pub bytes_shared: u64,
    #[prost(uint64, tag = "17")]
    pub user_ms: u64,
    #[prost(uint64, tag = "18")]
    pub transport_ms: u64,
    #[prost(uint64, tag = "19")]
    pub wait_input_ms: u64,
    #[prost(uint64, tag = "20")]
    pub wait_workers_ms: u64,
    #[prost(uint64, tag = "21")]
    pub wait_downstream_ms: u64,
    #[prost(uint64, tag = "22")]
    pub retries: u64,
}

/// A worker process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkerReport {
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// The function it last served; empty before the first.
    #[prost(string, tag = "2")]
    pub function: String,
    #[prost(string, tag = "3")]
    pub state: String,
    /// Since it entered that state.
    #[prost(uint64, tag = "4")]
    pub age_ms: u64,
    /// Of the GPUs that it asked for, with commas.
    #[prost(string, tag = "5")]
    pub gpu_ids: String,
}

/// A task: a stage's share for one process. Times are milliseconds since 1970, UTC.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TaskReport {
    #[prost(string, tag = "1")]
    pub query_id: String,
    /// 0: the stage whose output the client reads.
    #[prost(uint64, tag = "2")]
    pub stage_id: u64,
    #[prost(uint64, tag = "3")]
    pub task_idx: u64,
    /// Of the stage.
    #[prost(uint64, tag = "4")]
    pub n_tasks: u64,
    #[prost(string, tag = "5")]
    pub state: String,
    #[prost(int64, tag = "6")]
    pub plan_arrived_ms: i64,
    /// Its first output was asked for.
    #[prost(int64, optional, tag = "7")]
    pub started_ms: Option<i64>,
    /// The first block of another task came.
    #[prost(int64, optional, tag = "8")]
    pub first_input_ms: Option<i64>,
    #[prost(int64, optional, tag = "9")]
    pub finished_ms: Option<i64>,
    #[prost(uint64, tag = "10")]
    pub rows_out: u64,
    #[prost(uint64, tag = "11")]
    pub bytes_out: u64,
    #[prost(message, repeated, tag = "12")]
    pub inputs: Vec<TaskInputReport>,
}

/// What a task has read of one stage from one process.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TaskInputReport {
    #[prost(uint64, tag = "1")]
    pub stage_id: u64,
    #[prost(string, tag = "2")]
    pub url: String,
    /// Without a socket.
    #[prost(bool, tag = "3")]
    pub is_local: bool,
    /// Of local ones as in memory, of others as on the wire.
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
}
