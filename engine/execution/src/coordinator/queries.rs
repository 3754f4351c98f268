//! The queries that run here or wait to: what `system.queries` shows.
//!
//! A query is listed from its planning until its stream has ended or is dropped. What it
//! waits for it says itself; who stands before it in the line for resources, the ledger
//! knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// Bytes of a statement that are kept.
const SQL_BYTES_MAX: usize = 4096;

/// All of them, in the order they came.
#[derive(Debug, Default)]
pub struct Queries(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    came: u64,
    listed: BTreeMap<u64, Query>,
}

/// One query.
#[derive(Debug, Clone)]
pub struct Query {
    pub query_id: String,
    /// Its statement, or the first of it; empty where nobody said.
    pub sql: String,
    pub started: SystemTime,
    pub since: Instant,
    pub stage: Stage,
    /// The named actors that it calls.
    pub calls: Vec<String>,
    /// How long it has waited before.
    waited: Duration,
}

/// How far a query is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Planning,
    Waiting { since: Instant, wait: Wait },
    Running,
}

/// What a query waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// What its calls ask for, in words.
    Resources(String),
    /// So many places for workers.
    Places(usize),
}

/// Keeps a query listed until dropped.
#[derive(Debug)]
pub struct Listed {
    queries: Arc<Queries>,
    number: u64,
}

impl Queries {
    /// Lists a query that begins to be planned.
    pub fn list(self: &Arc<Self>, query_id: &str, sql: &str) -> Listed {
        let mut state = self.0.lock();
        state.came += 1;
        let number = state.came;
        let query = Query {
            query_id: query_id.to_owned(),
            sql: sql[..sql.floor_char_boundary(SQL_BYTES_MAX)].to_owned(),
            started: SystemTime::now(),
            since: Instant::now(),
            stage: Stage::Planning,
            calls: vec![],
            waited: Duration::ZERO,
        };
        state.listed.insert(number, query);
        Listed {
            queries: Arc::clone(self),
            number,
        }
    }

    /// Those that are listed now.
    pub fn all(&self) -> Vec<Query> {
        self.0.lock().listed.values().cloned().collect()
    }
}

impl Query {
    /// How long it has waited, until `now`.
    pub fn waited(&self, now: Instant) -> Duration {
        match self.stage {
            Stage::Waiting { since, .. } => self.waited + now.saturating_duration_since(since),
            Stage::Planning | Stage::Running => self.waited,
        }
    }

    /// How many of `all` came before it for the same, if it waits for places.
    pub fn ahead(&self, all: &[Self]) -> Option<usize> {
        let stands = |query: &Self| match query.stage {
            Stage::Waiting {
                since,
                wait: Wait::Places(_),
            } => Some(since),
            _ => None,
        };
        let mine = stands(self)?;
        let before = all.iter().filter_map(stands).filter(|since| *since < mine);
        Some(before.count())
    }
}

impl Listed {
    /// It waits from now on.
    pub fn wait(&self, wait: Wait) {
        self.enter(Stage::Waiting {
            since: Instant::now(),
            wait,
        });
    }

    /// It has what it waited for.
    pub fn go_on(&self) {
        self.enter(Stage::Planning);
    }

    /// It calls the named `actors`, each of which it may have to wait for.
    pub fn calls(&self, actors: Vec<String>) {
        let mut state = self.queries.0.lock();
        if let Some(query) = state.listed.get_mut(&self.number) {
            query.calls = actors;
        }
    }

    /// It has started.
    pub fn run(&self) {
        self.enter(Stage::Running);
    }

    fn enter(&self, stage: Stage) {
        let mut state = self.queries.0.lock();
        if let Some(query) = state.listed.get_mut(&self.number) {
            query.waited = query.waited(Instant::now());
            query.stage = stage;
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.queries.0.lock().listed.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_listed_while_they_live_with_what_they_wait_for() {
        let queries = Arc::new(Queries::default());
        let first = queries.list("q1", "SELECT 1");
        let second = queries.list("q2", &"é".repeat(SQL_BYTES_MAX));
        let third = queries.list("q3", "");
        assert_eq!(queries.all()[1].sql.len(), SQL_BYTES_MAX);
        first.run();
        second.wait(Wait::Places(3));
        std::thread::sleep(Duration::from_millis(2));
        third.wait(Wait::Places(1));
        let all = queries.all();
        let ahead: Vec<_> = all.iter().map(|query| query.ahead(&all)).collect();
        assert_eq!(ahead, [None, Some(0), Some(1)]);
        let later = Instant::now() + Duration::from_secs(5);
        assert_eq!(all[0].waited(later), Duration::ZERO);
        assert!(all[1].waited(later) >= Duration::from_secs(5));
        second.go_on();
        second.wait(Wait::Resources("1 GPU".into()));
        second.run();
        let waited = queries.all()[1].waited(later);
        assert!(waited >= Duration::from_millis(2) && waited < Duration::from_secs(5));
        drop((first, third));
        assert_eq!(queries.all().len(), 1);
        drop(second);
        assert!(queries.all().is_empty());
    }
}
