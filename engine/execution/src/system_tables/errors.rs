//! `system.errors`: rows that user code failed on, see `row_errors`.

use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::columns::{texts, times};
use super::{Rows, TIME, Table};
use crate::engine::Engine;
use crate::row_errors::RowError;

pub const TABLE: Table = Table {
    name: "errors",
    columns: &[
        ("query_id", DataType::Utf8),
        ("at", TIME),
        ("executor_id", DataType::Utf8),
        ("function", DataType::Utf8),
        ("operator", DataType::Utf8),
        ("error_type", DataType::Utf8),
        ("message", DataType::Utf8),
        ("traceback", DataType::Utf8),
        ("row", DataType::Utf8),
    ],
    rows: Rows::Here(errors),
};

fn errors(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let rows = engine.process().row_errors().list();
    let text = |f: fn(&RowError) -> &str| texts(rows.iter().map(f));
    let at = rows.iter().map(|row| {
        let since = row.at.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as i64)
    });
    vec![
        text(|r| &r.query_id),
        times(at),
        text(|r| &r.executor),
        text(|r| &r.function),
        text(|r| &r.operator),
        text(|r| &r.error_type),
        text(|r| &r.message),
        text(|r| &r.traceback),
        text(|r| &r.row),
    ]
}
