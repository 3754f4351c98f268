//! The figures of `/metrics`, in the text format of OpenMetrics, which Prometheus reads.
//!
//! Each is a query over the tables of schema `system`: labels, then the value. What a
//! figure means is what its table says, and a reader of either finds the other.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::physical_plan::collect;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::{Database, ServerError};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names of labels and their values.
type Labels = Vec<(&'static str, String)>;

struct Figure {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    sql: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only up, as long as what its labels name is there; `_total` is added to its name.
    Counter,
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    sql: &'static str,
) -> Figure {
    Figure {
        name,
        help,
        kind: Kind::Gauge,
        labels,
        sql,
    }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    sql: &'static str,
) -> Figure {
    Figure {
        kind: Kind::Counter,
        ..gauge(name, help, labels, sql)
    }
}

const FIGURES: [Figure; 17] = [
    gauge(
        "mobula_demand",
        "How much of a resource would be taken at once if it were there",
        &["resource"],
        "SELECT resource, amount FROM system.demand",
    ),
    gauge(
        "mobula_demand_actors",
        "Actors that would start if a resource were there",
        &["resource"],
        "SELECT resource, actors FROM system.demand",
    ),
    gauge(
        "mobula_demand_waiting",
        "Queries, actors and pools that wait for a resource",
        &["resource"],
        "SELECT resource, waiting FROM system.demand",
    ),
    gauge(
        "mobula_queries",
        "Queries by what they do",
        &["state"],
        "SELECT s, count(state) FROM (VALUES ('planning'), ('waiting'), ('running')) AS t(s)
         LEFT JOIN system.queries ON s = state GROUP BY s ORDER BY s",
    ),
    gauge(
        "mobula_executors",
        "Executors that are registered and alive",
        &[],
        "SELECT count(*) FROM system.executors WHERE role = 'executor'",
    ),
    gauge(
        "mobula_resource",
        "What a process has of a resource, cores, devices or bytes",
        &["executor", "resource"],
        "SELECT executor_id, 'cpus', cpus FROM system.executors
         UNION ALL SELECT executor_id, 'gpus', gpus FROM system.executors
         UNION ALL SELECT executor_id, 'memory', memory_bytes FROM system.executors",
    ),
    gauge(
        "mobula_resource_free",
        "What of it no actor and no query has claimed",
        &["executor", "resource"],
        "SELECT executor_id, 'cpus', cpus_free FROM system.executors
         UNION ALL SELECT executor_id, 'gpus', gpus_free FROM system.executors
         UNION ALL SELECT executor_id, 'memory', memory_free_bytes FROM system.executors",
    ),
    gauge(
        "mobula_executor_heartbeat_age_seconds",
        "How long ago an executor said that it lives",
        &["executor"],
        "SELECT executor_id, heartbeat_age_ms / 1000.0 FROM system.executors
         WHERE heartbeat_age_ms IS NOT NULL",
    ),
    gauge(
        "mobula_workers",
        "Processes for user code",
        &["executor"],
        "SELECT executor_id, workers FROM system.executors",
    ),
    counter(
        "mobula_tasks_started",
        "Tasks that a process has started",
        &["executor"],
        "SELECT executor_id, tasks_started FROM system.executors",
    ),
    counter(
        "mobula_exchange_sent_bytes",
        "Bytes of blocks that a process has sent to others",
        &["executor"],
        "SELECT executor_id, bytes_sent FROM system.executors",
    ),
    counter(
        "mobula_exchange_received_bytes",
        "Bytes of blocks that a process has received from others",
        &["executor"],
        "SELECT executor_id, bytes_received FROM system.executors",
    ),
    gauge(
        "mobula_actor_pool_actors",
        "Actors of a named pool",
        &["pool"],
        "SELECT name, actors FROM system.actor_pools WHERE query_id IS NULL",
    ),
    gauge(
        "mobula_actor_pool_starting",
        "Actors of a named pool that are being built",
        &["pool"],
        "SELECT name, starting FROM system.actor_pools WHERE query_id IS NULL",
    ),
    gauge(
        "mobula_actor_pool_queue",
        "Blocks that wait for an actor of a named pool",
        &["pool"],
        "SELECT name, queue FROM system.actor_pools WHERE query_id IS NULL",
    ),
    gauge(
        "mobula_actor_pool_min",
        "Actors that a named pool has at least",
        &["pool"],
        "SELECT name, min FROM system.actor_pools WHERE query_id IS NULL",
    ),
    gauge(
        "mobula_actor_pool_max",
        "Actors that a named pool has at most",
        &["pool"],
        "SELECT name, max FROM system.actor_pools WHERE query_id IS NULL",
    ),
];

/// All figures as they are now.
///
/// # Errors
/// A table that cannot be read.
pub(super) async fn page(database: &Arc<Database>) -> std::result::Result<String, ServerError> {
    let state = database.new_session()?.state();
    let mut registry = Registry::default();
    for figure in &FIGURES {
        let samples = figure.samples(&state).await?;
        figure.register(&mut registry, samples);
    }
    let mut page = String::new();
    // A String takes everything.
    let _ = encode(&mut page, &registry);
    Ok(page)
}

impl Figure {
    /// Read here and not as a query, which would count itself.
    async fn samples(&self, state: &SessionState) -> Result<Vec<(Labels, f64)>> {
        let plan = state.create_logical_plan(self.sql).await?;
        let plan = state.create_physical_plan(&plan).await?;
        let mut samples = vec![];
        for rows in collect(plan, state.task_ctx()).await? {
            self.read(&rows, &mut samples)?;
        }
        Ok(samples)
    }

    fn read(&self, rows: &RecordBatch, samples: &mut Vec<(Labels, f64)>) -> Result<()> {
        let of_label = |at: usize| cast(rows.column(at), &DataType::Utf8);
        let labels = (0..self.labels.len()).map(of_label);
        let labels = labels.collect::<std::result::Result<Vec<_>, _>>()?;
        let values = cast(rows.column(self.labels.len()), &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        for row in (0..rows.num_rows()).filter(|row| values.is_valid(*row)) {
            let names = self.labels.iter().zip(&labels);
            let labels = names.map(|(name, column)| {
                let value = column.as_string::<i32>().value(row);
                (*name, value.to_owned())
            });
            samples.push((labels.collect(), values.value(row)));
        }
        Ok(())
    }

    fn register(&self, registry: &mut Registry, samples: Vec<(Labels, f64)>) {
        match self.kind {
            Kind::Gauge => {
                let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
                for (labels, value) in samples {
                    family.get_or_create(&labels).set(value);
                }
                registry.register(self.name, self.help, family);
            }
            Kind::Counter => {
                let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
                for (labels, value) in samples {
                    family.get_or_create(&labels).inc_by(value);
                }
                registry.register(self.name, self.help, family);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ours_and_each_is_there_once() {
        let mut names: Vec<_> = FIGURES.iter().map(|figure| figure.name).collect();
        assert!(names.iter().all(|name| name.starts_with("mobula_")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIGURES.len());
    }
}
