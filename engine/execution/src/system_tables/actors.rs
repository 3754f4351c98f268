//! `system.actors`: the named actors, and those of named pools, wherever they live.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray, UInt32Array};
use arrow::datatypes::DataType;
use mobula_proto::report::{ActorReport, ReportRequest};
use mobula_udfs::member_key;

use super::columns::{counts, texts};
use super::{Rows, Table};
use crate::coordinator::reports::ExecutorReport;

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
        ("pool", DataType::Utf8),
    ],
    rows: Rows::Everywhere {
        request: ReportRequest {
            operators: false,
            workers: false,
            actors: true,
            tasks: false,
        },
        columns: actors,
    },
};

fn actors(reports: &[ExecutorReport]) -> Vec<ArrayRef> {
    let rows = reports.iter().flat_map(|told| {
        let actors = told.report.actors.iter();
        actors.map(|actor| (told.executor_id.as_str(), actor))
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|(_, actor)| (&actor.name, actor.member));
    let text = |f: fn(&ActorReport) -> String| texts(rows.iter().map(|(_, a)| f(a)));
    let count = |f: fn(&ActorReport) -> u64| counts(rows.iter().map(|(_, a)| f(a)));
    let busy = rows.iter().map(|(_, actor)| actor.busy_share);
    vec![
        // Of a pool each has a name of its own.
        text(|a| match a.is_pooled {
            true => member_key(&a.name, a.member),
            false => a.name.clone(),
        }),
        texts(rows.iter().map(|(executor_id, _)| executor_id)),
        text(|a| a.class.clone()),
        text(|a| a.state.clone()),
        Arc::new(UInt32Array::from_iter(rows.iter().map(|(_, a)| a.pid))),
        count(|a| a.queue),
        count(|a| a.calls),
        Arc::new(Float64Array::from_iter_values(busy)),
        count(|a| a.restarts),
        count(|a| a.memory_bytes),
        count(|a| a.age_ms),
        text(|a| a.last_error.clone()),
        Arc::new(StringArray::from_iter(
            rows.iter().map(|(_, a)| a.is_pooled.then_some(&a.name)),
        )),
    ]
}
