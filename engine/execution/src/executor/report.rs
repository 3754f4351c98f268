//! What this process tells of itself when the coordinator asks: `mobula.report`.
//!
//! The coordinator reads its own part without the wire, and so does an embedded
//! engine; see `coordinator/reports`.

use std::sync::Arc;

use mobula_proto::report::{ActorReport, Report, ReportRequest, WorkerReport};
use mobula_udfs::{ActorHost, ActorInfo, WorkerManager};
use prost::Message;
use tonic::Status;

use super::operators::OperatorRuns;
use super::tasks::TaskRuns;

/// Rows of one message, in bytes; a single row may be longer.
const MESSAGE_BYTES: usize = 1 << 20;

/// Looks at operators, workers and tasks.
#[derive(Debug, Clone)]
pub struct Reporter {
    pub operators: Arc<OperatorRuns>,
    pub tasks: Arc<TaskRuns>,
    pub workers: Arc<WorkerManager>,
    pub actors: Arc<ActorHost>,
}

impl Reporter {
    /// What `request` asks for, as it is now.
    pub fn report(&self, request: ReportRequest) -> Report {
        let workers = match request.workers {
            true => self.workers.workers(),
            false => vec![],
        };
        let workers = workers.into_iter().map(|worker| WorkerReport {
            pid: worker.pid,
            function: worker.function,
            state: worker.state.to_string(),
            age_ms: worker.since.elapsed().as_millis() as u64,
            gpu_ids: worker.gpu_ids.join(","),
        });
        Report {
            operators: match request.operators {
                true => self.operators.list(),
                false => vec![],
            },
            workers: workers.collect(),
            actors: match request.actors {
                true => self.actors.list().into_iter().map(actor_report).collect(),
                false => vec![],
            },
            tasks: match request.tasks {
                true => self.tasks.list(),
                false => vec![],
            },
        }
    }

    /// The encoded answer to an encoded request, in messages that are not too long.
    ///
    /// # Errors
    /// A malformed body.
    pub fn answer(&self, body: &[u8]) -> Result<Vec<Vec<u8>>, Status> {
        let request = ReportRequest::decode(body)
            .map_err(|e| Status::invalid_argument(format!("malformed action body: {e}")))?;
        let parts = parts(self.report(request), MESSAGE_BYTES);
        Ok(parts.iter().map(Report::encode_to_vec).collect())
    }
}

/// As it is told of an actor.
pub fn actor_report(info: ActorInfo) -> ActorReport {
    ActorReport {
        name: info.name,
        is_pooled: info.is_pooled,
        member: info.member,
        class: info.class,
        state: info.state.to_string(),
        pid: info.pid,
        queue: info.queue as u64,
        calls: info.calls,
        busy_share: info.busy_share,
        restarts: info.restarts,
        memory_bytes: info.memory_bytes,
        age_ms: info.age.as_millis() as u64,
        last_error: info.last_error,
    }
}

/// `report` in parts with rows of about `max_bytes`; at least one part.
fn parts(report: Report, max_bytes: usize) -> Vec<Report> {
    let mut parts = Parts {
        max_bytes,
        full: vec![],
        open: Report::default(),
        bytes: 0,
    };
    for row in report.operators {
        parts.part_for(row.encoded_len()).operators.push(row);
    }
    for row in report.workers {
        parts.part_for(row.encoded_len()).workers.push(row);
    }
    for row in report.actors {
        parts.part_for(row.encoded_len()).actors.push(row);
    }
    for row in report.tasks {
        parts.part_for(row.encoded_len()).tasks.push(row);
    }
    parts.full.push(parts.open);
    parts.full
}

struct Parts {
    max_bytes: usize,
    full: Vec<Report>,
    open: Report,
    bytes: usize,
}

impl Parts {
    /// The part that takes a row of so many bytes.
    fn part_for(&mut self, bytes: usize) -> &mut Report {
        if self.bytes > 0 && self.bytes + bytes > self.max_bytes {
            self.full.push(std::mem::take(&mut self.open));
            self.bytes = 0;
        }
        self.bytes += bytes;
        &mut self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mobula_proto::report::{OperatorReport, TaskReport};

    #[test]
    fn a_long_report_goes_in_parts_and_loses_nothing() {
        let row = |calls| OperatorReport {
            calls,
            function: "f".repeat(50),
            ..OperatorReport::default()
        };
        let worker = WorkerReport {
            pid: 7,
            ..WorkerReport::default()
        };
        let task = TaskReport {
            task_idx: 7,
            ..TaskReport::default()
        };
        let report = Report {
            operators: (1..=10).map(row).collect(),
            workers: vec![worker; 3],
            actors: vec![],
            tasks: vec![task; 2],
        };
        let cut = parts(report.clone(), 200);
        assert_eq!(cut.len(), 4);
        assert!(cut.iter().all(|part| part.encoded_len() < 250));
        let mut whole = Report::default();
        for part in cut {
            whole.operators.extend(part.operators);
            whole.workers.extend(part.workers);
            whole.tasks.extend(part.tasks);
        }
        assert_eq!(whole, report);
        // A row that is longer goes alone, and nothing is a part too.
        assert_eq!(parts(report, 1).len(), 10 + 3 + 2);
        assert_eq!(parts(Report::default(), 1), [Report::default()]);
    }
}
