//! Schema `system`: the engine's own state as tables.
//!
//! Each scan takes a snapshot when it is planned for execution; nothing is
//! kept. The tables live on the coordinator: reading them needs no executor.

use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};

use arrow::array::{
    ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use mobula_plan::config::{SETTINGS, Scope};
use mobula_proto::cluster::ExecutorLoad;

use crate::engine::{COORDINATOR_ID, EMBEDDED_ID, Engine};
use crate::row_errors::RowError;

/// Name of the schema.
pub const SYSTEM_SCHEMA: &str = "system";

type Rows = fn(&Arc<Engine>) -> Vec<ArrayRef>;
type Columns = &'static [(&'static str, DataType)];

/// The tables, in the order SHOW TABLES gives.
const TABLES: [(&str, Columns, Rows); 5] = [
    (
        "errors",
        &[
            ("query_id", DataType::Utf8),
            ("at", DataType::Timestamp(TimeUnit::Millisecond, None)),
            ("executor_id", DataType::Utf8),
            ("function", DataType::Utf8),
            ("operator", DataType::Utf8),
            ("error_type", DataType::Utf8),
            ("message", DataType::Utf8),
            ("traceback", DataType::Utf8),
            ("row", DataType::Utf8),
        ],
        errors,
    ),
    (
        "executors",
        &[
            ("executor_id", DataType::Utf8),
            ("role", DataType::Utf8),
            ("takes_tasks", DataType::Boolean),
            ("url", DataType::Utf8),
            ("version", DataType::Utf8),
            ("pid", DataType::UInt32),
            ("cores", DataType::UInt32),
            ("up_ms", DataType::UInt64),
            ("heartbeat_age_ms", DataType::UInt64),
            ("tasks_started", DataType::UInt64),
            ("streams", DataType::UInt64),
            ("workers", DataType::UInt64),
            ("bytes_sent", DataType::UInt64),
            ("bytes_received", DataType::UInt64),
        ],
        executors,
    ),
    (
        "functions",
        &[
            ("name", DataType::Utf8),
            ("language", DataType::Utf8),
            ("kind", DataType::Utf8),
            ("object", DataType::Utf8),
            ("parameters", DataType::Utf8),
            ("returns", DataType::Utf8),
            ("volatility", DataType::Utf8),
            ("body", DataType::Utf8),
        ],
        functions,
    ),
    (
        "settings",
        &[
            ("name", DataType::Utf8),
            ("value", DataType::Utf8),
            ("default_value", DataType::Utf8),
            ("scope", DataType::Utf8),
            ("description", DataType::Utf8),
        ],
        settings,
    ),
    (
        "workers",
        &[
            ("pid", DataType::UInt32),
            ("function", DataType::Utf8),
            ("state", DataType::Utf8),
            ("age_ms", DataType::UInt64),
        ],
        workers,
    ),
];

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
        TABLES.iter().map(|(name, ..)| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let found = TABLES.iter().find(|(table, ..)| *table == name);
        Ok(found.map(|(_, columns, rows)| {
            let fields: Vec<_> = columns
                .iter()
                .map(|(name, data_type)| Field::new(*name, data_type.clone(), true))
                .collect();
            Arc::new(SystemTable {
                schema: Arc::new(Schema::new(fields)),
                engine: Weak::clone(&self.engine),
                rows: *rows,
            }) as _
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        TABLES.iter().any(|(table, ..)| *table == name)
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
            Some(engine) => vec![RecordBatch::try_new(
                Arc::clone(&self.schema),
                (self.rows)(&engine),
            )?],
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

struct ExecutorRow {
    id: String,
    role: &'static str,
    takes_tasks: bool,
    url: Option<String>,
    version: String,
    pid: u32,
    cores: u32,
    up_ms: u64,
    heartbeat_age_ms: Option<u64>,
    load: ExecutorLoad,
}

fn this_process(engine: &Arc<Engine>) -> ExecutorRow {
    let cluster = engine.cluster();
    let (id, role) = match cluster {
        Some(_) => (COORDINATOR_ID, "coordinator"),
        None => (EMBEDDED_ID, "embedded"),
    };
    ExecutorRow {
        id: id.to_owned(),
        role,
        takes_tasks: cluster.is_none_or(|c| c.local.is_some()),
        url: cluster.map(|c| c.url.to_string()),
        version: crate::VERSION.to_owned(),
        pid: std::process::id(),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        up_ms: engine.uptime().as_millis() as u64,
        heartbeat_age_ms: None,
        load: engine.process().load(),
    }
}

fn executors(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let now = Instant::now();
    let age = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
    let mut rows = vec![this_process(engine)];
    let members = engine.cluster().map(|c| c.control.members());
    rows.extend(members.into_iter().flatten().map(|member| ExecutorRow {
        id: member.executor_id,
        role: "executor",
        takes_tasks: true,
        url: Some(member.url.to_string()),
        version: member.version,
        pid: member.pid,
        cores: member.cores,
        up_ms: age(member.registered),
        heartbeat_age_ms: Some(age(member.last_heartbeat)),
        load: member.load,
    }));
    let text = |f: fn(&ExecutorRow) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(f)))
    };
    let count = |f: fn(&ExecutorRow) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(f)))
    };
    let small = |f: fn(&ExecutorRow) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(f)))
    };
    vec![
        text(|r| &r.id),
        text(|r| r.role),
        Arc::new(BooleanArray::from_iter(
            rows.iter().map(|r| Some(r.takes_tasks)),
        )),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.url.clone()))),
        text(|r| &r.version),
        small(|r| r.pid),
        small(|r| r.cores),
        count(|r| r.up_ms),
        Arc::new(UInt64Array::from_iter(
            rows.iter().map(|r| r.heartbeat_age_ms),
        )),
        count(|r| r.load.tasks_started),
        count(|r| r.load.streams),
        count(|r| r.load.workers),
        count(|r| r.load.bytes_sent),
        count(|r| r.load.bytes_received),
    ]
}

