//! `system.actor_pools`: the named pools, how large they are, and what they last did.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::DataType;

use super::columns::{counts, texts, times_if_any};
use super::{Rows, TIME, Table};
use crate::engine::Engine;
use crate::pool::named::PoolInfo;

pub const TABLE: Table = Table {
    name: "actor_pools",
    columns: &[
        ("name", DataType::Utf8),
        ("class", DataType::Utf8),
        ("min", DataType::UInt64),
        ("max", DataType::UInt64),
        ("actors", DataType::UInt64),
        ("executors", DataType::Utf8),
        ("asks_for", DataType::Utf8),
        ("starting", DataType::UInt64),
        ("queue", DataType::UInt64),
        ("idle_ttl_ms", DataType::UInt64),
        ("last_change", DataType::Utf8),
        ("changed", TIME),
    ],
    rows: Rows::Here(pools),
};

fn pools(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let pools = engine.actors().pools();
    let count = |of: fn(&PoolInfo) -> usize| counts(pools.iter().map(|pool| of(pool) as u64));
    let executors = pools.iter().map(|pool| {
        let ids: BTreeSet<_> = pool.executors.iter().map(String::as_str).collect();
        ids.into_iter().collect::<Vec<_>>().join(", ")
    });
    let ttl = |pool: &PoolInfo| u64::try_from(pool.idle_ttl.as_millis()).unwrap_or(u64::MAX);
    let last = || pools.iter().map(|pool| pool.last_change.as_ref());
    vec![
        texts(pools.iter().map(|pool| &pool.spec.name)),
        texts(pools.iter().map(|pool| &pool.spec.class.name)),
        count(|pool| pool.bounds.min),
        count(|pool| pool.bounds.max),
        count(|pool| pool.executors.len()),
        texts(executors),
        texts(pools.iter().map(|pool| pool.spec.demand.to_string())),
        count(|pool| pool.starting),
        count(|pool| pool.queue),
        counts(pools.iter().map(ttl)),
        Arc::new(StringArray::from_iter(
            last().map(|change| change.map(|(_, what)| what)),
        )),
        times_if_any(last().map(|change| change.map(|(at, _)| millis(*at)))),
    ]
}

fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_millis() as i64
}
