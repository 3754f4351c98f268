//! The workbench of the tests: managers, functions and blocks in a line each.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{StreamExt, TryStreamExt};
use mobula_udfs::{
    Answer, AnswerStream, BatchFormat, CallDefaults, CallMode, ErrorPolicy, FailedRow,
    FunctionSpec, Handling, Language, Literal, ObjectKind, OnError, Param, ParamKind, Returns,
    UdfCall, UdfError, UdfPool, Volatility, WorkerManager, WorkerSettings,
};

/// No answer takes longer, unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn python() -> PathBuf {
    std::env::var_os("MOBULA_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

pub fn settings() -> WorkerSettings {
    WorkerSettings {
        python: python(),
        executor_id: "executor-7".into(),
        max_workers: 4,
        kill_grace: Duration::from_millis(500),
        ..WorkerSettings::default()
    }
}

pub fn manager() -> Arc<WorkerManager> {
    WorkerManager::new(settings())
}

/// A function under test and how it is called.
#[derive(Clone)]
pub struct Case {
    pub spec: FunctionSpec,
    pub args: Vec<(String, Literal)>,
    pub batch_size: Option<usize>,
    pub batch_format: BatchFormat,
    pub mode: CallMode,
    pub errors: ErrorPolicy,
    pub handling: Handling,
    pub max_errors: Option<u64>,
    pub query: String,
    pub input: SchemaRef,
}

impl Case {
    /// A scalar function of the columns of `params`.
    pub fn scalar(name: &str, params: &[(&str, DataType)], returns: DataType, body: &str) -> Self {
        let fields = params.iter().map(|(n, t)| Field::new(*n, t.clone(), true));
        let values = params.iter().map(|(n, t)| Param {
            name: (*n).to_owned(),
            kind: ParamKind::Value(t.clone()),
        });
        Self {
            spec: spec(name, values.collect(), Returns::Scalar(returns), body),
            args: vec![],
            batch_size: None,
            batch_format: BatchFormat::Numpy,
            mode: CallMode::Batches,
            errors: ErrorPolicy::default(),
            handling: Handling::default(),
            max_errors: None,
            query: String::new(),
            input: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        }
    }

    /// `BIGINT → BIGINT`, of a parameter `x`.
    pub fn ints(name: &str, body: &str) -> Self {
        Self::scalar(name, &[("x", DataType::Int64)], DataType::Int64, body)
    }

    /// A table function over a column `x BIGINT`.
    pub fn table(name: &str, returns: &[(&str, DataType)], body: &str) -> Self {
        let columns = returns.iter().map(|(n, t)| Field::new(*n, t.clone(), true));
        let columns = Arc::new(Schema::new(columns.collect::<Vec<_>>()));
        let params = vec![Param {
            name: "rows".into(),
            kind: ParamKind::Table,
        }];
        let input = Schema::new(vec![Field::new("x", DataType::Int64, true)]);
        Self {
            spec: spec(name, params, Returns::Table(columns), body),
            input: Arc::new(input),
            ..Self::ints(name, body)
        }
    }

    pub fn class(mut self) -> Self {
        self.spec.object = ObjectKind::Class;
        self
    }

    pub fn strict(mut self) -> Self {
        self.spec.strict = true;
        self
    }

    pub fn arg(mut self, name: &str, value: Literal) -> Self {
        self.args.push((name.to_owned(), value));
        self
    }

    pub fn batches_of(mut self, rows: usize) -> Self {
        self.batch_size = Some(rows);
        self
    }

    /// Called row by row.
    pub fn by_row(mut self, mode: CallMode) -> Self {
        self.mode = mode;
        self
    }

    /// Rows that fail are let through.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.errors.on_error = on_error;
        self
    }

    pub fn immutable(mut self) -> Self {
        self.spec.volatility = Volatility::Immutable;
        self
    }

    pub fn pyarrow(self) -> Self {
        self.in_format(BatchFormat::Pyarrow)
    }

    pub fn in_format(mut self, batch_format: BatchFormat) -> Self {
        self.batch_format = batch_format;
        self
    }

    pub fn call(&self) -> Arc<UdfCall> {
        let output = match &self.spec.returns {
            Returns::Scalar(t) => Arc::new(Schema::new(vec![Field::new("out", t.clone(), true)])),
            Returns::Table(schema) => Arc::clone(schema),
        };
        Arc::new(UdfCall {
            spec: Arc::new(self.spec.clone()),
            mode: self.mode,
            args: self.args.clone(),
            batch_size: self.batch_size,
            batch_format: self.batch_format,
            input: Arc::clone(&self.input),
            output,
            timeout: None,
            errors: self.errors,
            handling: self.handling.clone(),
            max_errors: self.max_errors,
            query: self.query.clone(),
            priority: Default::default(),
            steps: vec![],
        })
    }

    pub fn pool(&self, manager: &Arc<WorkerManager>, concurrency: usize) -> Arc<dyn UdfPool> {
        manager.open_pool(self.call(), concurrency).unwrap()
    }

    /// One block through a worker of its own.
    pub async fn once(&self, block: RecordBatch) -> Result<RecordBatch, UdfError> {
        let manager = manager();
        let out = run(&self.pool(&manager, 1), block).await;
        manager.shutdown().await;
        out
    }

    /// The error of one block.
    pub async fn fails(&self, block: RecordBatch) -> UdfError {
        self.once(block).await.expect_err("the call must fail")
    }
}

