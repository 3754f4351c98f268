//! `system.workers`: the worker processes of the coordinator and of its executors.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use mobula_proto::report::{ReportRequest, WorkerReport};

use super::columns::{counts, numbers, texts};
use super::{Rows, Table};
use crate::coordinator::reports::ExecutorReport;

pub const TABLE: Table = Table {
    name: "workers",
    columns: &[
        ("executor_id", DataType::Utf8),
        ("pid", DataType::UInt32),
        ("function", DataType::Utf8),
        ("state", DataType::Utf8),
        ("age_ms", DataType::UInt64),
        ("gpu_ids", DataType::Utf8),
    ],
    rows: Rows::Everywhere {
        request: ReportRequest {
            operators: false,
            workers: true,
            actors: false,
            tasks: false,
        },
        columns: workers,
    },
};

fn workers(reports: &[ExecutorReport]) -> Vec<ArrayRef> {
    let rows = reports.iter().flat_map(|told| {
        let workers = told.report.workers.iter();
        workers.map(|worker| (told.executor_id.as_str(), worker))
    });
    let rows: Vec<_> = rows.collect();
    let text = |f: fn(&WorkerReport) -> &str| texts(rows.iter().map(|(_, w)| f(w)));
    vec![
        texts(rows.iter().map(|(executor_id, _)| executor_id)),
        numbers(rows.iter().map(|(_, w)| w.pid)),
        text(|w| &w.function),
        text(|w| &w.state),
        counts(rows.iter().map(|(_, w)| w.age_ms)),
        text(|w| &w.gpu_ids),
    ]
}
