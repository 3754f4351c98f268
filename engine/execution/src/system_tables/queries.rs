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
    let all = engine.queries().all();
    let line = engine.waiting();
    let line: HashMap<_, _> = line.into_iter().map(|w| (w.query, w.ahead)).collect();
    let ahead = |query: &Query| match &query.stage {
        Stage::Waiting {
            wait: Wait::Resources(_),
            ..
        } => line.get(&query.query_id).copied(),
        _ => query.ahead(&all),
    };
    let started = all.iter().map(|query| {
        let since = query.started.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as i64)
    });
    let elapsed = all.iter().map(|q| now.saturating_duration_since(q.since));
    vec![
        texts(all.iter().map(|q| &q.query_id)),
        texts(all.iter().map(state)),
        texts(all.iter().map(|q| &q.sql)),
        times(started),
        counts(elapsed.map(|elapsed| elapsed.as_millis() as u64)),
        counts(all.iter().map(|q| q.waited(now).as_millis() as u64)),
        Arc::new(StringArray::from_iter(
            all.iter().map(|query| waits_for(engine, query)),
        )),
        Arc::new(UInt64Array::from_iter(
            all.iter().map(|query| ahead(query).map(|n| n as u64)),
        )),
    ]
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
            let missing = engine.actors().missing(&query.calls);
            (!missing.is_empty()).then(|| missing.join(", "))
        }
        Stage::Planning => None,
    }
}
