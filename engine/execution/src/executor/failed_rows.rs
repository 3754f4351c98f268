//! Where this process's tasks tell of failed rows: here, or at the coordinator.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mobula_plan::FailedRows;
use mobula_proto::cluster::{ACTION_FAILED_ROWS, FailedRowsReply, FailedRowsReport, ListedRow};
use mobula_udfs::UdfError;
use prost::Message;
use url::Url;

use crate::exchange::action::act;
use crate::exchange::channels::ChannelPool;
use crate::row_errors::RowErrors;

/// Texts of one message, in bytes; a single row may be longer.
const MESSAGE_BYTES: usize = 1 << 20;
/// The coordinator only writes them down.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes failed rows to where they are listed.
#[derive(Debug)]
pub struct FailedRowsLine {
    executor_id: String,
    here: Arc<RowErrors>,
    channels: ChannelPool,
    coordinator: OnceLock<Url>,
}

impl FailedRowsLine {
    /// A line to this process's own list.
    pub fn new(executor_id: &str, here: Arc<RowErrors>, channels: ChannelPool) -> Self {
        Self {
            executor_id: executor_id.to_owned(),
            here,
            channels,
            coordinator: OnceLock::new(),
        }
    }

    /// From now on a line to the list of the coordinator at `url`.
    pub fn lead_to(&self, url: Url) {
        // An executor has one coordinator for life.
        let _ = self.coordinator.set(url);
    }

    /// Lists `failed` as rows of query `query_id`; see
    /// [`mobula_plan::TaskHost::report_failed_rows`].
    ///
    /// # Errors
    /// [`UdfError::DeadLetter`].
    pub async fn report(&self, query_id: String, failed: FailedRows) -> Result<u64, UdfError> {
        let function = failed.function.clone();
        let unlisted = |problem: String| UdfError::DeadLetter { function, problem };
        let mut total = 0;
        for report in self.messages(query_id, failed) {
            let listed = match self.coordinator.get() {
                None => self.here.add(report).map_err(|full| full.to_string()),
                Some(url) => self.send(url, report).await,
            };
            match listed {
                Ok(so_far) => total = so_far,
                Err(problem) => return Err(unlisted(problem)),
            }
        }
        Ok(total)
    }

    /// The rows in messages that are not too long; the first has the count.
    fn messages(&self, query_id: String, failed: FailedRows) -> Vec<FailedRowsReport> {
        let empty = |count: u64| FailedRowsReport {
            query_id: query_id.clone(),
            executor: self.executor_id.clone(),
            function: failed.function.clone(),
            operator: failed.operator.to_owned(),
            count,
            rows: vec![],
        };
        let mut message = empty(failed.count);
        let (mut messages, mut bytes) = (vec![], 0);
        for row in failed.rows {
            let row = ListedRow {
                row: row.row,
                error_type: row.error_type,
                message: row.message,
                traceback: row.traceback,
            };
            let length = row.encoded_len();
            if bytes > 0 && bytes + length > MESSAGE_BYTES {
                messages.push(std::mem::replace(&mut message, empty(0)));
                bytes = 0;
            }
            bytes += length;
            message.rows.push(row);
        }
        messages.push(message);
        messages
    }

    async fn send(&self, url: &Url, report: FailedRowsReport) -> Result<u64, String> {
        let body = report.encode_to_vec();
        let answer = act(&self.channels, url, ACTION_FAILED_ROWS, body, CALL_TIMEOUT).await;
        let body = answer.map_err(|status| status.message().to_owned())?;
        let reply = FailedRowsReply::decode(body.as_slice());
        let reply = reply.map_err(|e| format!("malformed answer: {e}"))?;
        Ok(reply.total)
    }
}