fn errors(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let rows = engine.process().row_errors().list();
    let text = |f: fn(&RowError) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(f)))
    };
    let at = rows.iter().map(|row| {
        let since = row.at.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as i64)
    });
    vec![
        text(|r| &r.query_id),
        Arc::new(TimestampMillisecondArray::from_iter_values(at)),
        text(|r| &r.executor),
        text(|r| &r.function),
        text(|r| &r.operator),
        text(|r| &r.error_type),
        text(|r| &r.message),
        text(|r| &r.traceback),
        text(|r| &r.row),
    ]
}

fn functions(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let specs = engine.functions().list();
    let text = |f: fn(&mobula_udfs::FunctionSpec) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(specs.iter().map(|s| f(s))))
    };
    vec![
        text(|s| s.name.clone()),
        text(|s| format!("{:?}", s.language).to_lowercase()),
        text(|s| if s.is_table() { "table" } else { "scalar" }.to_owned()),
        text(|s| format!("{:?}", s.object).to_lowercase()),
        text(parameters),
        text(returns),
        text(|s| format!("{:?}", s.volatility).to_lowercase()),
        text(|s| s.body.clone()),
    ]
}

fn parameters(spec: &mobula_udfs::FunctionSpec) -> String {
    use mobula_udfs::ParamKind;
    let params = spec.params.iter().map(|p| match &p.kind {
        ParamKind::Value(data_type) => format!("{} {data_type}", p.name),
        ParamKind::Table => format!("{} TABLE", p.name),
    });
    params.collect::<Vec<_>>().join(", ")
}

fn returns(spec: &mobula_udfs::FunctionSpec) -> String {
    use mobula_udfs::Returns;
    match &spec.returns {
        Returns::Scalar(data_type) => data_type.to_string(),
        Returns::Table(schema) => {
            let columns = schema
                .fields()
                .iter()
                .map(|f| format!("{} {}", f.name(), f.data_type()));
            format!("TABLE({})", columns.collect::<Vec<_>>().join(", "))
        }
    }
}

/// `value` is what new sessions begin with and, for keys of process scope, what
/// holds.
fn settings(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let text = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let of =
        |f: fn(&mobula_plan::config::Setting) -> String| text(SETTINGS.iter().map(f).collect());
    vec![
        of(|s| format!("mobula.{}", s.key)),
        text(
            SETTINGS
                .iter()
                .map(|s| engine.options().get(s.key).unwrap_or_default().to_owned())
                .collect(),
        ),
        of(|s| s.default.to_owned()),
        of(|s| match s.scope {
            Scope::Session => "session".to_owned(),
            Scope::Process => "process".to_owned(),
        }),
        of(|s| s.doc.to_owned()),
    ]
}

fn workers(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let all = engine.process().workers().workers();
    vec![
        Arc::new(UInt32Array::from_iter_values(all.iter().map(|w| w.pid))),
        Arc::new(StringArray::from_iter_values(
            all.iter().map(|w| w.function.as_str()),
        )),
        Arc::new(StringArray::from_iter_values(
            all.iter().map(|w| w.state.to_string()),
        )),
        Arc::new(UInt64Array::from_iter_values(
            all.iter().map(|w| w.since.elapsed().as_millis() as u64),
        )),
    ]
}
