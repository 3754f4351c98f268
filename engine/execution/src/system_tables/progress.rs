//! `system.progress`: how far the queries are that run here, and what limits each.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::DataType;
use datafusion::execution::memory_pool::human_readable_size;
use mobula_proto::report::ReportRequest;

use super::columns::{counts, texts};
use super::queries::{InLine, in_line};
use super::{Rows, Table};
use crate::coordinator::queries::{Query, Stage};
use crate::coordinator::reports::ExecutorReport;
use crate::engine::Engine;

pub const TABLE: Table = Table {
    name: "progress",
    columns: &[
        ("query_id", DataType::Utf8),
        ("sql", DataType::Utf8),
        ("elapsed_ms", DataType::UInt64),
        ("waits_for", DataType::Utf8),
        ("function", DataType::Utf8),
        ("workers", DataType::UInt64),
        ("rows", DataType::UInt64),
        ("bytes", DataType::UInt64),
        ("tasks", DataType::UInt64),
        ("tasks_finished", DataType::UInt64),
        ("limited_by", DataType::Utf8),
        ("message", DataType::Utf8),
    ],
    rows: Rows::OfQueries {
        request: ReportRequest {
            operators: true,
            workers: false,
            actors: false,
            tasks: true,
        },
        columns: progress,
    },
};

fn progress(engine: &Arc<Engine>, reports: &[ExecutorReport]) -> Vec<ArrayRef> {
    let now = Instant::now();
    let rows = in_line(engine).into_iter();
    let rows: Vec<_> = rows
        .map(|found| Progress::of(found, now, reports))
        .collect();
    let count = |f: fn(&Progress) -> u64| counts(rows.iter().map(f));
    let text = |f: fn(&Progress) -> Option<&str>| -> ArrayRef {
        Arc::new(StringArray::from_iter(rows.iter().map(f)))
    };
    vec![
        text(|p| Some(&p.query.query_id)),
        text(|p| Some(&p.query.sql)),
        count(|p| p.elapsed.as_millis() as u64),
        text(|p| p.waits_for.as_deref()),
        text(|p| p.call.as_ref().map(|call| call.function.as_str())),
        count(|p| p.call.as_ref().map_or(0, |call| call.workers)),
        count(Progress::rows),
        count(Progress::bytes),
        count(|p| p.tasks),
        count(|p| p.finished),
        text(|p| p.call.as_ref()?.limited_by()),
        texts(rows.iter().map(Progress::message)),
    ]
}

/// How far one query is.
struct Progress {
    query: Query,
    waits_for: Option<String>,
    ahead: Option<usize>,
    elapsed: Duration,
    /// Of the functions that it calls, the one that others wait for most.
    call: Option<Call>,
    /// What came out of its tasks.
    rows: u64,
    bytes: u64,
    tasks: u64,
    finished: u64,
}

/// One function of a query, over all tasks.
#[derive(Debug, Default)]
struct Call {
    function: String,
    /// What has gone in.
    rows: u64,
    bytes: u64,
    workers: u64,
    input_ms: u64,
    workers_ms: u64,
    downstream_ms: u64,
}

impl Progress {
    fn of(found: InLine, now: Instant, reports: &[ExecutorReport]) -> Self {
        let query = found.query;
        let mut progress = Self {
            elapsed: now.saturating_duration_since(query.since),
            call: Call::slowest(&query.query_id, reports),
            waits_for: found.waits_for,
            ahead: found.ahead,
            rows: 0,
            bytes: 0,
            tasks: 0,
            finished: 0,
            query,
        };
        let tasks = reports.iter().flat_map(|told| &told.report.tasks);
        for task in tasks.filter(|task| task.query_id == progress.query.query_id) {
            progress.tasks += 1;
            progress.finished += u64::from(task.finished_ms.is_some());
            progress.rows += task.rows_out;
            progress.bytes += task.bytes_out;
        }
        progress
    }

    /// Into its function, or else out of its tasks.
    fn rows(&self) -> u64 {
        self.call.as_ref().map_or(self.rows, |call| call.rows)
    }

    fn bytes(&self) -> u64 {
        self.call.as_ref().map_or(self.bytes, |call| call.bytes)
    }

    /// One line about it.
    fn message(&self) -> String {
        let seconds = self.elapsed.as_secs();
        let waits = self.waits_for.as_ref().map(|what| match self.ahead {
            None | Some(0) => format!("waits for {what}"),
            Some(ahead) => format!("waits for {what}, {ahead} ahead"),
        });
        match (waits, &self.query.stage) {
            (Some(waits), Stage::Running) => format!("{seconds} s: {}; {waits}", self.work()),
            (Some(waits), _) => format!("{seconds} s: {waits}"),
            (None, _) => format!("{seconds} s: {}", self.work()),
        }
    }

