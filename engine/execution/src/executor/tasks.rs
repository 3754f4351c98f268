//! The tasks of this process: those at work, and the last ones that have ended.
//!
//! A query's last stage, which runs where its client is served, counts as a task of stage
//! 0: with it, all that tasks read from other processes is what the processes received
//! from each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mobula_proto::report::TaskReport;
use parking_lot::Mutex;

use super::task_run::{TaskId, TaskRun, TaskStart};

/// What `system.tasks` knows of this process.
#[derive(Debug)]
pub struct TaskRuns {
    kept: usize,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    running: BTreeMap<TaskId, Arc<TaskRun>>,
    /// The oldest first.
    ended: VecDeque<TaskReport>,
}

impl TaskRuns {
    /// Keeps the last `kept` that ended.
    pub fn new(kept: usize) -> Arc<Self> {
        Arc::new(Self {
            kept,
            list: Mutex::default(),
        })
    }

    /// Lists a task whose plan has arrived.
    pub fn arrived(self: &Arc<Self>, start: TaskStart) -> Arc<TaskRun> {
        let id = start.id.clone();
        let run = Arc::new(TaskRun::new(start, Arc::downgrade(self)));
        self.list.lock().running.insert(id, Arc::clone(&run));
        run
    }

    /// Lists the last stage of query `query_id`.
    pub fn last_stage(self: &Arc<Self>, query_id: &str) -> Arc<TaskRun> {
        self.arrived(TaskStart {
            id: TaskId::last_stage(query_id),
            query_id: query_id.to_owned(),
            n_tasks: 1,
        })
    }

    /// The task `id`, if it is at work.
    pub fn running(&self, id: &TaskId) -> Option<Arc<TaskRun>> {
        self.list.lock().running.get(id).cloned()
    }

    /// What ends the task `id` for good when it is dropped: the query has ended.
    pub fn close_on_drop(self: &Arc<Self>, id: TaskId) -> CloseOnDrop {
        CloseOnDrop {
            runs: Arc::clone(self),
            id,
        }
    }

    /// Lists `run` as ended.
    pub(super) fn ended(&self, run: &TaskRun) {
        let mut list = self.list.lock();
        if list.running.remove(run.id()).is_none() {
            return;
        }
        list.ended.push_back(run.report());
        let too_many = list.ended.len().saturating_sub(self.kept);
        list.ended.drain(..too_many);
    }

    /// All of them: each once, those that ended first.
    pub fn list(&self) -> Vec<TaskReport> {
        let list = self.list.lock();
        let running = list.running.values().map(|run| run.report());
        list.ended.iter().cloned().chain(running).collect()
    }
}

/// Held for as long as the query of a task runs.
#[derive(Debug)]
pub struct CloseOnDrop {
    runs: Arc<TaskRuns>,
    id: TaskId,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(run) = self.runs.running(&self.id) {
            run.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(task_idx: u64) -> TaskStart {
        TaskStart {
            id: TaskId {
                attempt_id: vec![7; 16],
                stage_id: 3,
                task_idx,
            },
            query_id: "q".into(),
            n_tasks: 9,
        }
    }

    fn found(runs: &TaskRuns) -> Vec<(u64, String)> {
        let list = runs.list().into_iter();
        list.map(|task| (task.task_idx, task.state)).collect()
    }

    #[test]
    fn of_those_that_ended_the_last_are_kept() {
        for kept in [0, 2] {
            let runs = TaskRuns::new(kept);
            let _at_work = runs.arrived(start(9));
            for task_idx in 1..=5 {
                let run = runs.arrived(start(task_idx));
                let close = runs.close_on_drop(run.id().clone());
                assert!(runs.running(run.id()).is_some());
                drop(close);
                assert!(runs.running(run.id()).is_none());
            }
            let state = |task_idx: u64, state: &str| (task_idx, state.to_owned());
            let expected = match kept {
                0 => vec![state(9, "running")],
                _ => vec![
                    state(4, "dropped"),
                    state(5, "dropped"),
                    state(9, "running"),
                ],
            };
            assert_eq!(found(&runs), expected);
        }
    }

    #[test]
    fn one_that_fails_before_its_first_output_is_listed_as_failed() {
        let runs = TaskRuns::new(10);
        let run = runs.arrived(start(0));
        run.failed();
        assert_eq!(found(&runs), [(0, "running".to_owned())]);
        run.close();
        assert_eq!(found(&runs), [(0, "failed".to_owned())]);
    }

    #[test]
    fn input_is_added_up_by_stage_and_process() {
        let runs = TaskRuns::new(10);
        let run = runs.arrived(start(0));
        let here = "http://here:1".parse().unwrap();
        let there = "http://there:1".parse().unwrap();
        run.input(1, &here, true).bytes_came(5);
        run.input(1, &here, true).bytes_came(6);
        let meter = run.input(2, &there, false);
        assert_eq!(runs.list()[0].first_input_ms, None);
        meter.bytes_came(7);
        meter.block_came();
        let report = runs.list().remove(0);
        assert!(report.first_input_ms >= Some(report.plan_arrived_ms));
        let inputs = report.inputs.into_iter();
        let inputs: Vec<_> = inputs
            .map(|i| (i.stage_id, i.url, i.is_local, i.bytes))
            .collect();
        let expected = [
            (1, "http://here:1/".to_owned(), true, 11),
            (2, "http://there:1/".to_owned(), false, 7),
        ];
        assert_eq!(inputs, expected);
    }
}
