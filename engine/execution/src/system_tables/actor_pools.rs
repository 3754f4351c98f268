//! `system.actor_pools`: the named pools.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::columns::{counts, texts};
use super::{Rows, Table};
use crate::engine::Engine;

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
    ],
    rows: Rows::Here(pools),
};

fn pools(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let pools = engine.actors().pools();
    let bounds = || pools.iter().filter_map(|pool| pool.spec.pool);
    let executors = pools.iter().map(|pool| {
        let ids = pool.hosts.iter().map(|host| host.executor_id.as_str());
        let ids: BTreeSet<_> = ids.collect();
        ids.into_iter().collect::<Vec<_>>().join(", ")
    });
    vec![
        texts(pools.iter().map(|pool| &pool.spec.name)),
        texts(pools.iter().map(|pool| &pool.spec.class.name)),
        counts(bounds().map(|bounds| bounds.min as u64)),
        counts(bounds().map(|bounds| bounds.max as u64)),
        counts(pools.iter().map(|pool| pool.hosts.len() as u64)),
        texts(executors),
        texts(pools.iter().map(|pool| pool.spec.demand.to_string())),
    ]
}
