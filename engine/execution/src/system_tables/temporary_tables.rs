//! `system.temporary_tables`: those made by a query, a row for each process that has some of their
//! rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::columns::{counts, texts};
use super::{Rows, Table};
use crate::engine::Engine;

pub const TABLE: Table = Table {
    name: "temporary_tables",
    columns: &[
        ("name", DataType::Utf8),
        ("executor_id", DataType::Utf8),
        ("parts", DataType::UInt64),
        ("rows", DataType::UInt64),
        ("bytes", DataType::UInt64),
        ("spilled_bytes", DataType::UInt64),
        ("state", DataType::Utf8),
    ],
    rows: Rows::Here(temporary_tables),
};

/// What a process has of a table.
#[derive(Default)]
struct Share {
    parts: u64,
    rows: u64,
    bytes: u64,
    spilled_bytes: u64,
}

fn temporary_tables(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let mut rows = vec![];
    for table in engine.kept_tables().all() {
        let mut shares = BTreeMap::<String, Share>::new();
        for part in table.parts() {
            let share = shares.entry(part.executor_id).or_default();
            share.parts += 1;
            share.rows += part.rows;
            share.bytes += part.bytes;
            share.spilled_bytes += part.spilled_bytes;
        }
        let shares = shares.into_iter();
        rows.extend(shares.map(|(executor, share)| (table.name.clone(), executor, share)));
    }
    let shares = || rows.iter().map(|(_, _, share)| share);
    vec![
        texts(rows.iter().map(|(name, ..)| name)),
        texts(rows.iter().map(|(_, executor, _)| executor)),
        counts(shares().map(|share| share.parts)),
        counts(shares().map(|share| share.rows)),
        counts(shares().map(|share| share.bytes)),
        counts(shares().map(|share| share.spilled_bytes)),
        texts(
            rows.iter()
                .map(|(_, executor, _)| match engine.url_of(executor) {
                    Some(_) => "there",
                    None => "lost",
                }),
        ),
    ]
}