fn spec(name: &str, params: Vec<Param>, returns: Returns, body: &str) -> FunctionSpec {
    FunctionSpec {
        name: name.to_owned(),
        language: Language::Python,
        params,
        returns,
        object: ObjectKind::Function,
        volatility: Volatility::Volatile,
        strict: false,
        body: body.to_owned(),
        defaults: CallDefaults::default(),
        actor: None,
    }
}

/// All outputs of one call, as one block.
pub async fn run(pool: &Arc<dyn UdfPool>, block: RecordBatch) -> Result<RecordBatch, UdfError> {
    let (rows, failed) = run_whole(pool, block).await?;
    assert_eq!(failed, []);
    Ok(rows)
}

/// All outputs of one call, as one block, and the rows that failed, sorted.
pub async fn run_whole(
    pool: &Arc<dyn UdfPool>,
    block: RecordBatch,
) -> Result<(RecordBatch, Vec<FailedRow>), UdfError> {
    let work = async {
        let answers: Vec<Answer> = pool.call(block).await?.try_collect().await?;
        let (mut parts, mut failed) = (vec![], vec![]);
        for answer in answers {
            match answer {
                Answer::Rows(rows) => parts.push(rows),
                Answer::Failed(rows) => failed.extend(rows),
                Answer::Snapshot(_) => panic!("nobody asked for it"),
            }
        }
        failed.sort_by_key(|failed| failed.row);
        let schema = parts
            .first()
            .map_or_else(|| Arc::new(Schema::empty()), |p| p.schema());
        Ok((concat_batches(&schema, &parts).unwrap(), failed))
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}"))
}

/// The next output of a call.
pub async fn next(stream: &mut AnswerStream) -> Option<Result<RecordBatch, UdfError>> {
    let next = tokio::time::timeout(PATIENCE, stream.next()).await;
    let answer = next.expect("no output in time")?;
    Some(answer.map(|answer| match answer {
        Answer::Rows(rows) => rows,
        other => panic!("{other:?}"),
    }))
}

/// `0..n` as the column `x`.
pub fn counting(n: i64) -> RecordBatch {
    ints((0..n).map(Some))
}

pub fn ints(values: impl IntoIterator<Item = Option<i64>>) -> RecordBatch {
    let x: ArrayRef = Arc::new(values.into_iter().collect::<Int64Array>());
    RecordBatch::try_from_iter_with_nullable([("x", x, true)]).unwrap()
}

/// The first column as integers.
pub fn values(block: &RecordBatch) -> Vec<Option<i64>> {
    let column = block.column(0).as_any().downcast_ref::<Int64Array>();
    column.expect("a BIGINT column").iter().collect()
}

/// Waits until process `pid` is gone, reaped included.
pub async fn gone(pid: u32) {
    let since = Instant::now();
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        assert!(since.elapsed() < PATIENCE, "process {pid} is still there");
        tokio::task::yield_now().await;
    }
}

/// Waits until process `pid` no longer runs, whoever has to reap it.
pub async fn dead(pid: u32) {
    let since = Instant::now();
    let stat = format!("/proc/{pid}/stat");
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(since.elapsed() < PATIENCE, "process {pid} still runs");
        tokio::task::yield_now().await;
    }
}

/// The pid of the only worker.
pub fn only_pid(manager: &WorkerManager) -> u32 {
    let workers = manager.workers();
    assert_eq!(workers.len(), 1, "{workers:?}");
    workers[0].pid
}

/// Waits until there are no more than `most` workers, others having ended.
pub async fn at_most(most: usize, manager: &WorkerManager) {
    let since = Instant::now();
    while manager.workers().len() > most {
        assert!(since.elapsed() < PATIENCE, "{:?}", manager.workers());
        tokio::task::yield_now().await;
    }
}

/// Waits until there is one worker alone; its pid.
pub async fn last_pid(manager: &WorkerManager) -> u32 {
    at_most(1, manager).await;
    only_pid(manager)
}

/// Waits until a worker is in the state named `state`; its pid.
pub async fn worker_in(manager: &WorkerManager, state: &str) -> u32 {
    let since = Instant::now();
    loop {
        if let Some(w) = manager
            .workers()
            .iter()
            .find(|w| w.state.to_string() == state)
        {
            return w.pid;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "no {state} worker: {:?}",
            manager.workers()
        );
        tokio::task::yield_now().await;
    }
}
