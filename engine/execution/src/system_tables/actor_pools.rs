//! `system.actor_pools`: the pools that follow their load, how large they are, and what they
//! last did: named ones, and those of running queries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::array::{ArrayRef, StringArray, UInt64Array};
use arrow::datatypes::DataType;

use super::columns::{counts, texts, times_if_any};
use super::{Rows, TIME, Table};
use crate::engine::Engine;
use crate::pool::named::PoolInfo;
use crate::pool::query_scaling::QueryPool;

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
        ("query_id", DataType::Utf8),
        ("failed", DataType::UInt64),
    ],
    rows: Rows::Here(pools),
};

/// A row.
struct Pool {
    name: String,
    class: String,
    bounds: [usize; 2],
    executors: Vec<String>,
    asks_for: String,
    starting: usize,
    /// `None`: its host does not tell.
    failed: Option<usize>,
    queue: usize,
    idle_ttl: Duration,
    last_change: Option<(SystemTime, String)>,
    query_id: Option<String>,
}

impl From<PoolInfo> for Pool {
    fn from(pool: PoolInfo) -> Self {
        Self {
            name: pool.spec.name.clone(),
            class: pool.spec.class.name.clone(),
            bounds: [pool.bounds.min, pool.bounds.max],
            executors: pool.executors,
            asks_for: pool.spec.demand.to_string(),
            starting: pool.starting,
            failed: Some(pool.failed),
            queue: pool.queue,
            idle_ttl: pool.idle_ttl,
            last_change: pool.last_change,
            query_id: None,
        }
    }
}

impl From<QueryPool> for Pool {
    fn from(pool: QueryPool) -> Self {
        Self {
            name: pool.function.clone(),
            class: pool.function,
            bounds: [pool.min, pool.max],
            executors: pool.executors,
            asks_for: pool.demand.to_string(),
            starting: pool.starting,
            failed: None,
            queue: pool.queue,
            idle_ttl: pool.idle_ttl,
            last_change: pool.last_change,
            query_id: Some(pool.query_id),
        }
    }
}

fn pools(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let named = engine.actors().pools().into_iter().map(Pool::from);
    let of_queries = engine.query_pools().into_iter().map(Pool::from);
    let pools: Vec<_> = named.chain(of_queries).collect();
    let count = |of: fn(&Pool) -> usize| counts(pools.iter().map(|pool| of(pool) as u64));
    let executors = pools.iter().map(|pool| {
        let ids: BTreeSet<_> = pool.executors.iter().map(String::as_str).collect();
        ids.into_iter().collect::<Vec<_>>().join(", ")
    });
    let ttl = |pool: &Pool| u64::try_from(pool.idle_ttl.as_millis()).unwrap_or(u64::MAX);
    let last = || pools.iter().map(|pool| pool.last_change.as_ref());
    vec![
        texts(pools.iter().map(|pool| &pool.name)),
        texts(pools.iter().map(|pool| &pool.class)),
        count(|pool| pool.bounds[0]),
        count(|pool| pool.bounds[1]),
        count(|pool| pool.executors.len()),
        texts(executors),
        texts(pools.iter().map(|pool| &pool.asks_for)),
        count(|pool| pool.starting),
        count(|pool| pool.queue),
        counts(pools.iter().map(ttl)),
        Arc::new(StringArray::from_iter(
            last().map(|change| change.map(|(_, what)| what)),
        )),
        times_if_any(last().map(|change| change.map(|(at, _)| millis(*at)))),
        Arc::new(StringArray::from_iter(
            pools.iter().map(|pool| pool.query_id.as_ref()),
        )),
        Arc::new(UInt64Array::from_iter(
            pools.iter().map(|pool| pool.failed.map(|n| n as u64)),
        )),
    ]
}

fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_millis() as i64
}
