//! `system.actors`: the named actors, which live in this process.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, UInt32Array};
use arrow::datatypes::DataType;
use mobula_udfs::ActorInfo;

use super::columns::{counts, texts};
use super::{Rows, Table};
use crate::engine::Engine;

pub const TABLE: Table = Table {
    name: "actors",
    columns: &[
        ("name", DataType::Utf8),
        ("executor_id", DataType::Utf8),
        ("class", DataType::Utf8),
        ("state", DataType::Utf8),
        ("pid", DataType::UInt32),
        ("queue", DataType::UInt64),
        ("calls", DataType::UInt64),
        ("busy_share", DataType::Float64),
        ("restarts", DataType::UInt64),
        ("memory_bytes", DataType::UInt64),
        ("age_ms", DataType::UInt64),
        ("last_error", DataType::Utf8),
    ],
    rows: Rows::Here(actors),
};

fn actors(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let actors = engine.actors().list();
    let executor_id = engine.process().executor_id();
    let text = |f: fn(&ActorInfo) -> String| texts(actors.iter().map(f));
    let count = |f: fn(&ActorInfo) -> u64| counts(actors.iter().map(f));
    let busy = actors.iter().map(|actor| actor.busy_share);
    vec![
        text(|a| a.name.clone()),
        texts(actors.iter().map(|_| executor_id)),
        text(|a| a.class.clone()),
        text(|a| a.state.to_string()),
        Arc::new(UInt32Array::from_iter(actors.iter().map(|a| a.pid))),
        count(|a| a.queue as u64),
        count(|a| a.calls),
        Arc::new(Float64Array::from_iter_values(busy)),
        count(|a| a.restarts),
        count(|a| a.memory_bytes),
        count(|a| a.age.as_millis() as u64),
        text(|a| a.last_error.clone()),
    ]
}
