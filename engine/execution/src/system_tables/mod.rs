//! Schema `system`: the engine's own state as tables.
//!
//! Each scan takes a snapshot when it is planned for execution; nothing is
//! kept. The tables live on the coordinator: reading them starts no task. What only
//! the executors know, they are asked for at each scan; those that do not answer are
//! left out, see `coordinator/reports`.

mod actor_pools;
mod actors;
mod columns;
mod demand;
mod errors;
mod executors;
mod functions;
mod operators;
mod progress;
mod queries;
mod settings;
mod splits;
mod tasks;
mod temporary_tables;
mod workers;

use std::sync::{Arc, Weak};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use mobula_proto::report::ReportRequest;

use crate::coordinator::reports::{ExecutorReport, reports};
use crate::engine::Engine;

/// Name of the schema.
pub const SYSTEM_SCHEMA: &str = "system";

/// UTC.
const TIME: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

/// The tables, in the order SHOW TABLES gives.
const TABLES: [Table; 14] = [
    actor_pools::TABLE,
    actors::TABLE,
    demand::TABLE,
    errors::TABLE,
    executors::TABLE,
    functions::TABLE,
    operators::TABLE,
    progress::TABLE,
    queries::TABLE,
    settings::TABLE,
    splits::TABLE,
    tasks::TABLE,
    temporary_tables::TABLE,
    workers::TABLE,
];

/// One table.
struct Table {
    name: &'static str,
    columns: &'static [(&'static str, DataType)],
    rows: Rows,
}

/// Where a table's rows come from, as columns.
#[derive(Debug, Clone, Copy)]
enum Rows {
    /// This engine knows them.
    Here(fn(&Arc<Engine>) -> Vec<ArrayRef>),
    /// Each process of the cluster tells its own.
    Everywhere {
        request: ReportRequest,
        columns: fn(&[ExecutorReport]) -> Vec<ArrayRef>,
    },
    /// This engine knows the queries, and all processes what these do.
    OfQueries {
        request: ReportRequest,
        columns: fn(&Arc<Engine>, &[ExecutorReport]) -> Vec<ArrayRef>,
    },
}

impl Rows {
    async fn columns(self, engine: &Arc<Engine>) -> Vec<ArrayRef> {
        match self {
            Self::Here(columns) => columns(engine),
            Self::Everywhere { request, columns } => columns(&reports(engine, request).await),
            Self::OfQueries { request, columns } => {
                columns(engine, &reports(engine, request).await)
            }
        }
    }
}

/// Schema `system` of one engine.
#[derive(Debug)]
pub struct SystemSchema {
    engine: Weak<Engine>,
}

impl SystemSchema {
    pub fn new(engine: Weak<Engine>) -> Self {
        Self { engine }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("cluster_address", &self.cluster_address())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        let names = TABLES.iter().map(|table| table.name.to_owned());
        names.collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let found = TABLES.into_iter().find(|table| table.name == name);
        Ok(found.map(|table| {
            let columns = table.columns.iter();
            let fields: Vec<_> = columns
                .map(|(name, data_type)| Field::new(*name, data_type.clone(), true))
                .collect();
            Arc::new(SystemTable {
                schema: Arc::new(Schema::new(fields)),
                engine: Weak::clone(&self.engine),
                rows: table.rows,
            }) as _
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        TABLES.iter().any(|table| table.name == name)
    }
}

#[derive(Debug)]
struct SystemTable {
    schema: SchemaRef,
    engine: Weak<Engine>,
    rows: Rows,
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let blocks = match self.engine.upgrade() {
            Some(engine) => {
                let columns = self.rows.columns(&engine).await;
                vec![RecordBatch::try_new(Arc::clone(&self.schema), columns)?]
            }
            None => vec![],
        };
        let source = MemorySourceConfig::try_new_exec(
            &[blocks],
            Arc::clone(&self.schema),
            projection.cloned(),
        )?;
        Ok(source)
    }
}
