//! The rows that user code failed on: `system.errors`.
//!
//! Kept in memory on the process that runs queries, the latest queries first when
//! room is short: a query's rows push out those of older queries, never its own.

use std::collections::{HashMap, VecDeque};
use std::time::SystemTime;

use mobula_proto::cluster::FailedRowsReport;
use parking_lot::Mutex;

/// Queries of which rows, or their number, are remembered.
const QUERIES_MAX: usize = 1000;
/// Bytes of a row besides its texts.
const ROW_BYTES: usize = 128;

/// One failed row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowError {
    pub query_id: String,
    pub at: SystemTime,
    pub executor: String,
    pub function: String,
    pub operator: String,
    pub error_type: String,
    pub message: String,
    pub traceback: String,
    /// A JSON object of all columns that the query read.
    pub row: String,
}

/// The rows of the latest queries.
#[derive(Debug)]
pub struct RowErrors {
    max_bytes: usize,
    queries: Mutex<VecDeque<QueryErrors>>,
}

#[derive(Debug, Default)]
struct QueryErrors {
    query_id: String,
    rows: Vec<RowError>,
    bytes: usize,
    /// Rows that failed, listed or not, by function.
    totals: HashMap<String, u64>,
}

/// The rows of one query need more room than there is for all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "those of this query need more than {max_bytes} bytes. Mend the function, use on_error => 'drop', or start with a higher `udf_errors_max_bytes`"
)]
pub struct Full {
    max_bytes: usize,
}

impl RowErrors {
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            queries: Mutex::default(),
        }
    }

    /// Adds what `report` lists; how many rows its function has failed on in its
    /// query so far.
    ///
    /// # Errors
    /// [`Full`]; then none of the report's rows is listed.
    pub fn add(&self, report: FailedRowsReport) -> Result<u64, Full> {
        let mut queries = self.queries.lock();
        let at = queries.iter().position(|q| q.query_id == report.query_id);
        let mut query = at.and_then(|at| queries.remove(at)).unwrap_or_default();
        query.query_id.clone_from(&report.query_id);
        let total = query.totals.entry(report.function.clone()).or_default();
        *total += report.count;
        let total = *total;
        let rows = rows_of(report);
        let bytes: usize = rows.iter().map(bytes_of).sum();
        let fits = query.bytes + bytes <= self.max_bytes;
        if fits {
            query.rows.extend(rows);
            query.bytes += bytes;
        }
        queries.push_back(query);
        while queries.len() > QUERIES_MAX
            || queries.iter().map(|q| q.bytes).sum::<usize>() > self.max_bytes
        {
            queries.pop_front();
        }
        match fits {
            true => Ok(total),
            false => Err(Full {
                max_bytes: self.max_bytes,
            }),
        }
    }

    /// All rows, in the order they came within a query.
    pub fn list(&self) -> Vec<RowError> {
        let queries = self.queries.lock();
        queries.iter().flat_map(|q| q.rows.clone()).collect()
    }
}

fn rows_of(report: FailedRowsReport) -> Vec<RowError> {
    let FailedRowsReport {
        query_id,
        executor,
        function,
        operator,
        rows,
        ..
    } = report;
    let at = SystemTime::now();
    let rows = rows.into_iter().map(|row| RowError {
        query_id: query_id.clone(),
        at,
        executor: executor.clone(),
        function: function.clone(),
        operator: operator.clone(),
        error_type: row.error_type,
        message: row.message,
        traceback: row.traceback,
        row: row.row,
    });
    rows.collect()
}

fn bytes_of(row: &RowError) -> usize {
    let texts = [
        &row.query_id,
        &row.executor,
        &row.function,
        &row.operator,
        &row.error_type,
        &row.message,
        &row.traceback,
        &row.row,
    ];
    ROW_BYTES + texts.iter().map(|text| text.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mobula_proto::cluster::ListedRow;

    fn report(query_id: &str, rows: usize, text_bytes: usize) -> FailedRowsReport {
        let row = ListedRow {
            row: "x".repeat(text_bytes),
            ..ListedRow::default()
        };
        FailedRowsReport {
            query_id: query_id.into(),
            function: "f".into(),
            count: rows as u64,
            rows: vec![row; rows],
            ..FailedRowsReport::default()
        }
    }

    fn queries(errors: &RowErrors) -> Vec<String> {
        let mut ids: Vec<_> = errors.list().into_iter().map(|row| row.query_id).collect();
        ids.dedup();
        ids
    }

    #[test]
    fn totals_are_a_querys_and_a_functions() {
        let errors = RowErrors::new(1 << 20);
        assert_eq!(errors.add(report("a", 2, 10)), Ok(2));
        assert_eq!(errors.add(report("b", 1, 10)), Ok(1));
        let mut unlisted = report("a", 0, 0);
        unlisted.count = 5;
        assert_eq!(errors.add(unlisted), Ok(7));
        let mut other = report("a", 1, 10);
        other.function = "g".into();
        assert_eq!(errors.add(other), Ok(1));
        assert_eq!(errors.list().len(), 4);
    }

    #[test]
    fn a_query_pushes_out_older_ones_and_not_its_own_rows() {
        let errors = RowErrors::new(4000);
        errors.add(report("a", 1, 1000)).unwrap();
        errors.add(report("b", 1, 1000)).unwrap();
        errors.add(report("a", 1, 1000)).unwrap();
        assert_eq!(queries(&errors), ["b", "a"]);
        errors.add(report("a", 1, 1000)).unwrap();
        assert_eq!(queries(&errors), ["a"]);
        let full = errors.add(report("a", 1, 1000)).unwrap_err();
        assert!(
            full.to_string().contains("`udf_errors_max_bytes`"),
            "{full}"
        );
        assert_eq!(errors.list().len(), 3);
        for query in 0..QUERIES_MAX {
            errors.add(report(&query.to_string(), 0, 0)).unwrap();
        }
        assert_eq!(queries(&errors), [""; 0]);
    }
}
