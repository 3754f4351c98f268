//! `system.tasks`: tasks, of the coordinator and of its executors; see `executor/tasks`.

use std::fmt::Write;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use mobula_proto::report::{ReportRequest, TaskReport};

use super::columns::{counts, texts, times, times_if_any};
use super::{Rows, TIME, Table};
use crate::coordinator::reports::ExecutorReport;

pub const TABLE: Table = Table {
    name: "tasks",
    columns: &[
        ("query_id", DataType::Utf8),
        ("stage", DataType::UInt64),
        ("task", DataType::UInt64),
        ("tasks", DataType::UInt64),
        ("executor_id", DataType::Utf8),
        ("state", DataType::Utf8),
        ("plan_arrived", TIME),
        ("started", TIME),
        ("first_input", TIME),
        ("finished", TIME),
        ("rows_out", DataType::UInt64),
        ("bytes_out", DataType::UInt64),
        ("local_bytes", DataType::UInt64),
        ("remote_bytes", DataType::UInt64),
        ("inputs", DataType::Utf8),
    ],
    rows: Rows::Everywhere {
        request: ReportRequest {
            operators: false,
            workers: false,
            actors: false,
            tasks: true,
        },
        columns: tasks,
    },
};

fn tasks(reports: &[ExecutorReport]) -> Vec<ArrayRef> {
    let rows = reports.iter().flat_map(|told| {
        let tasks = told.report.tasks.iter();
        tasks.map(|task| (told.executor_id.as_str(), task))
    });
    let rows: Vec<_> = rows.collect();
    let text = |f: fn(&TaskReport) -> &str| texts(rows.iter().map(|(_, t)| f(t)));
    let count = |f: fn(&TaskReport) -> u64| counts(rows.iter().map(|(_, t)| f(t)));
    let time = |f: fn(&TaskReport) -> Option<i64>| times_if_any(rows.iter().map(|(_, t)| f(t)));
    vec![
        text(|t| &t.query_id),
        count(|t| t.stage_id),
        count(|t| t.task_idx),
        count(|t| t.n_tasks),
        texts(rows.iter().map(|(executor_id, _)| executor_id)),
        text(|t| &t.state),
        times(rows.iter().map(|(_, t)| t.plan_arrived_ms)),
        time(|t| t.started_ms),
        time(|t| t.first_input_ms),
        time(|t| t.finished_ms),
        count(|t| t.rows_out),
        count(|t| t.bytes_out),
        count(|t| input_bytes(t, true)),
        count(|t| input_bytes(t, false)),
        texts(rows.iter().map(|(_, t)| inputs(t))),
    ]
}

fn input_bytes(task: &TaskReport, is_local: bool) -> u64 {
    let inputs = task.inputs.iter().filter(|i| i.is_local == is_local);
    inputs.map(|i| i.bytes).sum()
}

/// One line: what came from where.
fn inputs(task: &TaskReport) -> String {
    let mut text = String::new();
    for input in &task.inputs {
        let gap = if text.is_empty() { "" } else { "; " };
        let way = if input.is_local { "local" } else { "remote" };
        let (stage, url, bytes) = (input.stage_id, &input.url, input.bytes);
        // Writing to a String cannot fail.
        let _ = write!(text, "{gap}stage {stage} at {url}: {bytes} bytes {way}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use mobula_proto::report::TaskInputReport;

    #[test]
    fn inputs_are_told_and_summed_by_way() {
        let input = |stage_id, url: &str, is_local, bytes| TaskInputReport {
            stage_id,
            url: url.into(),
            is_local,
            bytes,
        };
        let task = TaskReport {
            inputs: vec![
                input(1, "http://a:1/", true, 5),
                input(2, "http://b:1/", false, 7),
                input(3, "http://b:1/", false, 9),
            ],
            ..TaskReport::default()
        };
        assert_eq!(
            (input_bytes(&task, true), input_bytes(&task, false)),
            (5, 16)
        );
        assert_eq!(
            inputs(&task),
            "stage 1 at http://a:1/: 5 bytes local; stage 2 at http://b:1/: 7 bytes remote; \
             stage 3 at http://b:1/: 9 bytes remote"
        );
    }
}
