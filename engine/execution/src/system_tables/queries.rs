//! `system.queries`: what runs here, and what waits for what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arrow::array::{ArrayRef, StringArray, UInt64Array};
use arrow::datatypes::DataType;

use super::columns::{counts, texts, times};
use super::{Rows, TIME, Table};
use crate::coordinator::queries::{Query, Stage, Wait};
use crate::engine::Engine;

pub const TABLE: Table = Table {
    name: "queries",
    columns: &[
        ("query_id", DataType::Utf8),
        ("state", DataType::Utf8),
        ("sql", DataType::Utf8),
        ("started", TIME),
        ("elapsed_ms", DataType::UInt64),
        ("waiting_ms", DataType::UInt64),
        ("waits_for", DataType::Utf8),
        ("ahead", DataType::UInt64),
    ],
    rows: Rows::Here(queries),
};

fn queries(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let now = Instant::now();
    let all = in_line(engine);
    let queries = || all.iter().map(|found| &found.query);
    let started = queries().map(|query| {
        let since = query.started.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as i64)
    });
    let elapsed = queries().map(|query| now.saturating_duration_since(query.since));
    let waits_for = all.iter().map(|found| found.waits_for.as_deref());
    let ahead = all.iter().map(|found| found.ahead.map(|n| n as u64));
    vec![
        texts(queries().map(|query| &query.query_id)),
        texts(queries().map(state)),
        texts(queries().map(|query| &query.sql)),
        times(started),
        counts(elapsed.map(|elapsed| elapsed.as_millis() as u64)),
        counts(queries().map(|query| query.waited(now).as_millis() as u64)),
        Arc::new(StringArray::from_iter(waits_for)),
        Arc::new(UInt64Array::from_iter(ahead)),
    ]
}

/// A query, and what it waits for.
pub struct InLine {
    pub query: Query,
    pub waits_for: Option<String>,
    /// How many are before it for that.
    pub ahead: Option<usize>,
}

/// All queries of `engine`.
pub fn in_line(engine: &Arc<Engine>) -> Vec<InLine> {
    let all = engine.queries().all();
    let line = engine.waiting();
    let line: HashMap<_, _> = line.into_iter().map(|w| (w.query, w.ahead)).collect();
    let found = all.iter().map(|query| InLine {
        query: query.clone(),
        waits_for: waits_for(engine, query),
        ahead: match &query.stage {
            Stage::Waiting {
                wait: Wait::Resources(_),
                ..
            } => line.get(&query.query_id).copied(),
            _ => query.ahead(&all),
        },
    });
    found.collect()
}

fn state(query: &Query) -> &'static str {
    match query.stage {
        Stage::Planning => "planning",
        Stage::Waiting { .. } => "waiting",
        Stage::Running => "running",
    }
}

fn waits_for(engine: &Engine, query: &Query) -> Option<String> {
    match &query.stage {
        Stage::Waiting { wait, .. } => Some(match wait {
            Wait::Resources(asked) => asked.clone(),
            Wait::Places(1) => "1 worker".to_owned(),
            Wait::Places(n) => format!("{n} workers"),
        }),
        Stage::Running => {
            let mut missing = engine.actors().missing(&query.calls);
            let lost = engine.lost().into_iter();
            let lost = lost.filter(|lost| lost.query == query.query_id);
            missing.extend(lost.map(|lost| match (lost.demand, lost.actors) {
                (demand, 1) => format!("{demand} for an actor whose executor is lost"),
                (demand, n) => format!("{demand} each for {n} actors whose executors are lost"),
            }));
            (!missing.is_empty()).then(|| missing.join(", "))
        }
        Stage::Planning => None,
    }
}
