//! A table of kept blocks, where queries are planned.

use std::fmt;
use std::sync::{Arc, Weak};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, internal_datafusion_err, not_impl_err};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use futures::StreamExt;
use mobula_plan::{KeptName, KeptPart, KeptScanExec, KeptWriter, PlacedPart};
use parking_lot::Mutex;

use super::deal::evenly;
use super::store::{HeldTable, KeptStore, lost};
use crate::engine::Engine;

/// Rows that lie with the processes that made them.
#[derive(Debug)]
pub struct KeptTable {
    engine: Weak<Engine>,
    shared: Arc<Shared>,
}

/// What a table and those who insert into it have.
#[derive(Debug)]
pub(crate) struct Shared {
    held: Arc<HeldTable>,
    /// Named in errors.
    pub(crate) name: String,
    schema: SchemaRef,
    parts: Mutex<Vec<KeptPart>>,
}

impl Shared {
    pub(crate) fn parts(&self) -> Vec<KeptPart> {
        self.parts.lock().clone()
    }
}

impl KeptTable {
    /// The table that `held` is of, with `parts`.
    pub fn new(
        engine: &Arc<Engine>,
        held: Arc<HeldTable>,
        name: &str,
        schema: SchemaRef,
        parts: Vec<KeptPart>,
    ) -> Self {
        let shared = Arc::new(Shared {
            held,
            name: name.to_owned(),
            schema,
            parts: Mutex::new(parts),
        });
        engine.kept_tables().list(&shared);
        Self {
            engine: Arc::downgrade(engine),
            shared,
        }
    }

    fn placed(&self, engine: &Engine) -> Result<Vec<PlacedPart>> {
        let parts = self.shared.parts().into_iter().map(|kept| {
            let url = engine.url_of(&kept.executor_id);
            let url = url.ok_or_else(|| lost(&self.shared.name, &kept.executor_id))?;
            Ok(PlacedPart { kept, url })
        });
        parts.collect()
    }
}

#[async_trait]
impl TableProvider for KeptTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shared.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let engine = self.engine.upgrade();
        let engine = engine.ok_or_else(|| internal_datafusion_err!("the engine has ended"))?;
        let parts = self.placed(&engine)?;
        let streams = session.config().target_partitions().min(parts.len());
        let table = KeptName {
            id: self.shared.held.id().to_owned(),
            name: self.shared.name.clone(),
        };
        let schema = self.schema();
        let projection = match projection {
            Some(projection) => projection.clone(),
            None => (0..schema.fields().len()).collect(),
        };
        let scan = KeptScanExec::try_new(table, schema, projection, evenly(parts, streams))?;
        let hold = Arc::clone(&self.shared.held);
        Ok(Arc::new(scan.with_hold(hold)))
    }

    async fn insert_into(
        &self,
        _session: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        how: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if how != InsertOp::Append {
            return not_impl_err!("a temporary table takes more rows, and no others instead");
        }
        let engine = self.engine.upgrade();
        let engine = engine.ok_or_else(|| internal_datafusion_err!("the engine has ended"))?;
        let sink = Arc::new(KeptSink {
            store: Arc::clone(engine.process().kept()),
            shared: Arc::clone(&self.shared),
        });
        Ok(Arc::new(DataSinkExec::new(input, sink, None)))
    }
}

/// Keeps more rows of a table, in the process that queries are sent to.
struct KeptSink {
    store: Arc<KeptStore>,
    shared: Arc<Shared>,
}

impl fmt::Debug for KeptSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptSink").finish_non_exhaustive()
    }
}

impl DisplayAs for KeptSink {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptSink(table={})", self.shared.name)
    }
}

#[async_trait]
impl DataSink for KeptSink {
    fn schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    async fn write_all(
        &self,
        mut blocks: SendableRecordBatchStream,
        _context: &Arc<TaskContext>,
    ) -> Result<u64> {
        let id = self.shared.held.id();
        let mut writer = Box::new(self.store.begin(id, &blocks.schema()));
        while let Some(block) = blocks.next().await {
            writer.write(block?)?;
        }
        // All of them, or none, are seen from here on.
        let part = writer.finish()?;
        let rows = part.as_ref().map_or(0, |part| part.rows);
        self.shared.parts.lock().extend(part);
        Ok(rows)
    }
}

/// The tables that are there, for those who look.
#[derive(Debug, Default)]
pub struct KeptTables {
    tables: Mutex<Vec<Weak<Shared>>>,
}

impl KeptTables {
    fn list(&self, table: &Arc<Shared>) {
        let mut tables = self.tables.lock();
        tables.retain(|table| table.strong_count() > 0);
        tables.push(Arc::downgrade(table));
    }

    pub(crate) fn all(&self) -> Vec<Arc<Shared>> {
        let tables = self.tables.lock();
        tables.iter().filter_map(Weak::upgrade).collect()
    }
}