    /// What it has done.
    fn work(&self) -> String {
        let (rows, bytes) = (grouped(self.rows()), size(self.bytes()));
        match &self.call {
            Some(call) => {
                let (function, limit) = (&call.function, call.limit());
                format!("{rows} rows, {bytes} into {function}; {limit}")
            }
            None if self.tasks > 1 => {
                let (finished, tasks) = (self.finished, self.tasks);
                format!("{finished} of {tasks} tasks through, {rows} rows, {bytes} out of them")
            }
            None => format!("{rows} rows, {bytes}"),
        }
    }
}

impl Call {
    /// Of a query's, the one that others wait for most.
    fn slowest(query_id: &str, reports: &[ExecutorReport]) -> Option<Self> {
        let mut calls = BTreeMap::<&str, Self>::new();
        let operators = reports.iter().flat_map(|told| &told.report.operators);
        for operator in operators.filter(|operator| operator.query_id == query_id) {
            let call = calls.entry(&operator.function).or_default();
            call.rows += operator.rows_in;
            call.bytes += operator.bytes_in;
            call.workers += operator.workers_at_once;
            call.input_ms += operator.wait_input_ms;
            call.workers_ms += operator.wait_workers_ms;
            call.downstream_ms += operator.wait_downstream_ms;
        }
        let slowest = calls.into_iter().max_by_key(|(_, call)| call.workers_ms);
        slowest.map(|(function, call)| Self {
            function: function.to_owned(),
            ..call
        })
    }

    /// What it waits for most.
    fn limited_by(&self) -> Option<&'static str> {
        let most = self.input_ms.max(self.workers_ms).max(self.downstream_ms);
        match most {
            0 => None,
            most if most == self.workers_ms => Some("function"),
            most if most == self.input_ms => Some("input"),
            _ => Some("downstream"),
        }
    }

    fn limit(&self) -> String {
        let (function, workers) = (&self.function, self.workers);
        match self.limited_by() {
            None => format!("{function} has not begun"),
            Some("function") => format!("limited by {function} ({workers} at work)"),
            Some("input") => "limited by what it reads".to_owned(),
            Some(_) => "limited by what comes after it".to_owned(),
        }
    }
}

fn size(bytes: u64) -> String {
    human_readable_size(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// `12,345,678`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{digit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::queries::Queries;

    fn progress(call: Option<Call>) -> Progress {
        let queries = Arc::new(Queries::default());
        let _listed = queries.list("q", "SELECT 1");
        Progress {
            query: queries.all().remove(0),
            waits_for: None,
            ahead: None,
            elapsed: Duration::from_millis(7_900),
            call,
            rows: 0,
            bytes: 0,
            tasks: 0,
            finished: 0,
        }
    }

    #[test]
    fn the_message_says_what_limits() {
        let call = |input_ms, workers_ms, downstream_ms| Call {
            function: "embed".to_owned(),
            rows: 1_234_567,
            bytes: 3 << 20,
            workers: 4,
            input_ms,
            workers_ms,
            downstream_ms,
        };
        let text = |input, workers, after| progress(Some(call(input, workers, after))).message();
        assert_eq!(
            text(1, 5, 2),
            "7 s: 1,234,567 rows, 3.0 MB into embed; limited by embed (4 at work)"
        );
        assert!(text(5, 1, 2).ends_with("limited by what it reads"));
        assert!(text(1, 2, 5).ends_with("limited by what comes after it"));
        assert!(text(0, 0, 0).ends_with("embed has not begun"));
        let mut tasks = progress(None);
        (tasks.tasks, tasks.finished, tasks.rows) = (8, 3, 7);
        assert_eq!(
            tasks.message(),
            "7 s: 3 of 8 tasks through, 7 rows, 0.0 B out of them"
        );
        let mut waits = progress(Some(call(1, 1, 1)));
        waits.waits_for = Some("num_gpus=1".to_owned());
        waits.ahead = Some(2);
        assert_eq!(waits.message(), "7 s: waits for num_gpus=1, 2 ahead");
        waits.query.stage = Stage::Running;
        let message = waits.message();
        assert!(message.starts_with("7 s: 1,234,567 rows"), "{message}");
        assert!(
            message.ends_with("; waits for num_gpus=1, 2 ahead"),
            "{message}"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        let found = [0, 12, 999, 1000, 123_456, 1_234_567].map(grouped);
        assert_eq!(found, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
    }
}
