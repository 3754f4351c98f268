//! The table of settings: one row defines a key for SQL, file, environment,
//! flag and documentation.
//!
//! Adding a setting is one row here and one getter in [`super::MobulaOptions`];
//! a test checks that the two lists agree.

use std::time::Duration;

use super::rows::{
    DAY, GIB, HOUR, KIB, MIB, MS_10, MS_100, START_METHOD, TIB, bytes, count, process, session,
    time,
};
use super::{Setting, SettingKind};

/// Every setting, in the order the documentation shows them.
pub static SETTINGS: &[Setting] = &[
    // User code
    session(
        "udf_batch_rows",
        count(1, 1 << 20),
        "65536",
        "Rows of a block sent to a worker; a function's batch_size cuts it further",
    ),
    session(
        "udf_batch_bytes",
        bytes(64 * KIB, GIB),
        "32MiB",
        "Bytes of a block sent to a worker: wide rows travel in fewer rows",
    ),
    session(
        "udf_fuse",
        SettingKind::Bool,
        "true",
        "Whether one worker runs neighbouring calls one after another, where they ask for nothing of their own",
    ),
    session(
        "udf_preserve_order",
        SettingKind::Bool,
        "false",
        "Whether calls that do not say preserve_order keep the order of their rows also where nothing asks for it; one slow block then holds up all behind it",
    ),
    session(
        "udf_call_timeout",
        time(Duration::ZERO, DAY),
        "0",
        "Longest time one block may take in a worker; for a block that goes through several functions there, as many times this long; 0 means no limit",
    ),
    session(
        "udf_errors_max_rows",
        count(0, 100_000_000),
        "100000",
        "Rows that one function may lose to system.errors in a query before the query fails",
    ),
    session(
        "udf_priority",
        SettingKind::Choice(&["auto", "interactive", "batch"]),
        "auto",
        "Which calls of an actor go first where several queries wait for it: interactive ones before batch; auto: a statement that reads and calls for no more than 16 rows is interactive",
    ),
    session(
        "actor_block_time",
        time(Duration::ZERO, DAY),
        "50ms",
        "Time that a block should take a named actor, for which others wait: blocks are cut to as many rows, but not within a batch_size; 0 means as large as blocks of other calls",
    ),
    process(
        "actor_linger",
        time(Duration::ZERO, DAY),
        "5ms",
        "Longest time that an actor which has answered an interactive call waits for the next one before it goes on with batch calls, as long as somebody comes back in that time; 0 means not at all",
    ),
    process(
        "udf_batch_every",
        count(2, 1_000_000),
        "8",
        "While calls wait for an actor behind interactive ones, they get at least one of so many turns",
    ),
    session(
        "udf_snapshot_every",
        count(1, 1 << 20),
        "64",
        "Blocks after which a keyed actor with snapshot() is asked for its state; as many are seen again at most after its death",
    ),
    session(
        "udf_replay_bytes",
        bytes(0, TIB),
        "64MiB",
        "Bytes of blocks after which a keyed actor is asked for its state earlier: about as many are kept for each",
    ),
    session(
        "udf_snapshot_max_bytes",
        bytes(KIB, TIB),
        "256MiB",
        "Longest state that a keyed actor may tell; the last one of each is kept in memory",
    ),
    process(
        "udf_errors_max_bytes",
        bytes(64 * KIB, TIB),
        "64MiB",
        "Bytes of failed rows that system.errors keeps: those of older queries make room for later ones",
    ),
    process(
        "operators_kept",
        count(0, 100_000),
        "1000",
        "Ended operators that system.operators keeps in each process: the oldest make room for later ones",
    ),
    process(
        "tasks_kept",
        count(0, 100_000),
        "1000",
        "Ended tasks that system.tasks keeps in each process: the oldest make room for later ones",
    ),
    process(
        "udf_max_workers",
        count(0, 4096),
        "0",
        "Worker processes of one process past which a call starts no more than its first; queries that call classes or table functions start when their calls together are no more than this; 0 means four per core",
    ),
    process(
        "actors_max",
        count(0, 4096),
        "256",
        "Named actors that there may be at once; each has a process of its own for as long as it lives",
    ),
    process(
        "actor_states_max_bytes",
        bytes(KIB, TIB),
        "1GiB",
        "Bytes of states of named actors, and of blocks since, that the process that queries are sent to keeps for keyed calls; beyond it they get no more blocks",
    ),
    process(
        "splits_max",
        count(0, 100_000),
        "256",
        "Splits, queries whose rows several readers share, that there may be at once",
    ),
    process(
        "pool_interval",
        time(MS_10, HOUR),
        "100ms",
        "Time between two looks at the load of pools, named ones and those of queries, which may make them grow or shrink",
    ),
    process(
        "pool_wait_target",
        time(Duration::ZERO, HOUR),
        "400ms",
        "How long a block should wait for an actor of a pool: longer, and the pool grows, up to its max and to what is free",
    ),
    process(
        "pool_idle_ttl",
        time(Duration::ZERO, DAY),
        "30s",
        "How long an actor of a pool, beyond its min, is kept when it has nothing to do, unless a named pool says so itself",
    ),
    process(
        "pool_debounce",
        time(Duration::ZERO, HOUR),
        "2s",
        "Least time between the growing of a pool and its shrinking, and the other way round",
    ),
    process(
        "pool_retire_limit",
        time(Duration::ZERO, DAY),
        "1h",
        "How long an actor that leaves its pool may go on with the block that it is at",
    ),
    process(
        "udf_start_method",
        SettingKind::Choice(&["forkserver", "spawn"]),
        START_METHOD,
        "How workers come to be: forked from a Python that has imported numpy and pyarrow, or each started anew",
    ),
    process(
        "udf_prestart",
        SettingKind::Bool,
        "true",
        "Whether servers and executors make ready for workers at their start, not at the first call",
    ),
    process(
        "udf_init_timeout",
        time(MS_100, DAY),
        "600s",
        "Longest time a worker may take to start and build its function, and a query to wait for its workers",
    ),
    process(
        "udf_hosts_lost_max",
        count(1, 1000),
        "3",
        "So many hosts of actors lost with the same block on its way fail its query; of those that were still building their actors, four count as one",
    ),
    process(
        "udf_kill_grace",
        time(Duration::ZERO, HOUR),
        "2s",
        "Time a worker gets to end by itself before it is killed",
    ),
    process(
        "udf_idle_ttl",
        time(Duration::ZERO, DAY),
        "60s",
        "Time an idle worker is kept for the next query",
    ),
    process(
        "udf_worker_max_blocks",
        count(0, 1_000_000_000),
        "10000",
        "Blocks after which a worker of functions without state is replaced by a new one, so that what they leak is bounded; 0 means never",
    ),
    process(
        "udf_worker_memory",
        bytes(0, TIB),
        "0",
        "Bytes of memory of its own that a worker may take beyond what it starts with, address space that its libraries reserve included, blocks that it shares with its engine not; past them user code gets a MemoryError; 0 means no limit",
    ),
    process(
        "udf_max_frame_bytes",
        bytes(64 * KIB, 2 * GIB),
        "256MiB",
        "Longest message between a process and its worker, in bytes",
    ),
    process(
        "python",
        SettingKind::Path,
        "",
        "Python interpreter of workers; empty: DATA_DIR/python if it is there, else python3",
    ),
    // Queries
    process(
        "memory_limit",
        bytes(0, TIB),
        "0",
        "Bytes that operators of one process may hold before they spill; 0 means no limit",
    ),
    process(
        "list_files_ttl",
        time(Duration::ZERO, DAY),
        "0",
        "How long a folder or bucket of a table is taken to hold the files that it held when it was last listed; 0 means that each statement looks",
    ),
    process(
        "udf_memory_percent",
        count(0, 100),
        "50",
        "Percent of memory_limit up to which calls send workers more than the one block that each stream may have on its way; the rest is left to operators that cannot wait",
    ),
    session(
        "scan_bytes_per_task",
        bytes(1, TIB),
        "16MiB",
        "Bytes of a scan that one task takes: a larger scan gets more tasks",
    ),
    session(
        "max_tasks_per_stage",
        count(0, 4096),
        "0",
        "Most tasks of a stage; 0 means one per executor",
    ),
    session(
        "task_skew_max",
        count(0, 4096),
        "0",
        "Tasks of a stage that one executor may get more than another, beyond the one of an uneven division, so that they run where their input is; 0 means an even division comes first",
    ),
    session(
        "exchange_compression",
        SettingKind::Choice(&["lz4", "zstd", "none"]),
        "lz4",
        "Compression of blocks between executors",
    ),
    process(
        "exchange_stream_window",
        bytes(64 * KIB, GIB),
        "1MiB",
        "Bytes buffered per stream between executors before the sender waits",
    ),
    process(
        "exchange_message_bytes",
        bytes(MIB, 2 * GIB),
        "64MiB",
        "Longest message between executors, in bytes",
    ),
    process(
        "exchange_threads",
        count(1, 256),
        "2",
        "Threads that move blocks and signs of life between processes, apart from those of queries",
    ),
    // Cluster
    process(
        "cluster_listen",
        SettingKind::Text,
        "127.0.0.1:7402",
        "HOST:PORT of the cluster listener, for executors only",
    ),
    process(
        "cluster_token_file",
        SettingKind::Path,
        "",
        "File with the secret that coordinator and executors share; empty: DATA_DIR/cluster-token",
    ),
    process(
        "executors",
        count(0, 1024),
        "0",
        "Executor processes to start beside the coordinator, on this machine",
    ),
    process(
        "local_executor",
        SettingKind::Bool,
        "true",
        "Whether the coordinator takes tasks like any executor",
    ),
    process(
        "cpus",
        SettingKind::Amount,
        "auto",
        "Cores that calls with num_cpus share out; auto: those of this machine or its container",
    ),
    process(
        "gpus",
        SettingKind::Gpus,
        "auto",
        "GPUs that calls with num_gpus share out; auto: those that this process may see; a count needs no hardware",
    ),
    process(
        "memory",
        SettingKind::BytesOrAuto,
        "auto",
        "Bytes that calls with memory share out; auto: those of this machine or its container",
    ),
    process(
        "resource",
        SettingKind::Amounts,
        "",
        "Other things that calls with resources share out; the flag may come several times",
    ),
    process(
        "label",
        SettingKind::Labels,
        "",
        "What is true of this process, for calls with label_selector; the flag may come several times",
    ),
    process(
        "roles",
        SettingKind::Choice(&["tasks,actors", "tasks", "actors"]),
        "tasks,actors",
        "What this process takes: tasks of queries, actors of others, or both",
    ),
    process(
        "heartbeat_interval",
        time(MS_10, HOUR),
        "500ms",
        "Time between two signs of life of an executor",
    ),
    process(
        "heartbeat_timeout",
        time(MS_100, HOUR),
        "3s",
        "Silence after which an executor counts as lost",
    ),
    // Clients
    process(
        "listen",
        SettingKind::Text,
        "127.0.0.1:7401",
        "HOST:PORT of the Flight SQL listener",
    ),
    process(
        "http_listen",
        SettingKind::Text,
        "",
        "HOST:PORT of an HTTP listener with /health, /ready and, on the coordinator, /metrics; empty: none",
    ),
    process(
        "insecure",
        SettingKind::Bool,
        "false",
        "Whether to listen beyond loopback without TLS and without users",
    ),
    process(
        "max_sessions",
        count(1, 1 << 20),
        "1024",
        "Most sessions at once; the next one is refused",
    ),
    process(
        "session_ttl",
        time(Duration::from_secs(1), DAY),
        "30m",
        "Idle time after which a session ends",
    ),
    process(
        "prepared_max",
        count(1, 1 << 20),
        "256",
        "Most prepared statements of one session",
    ),
    process(
        "parameter_rows_max",
        count(1, 1 << 24),
        "100000",
        "Most rows of values bound to a statement at once; a query runs once for each",
    ),
    process(
        "parameter_bytes_max",
        bytes(KIB, GIB),
        "64MiB",
        "Most bytes of values bound to the statements of one session",
    ),
    process(
        "plan_cache_max",
        count(0, 1 << 20),
        "256",
        "Most statements whose plans are kept for their next run, over all sessions; 0: none",
    ),
    process(
        "plan_cache_bytes",
        bytes(0, GIB),
        "32MiB",
        "About how many bytes the kept plans may have; 0: none is kept",
    ),
    process(
        "sql_max_bytes",
        bytes(KIB, GIB),
        "16MiB",
        "Longest statement, in bytes",
    ),
    process(
        "loaded_dir",
        SettingKind::Path,
        "",
        "Directory of the rows that clients load (adbc_ingest, temporary tables); executors read it at the same path. Empty: loaded in data_dir, or one that goes with the process",
    ),
    process(
        "loaded_bytes_max",
        bytes(MIB, 1024 * TIB),
        "64GiB",
        "Most bytes of the files in loaded_dir: a load that passes it fails",
    ),
    process(
        "kept_memory_max",
        bytes(0, 1024 * TIB),
        "2GiB",
        "Bytes of temporary tables made by a query that one process keeps in memory, as far as memory_limit has room; what is beyond lies on its disk, as far as datafusion.runtime.max_temp_directory_size",
    ),
    process(
        "loads_max",
        count(1, 4096),
        "16",
        "Most loads at a time, over all sessions",
    ),
    process(
        "load_message_bytes",
        bytes(MIB, 2 * GIB - 1),
        "256MiB",
        "Most bytes of one message of rows that a client loads: a record batch travels as one",
    ),
    process(
        "wire_batch_bytes",
        bytes(KIB, GIB),
        "2MiB",
        "Bytes of one message of a result",
    ),
    // Process
    process(
        "data_dir",
        SettingKind::Path,
        "",
        "Directory of catalog, Python environment and cluster token; empty: in memory",
    ),
    process(
        "log",
        SettingKind::Text,
        "warn",
        "Log filter, such as info or mobula_execution=debug",
    ),
];
