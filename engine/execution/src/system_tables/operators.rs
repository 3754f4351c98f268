//! `system.operators`: operators that call user code, one row for each task, of the
//! coordinator and of its executors; see `executor/operators`.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use mobula_proto::report::{OperatorReport, ReportRequest};

use super::columns::{counts, texts, times};
use super::{Rows, TIME, Table};
use crate::coordinator::reports::ExecutorReport;

pub const TABLE: Table = Table {
    name: "operators",
    columns: &[
        ("query_id", DataType::Utf8),
        ("executor_id", DataType::Utf8),
        ("operator", DataType::Utf8),
        ("function", DataType::Utf8),
        ("state", DataType::Utf8),
        ("started", TIME),
        ("elapsed_ms", DataType::UInt64),
        ("concurrency", DataType::UInt64),
        ("workers_at_once", DataType::UInt64),
        ("workers_started", DataType::UInt64),
        ("calls", DataType::UInt64),
        ("rows_in", DataType::UInt64),
        ("rows_out", DataType::UInt64),
        ("failed_rows", DataType::UInt64),
        ("bytes_in", DataType::UInt64),
        ("bytes_out", DataType::UInt64),
        ("bytes_shared", DataType::UInt64),
        ("user_ms", DataType::UInt64),
        ("transport_ms", DataType::UInt64),
        ("wait_input_ms", DataType::UInt64),
        ("wait_workers_ms", DataType::UInt64),
        ("wait_downstream_ms", DataType::UInt64),
        ("retries", DataType::UInt64),
    ],
    rows: Rows::Everywhere {
        request: ReportRequest {
            operators: true,
            workers: false,
            actors: false,
            tasks: false,
        },
        columns: operators,
    },
};

fn operators(reports: &[ExecutorReport]) -> Vec<ArrayRef> {
    let rows = reports.iter().flat_map(|told| {
        let operators = told.report.operators.iter();
        operators.map(|operator| (told.executor_id.as_str(), operator))
    });
    let rows: Vec<_> = rows.collect();
    let text = |f: fn(&OperatorReport) -> &str| texts(rows.iter().map(|(_, o)| f(o)));
    let count = |f: fn(&OperatorReport) -> u64| counts(rows.iter().map(|(_, o)| f(o)));
    vec![
        text(|o| &o.query_id),
        texts(rows.iter().map(|(executor_id, _)| executor_id)),
        text(|o| &o.operator),
        text(|o| &o.function),
        text(|o| match o.is_running {
            true => "running",
            false => "ended",
        }),
        times(rows.iter().map(|(_, o)| o.started_ms)),
        count(|o| o.elapsed_ms),
        count(|o| o.concurrency),
        count(|o| o.workers_at_once),
        count(|o| o.workers_started),
        count(|o| o.calls),
        count(|o| o.rows_in),
        count(|o| o.rows_out),
        count(|o| o.failed_rows),
        count(|o| o.bytes_in),
        count(|o| o.bytes_out),
        count(|o| o.bytes_shared),
        count(|o| o.user_ms),
        count(|o| o.transport_ms),
        count(|o| o.wait_input_ms),
        count(|o| o.wait_workers_ms),
        count(|o| o.wait_downstream_ms),
        count(|o| o.retries),
    ]
}
