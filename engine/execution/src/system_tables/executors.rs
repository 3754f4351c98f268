//! `system.executors`: this process and the executors alive, with what their last
//! heartbeats said.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, BooleanArray, StringArray, UInt64Array};
use arrow::datatypes::DataType;
use mobula_proto::cluster::ExecutorLoad;
use mobula_udfs::resources::{Free, amounts_text, labels_text};
use mobula_udfs::{Amount, Capacity};

use super::columns::{amounts, counts, numbers, texts};
use super::{Rows, Table};
use crate::engine::Engine;
use crate::executor::resources::{Roles, free_from_wire};

pub const TABLE: Table = Table {
    name: "executors",
    columns: &[
        ("executor_id", DataType::Utf8),
        ("role", DataType::Utf8),
        ("takes_tasks", DataType::Boolean),
        ("url", DataType::Utf8),
        ("version", DataType::Utf8),
        ("pid", DataType::UInt32),
        ("cores", DataType::UInt32),
        ("up_ms", DataType::UInt64),
        ("heartbeat_age_ms", DataType::UInt64),
        ("tasks_started", DataType::UInt64),
        ("streams", DataType::UInt64),
        ("workers", DataType::UInt64),
        ("bytes_sent", DataType::UInt64),
        ("bytes_received", DataType::UInt64),
        ("runs_actors", DataType::Boolean),
        ("cpus", DataType::Float64),
        ("cpus_free", DataType::Float64),
        ("gpus", DataType::Float64),
        ("gpus_free", DataType::Float64),
        ("gpu_ids", DataType::Utf8),
        ("memory_bytes", DataType::UInt64),
        ("memory_free_bytes", DataType::UInt64),
        ("resources", DataType::Utf8),
        ("resources_free", DataType::Utf8),
        ("labels", DataType::Utf8),
    ],
    rows: Rows::Here(executors),
};

struct ExecutorRow {
    id: String,
    role: &'static str,
    roles: Roles,
    capacity: Capacity,
    url: Option<String>,
    version: String,
    pid: u32,
    cores: u32,
    up_ms: u64,
    heartbeat_age_ms: Option<u64>,
    load: ExecutorLoad,
}

fn this_process(engine: &Arc<Engine>) -> ExecutorRow {
    let cluster = engine.cluster();
    let takes_part = cluster.is_none_or(|c| c.local.is_some());
    let roles = engine.process().roles();
    ExecutorRow {
        id: engine.process().executor_id().to_owned(),
        role: match cluster {
            Some(_) => "coordinator",
            None => "embedded",
        },
        roles: Roles {
            tasks: takes_part,
            // Those that ask for nothing live here all the same.
            actors: takes_part && roles.actors,
        },
        capacity: engine.process().ledger().capacity().clone(),
        url: cluster.map(|c| c.url.to_string()),
        version: crate::VERSION.to_owned(),
        pid: std::process::id(),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        up_ms: engine.uptime().as_millis() as u64,
        heartbeat_age_ms: None,
        load: engine.process().load(),
    }
}

fn executors(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let now = Instant::now();
    let age = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
    let mut rows = vec![this_process(engine)];
    let members = engine.cluster().map(|c| c.control.members());
    rows.extend(members.into_iter().flatten().map(|member| ExecutorRow {
        id: member.executor_id,
        role: "executor",
        roles: member.roles,
        capacity: member.capacity,
        url: Some(member.url.to_string()),
        version: member.version,
        pid: member.pid,
        cores: member.cores,
        up_ms: age(member.registered),
        heartbeat_age_ms: Some(age(member.last_heartbeat)),
        load: member.load,
    }));
    let text = |f: fn(&ExecutorRow) -> &str| texts(rows.iter().map(f));
    let count = |f: fn(&ExecutorRow) -> u64| counts(rows.iter().map(f));
    let number = |f: fn(&ExecutorRow) -> u32| numbers(rows.iter().map(f));
    let truths = |f: fn(&ExecutorRow) -> bool| -> ArrayRef {
        Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(f(r)))))
    };
    let has: Vec<_> = rows.iter().map(|r| &r.capacity).collect();
    // Executors tell with their first heartbeat.
    let free = rows.iter().map(|r| match &r.load.free {
        Some(free) => free_from_wire(free),
        None => Free::all_of(&r.capacity),
    });
    let free: Vec<_> = free.collect();
    let amount = |f: fn(&Capacity) -> Amount| amounts(has.iter().map(|has| f(has).as_f64()));
    let amount_free = |f: fn(&Free) -> Amount| amounts(free.iter().map(|free| f(free).as_f64()));
    vec![
        text(|r| &r.id),
        text(|r| r.role),
        truths(|r| r.roles.tasks),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.url.clone()))),
        text(|r| &r.version),
        number(|r| r.pid),
        number(|r| r.cores),
        count(|r| r.up_ms),
        Arc::new(UInt64Array::from_iter(
            rows.iter().map(|r| r.heartbeat_age_ms),
        )),
        count(|r| r.load.tasks_started),
        count(|r| r.load.streams),
        count(|r| r.load.workers),
        count(|r| r.load.bytes_sent),
        count(|r| r.load.bytes_received),
        truths(|r| r.roles.actors),
        amount(|has| has.cpus),
        amount_free(|free| free.cpus),
        amount(|has| Amount::whole(has.gpu_ids.len())),
        amount_free(Free::gpus_sum),
        texts(has.iter().map(|has| has.gpu_ids.join(","))),
        counts(has.iter().map(|has| has.memory_bytes)),
        counts(free.iter().map(|free| free.memory_bytes)),
        texts(has.iter().map(|has| amounts_text(&has.custom))),
        texts(free.iter().map(|free| amounts_text(&free.custom))),
        texts(has.iter().map(|has| labels_text(&has.labels))),
    ]
}
