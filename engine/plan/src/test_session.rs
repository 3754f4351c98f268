//! Sessions for this crate's tests: tables in memory, functions made by SQL, and
//! a [`TaskHost`] whose workers are closures.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Schema;
use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::datasource::MemTable;
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionConfig;
use expect_test::Expect;
use futures::{StreamExt, stream};
use mobula_udfs::{
    Answer, AnswerStream, CallMode, ObjectKind, PoolStats, Step, Take, UdfCall, UdfError, UdfPool,
    one_by_one,
};
use tokio::sync::Semaphore;

use crate::rule::physical_rules;
use crate::{
    FunctionCatalog, MobulaOptions, MobulaPlanning, MobulaStatement, OperatorRun,
    SessionStateBuilderExt, TaskHost, TaskHostHandle, parse_statements,
};

/// What a fake worker makes of a block.
pub type Work = Arc<dyn Fn(RecordBatch) -> Result<Vec<RecordBatch>, UdfError> + Send + Sync>;

/// Hosts closures by function name, and counts what happens.
#[derive(Default)]
pub struct FakeHost {
    work: HashMap<String, Work>,
    pub pools_opened: AtomicUsize,
    pub pools_alive: Arc<AtomicUsize>,
    pub calls: Arc<AtomicUsize>,
    /// How many small blocks its pools want together; 0 is 1.
    train: usize,
    /// How many they got, each time.
    pub trains: Arc<Mutex<Vec<usize>>>,
    pub concurrency: Arc<Mutex<Vec<usize>>>,
    /// Blocks that were given to the actor of a lane.
    pub lanes: Arc<Mutex<Vec<(usize, RecordBatch)>>>,
    /// Operators that have started, with whether they have ended.
    pub runs: Mutex<Vec<(Arc<OperatorRun>, bool)>>,
}

impl fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeHost")
    }
}

impl FakeHost {
    /// Adds a worker for the function named `name`.
    pub fn with(
        mut self,
        name: &str,
        work: impl Fn(RecordBatch) -> Result<Vec<RecordBatch>, UdfError> + Send + Sync + 'static,
    ) -> Self {
        self.work.insert(name.to_owned(), Arc::new(work));
        self
    }

    /// Its pools want `blocks` small blocks together.
    pub fn with_trains(self, blocks: usize) -> Self {
        let train = blocks;
        Self { train, ..self }
    }

    pub fn alive(&self) -> usize {
        self.pools_alive.load(Ordering::SeqCst)
    }
}

impl TaskHost for FakeHost {
    fn open_pool(
        &self,
        call: Arc<UdfCall>,
        concurrency: usize,
    ) -> Result<Arc<dyn UdfPool>, UdfError> {
        self.pools_opened.fetch_add(1, Ordering::SeqCst);
        self.pools_alive.fetch_add(1, Ordering::SeqCst);
        self.concurrency.lock().unwrap().push(concurrency);
        let work: Vec<_> = call
            .parts()
            .map(|part| Arc::clone(&self.work[&part.spec.name]))
            .collect();
        Ok(Arc::new(FakePool {
            work: match call.steps.as_slice() {
                [] => Arc::clone(&work[0]),
                steps => fused_work(steps.iter().cloned().zip(work).collect()),
            },
            workers: Arc::new(Semaphore::new(concurrency)),
            concurrency,
            alive: Arc::clone(&self.pools_alive),
            calls: Arc::clone(&self.calls),
            train: self.train.max(1),
            trains: Arc::clone(&self.trains),
            lanes: Arc::clone(&self.lanes),
        }))
    }

    fn task_share(&self, _context: &TaskContext, total: usize) -> usize {
        total
    }

    fn operator_started(&self, run: &Arc<OperatorRun>) {
        assert!(run.figures().is_some(), "its workers are there");
        self.runs.lock().unwrap().push((Arc::clone(run), false));
    }

    fn operator_ended(&self, run: &Arc<OperatorRun>) {
        assert!(run.figures().is_some(), "its workers are still there");
        let mut runs = self.runs.lock().unwrap();
        let found = runs.iter_mut().find(|(known, _)| Arc::ptr_eq(known, run));
        let (_, has_ended) = found.unwrap();
        assert!(!std::mem::replace(has_ended, true), "it ends once");
    }
}

/// What a worker makes of a block that goes through several functions.
fn fused_work(steps: Vec<(Step, Work)>) -> Work {
    let taken = |step: &Step, rows: &RecordBatch, made: &[ArrayRef]| {
        let Some(takes) = &step.takes else {
            return rows.clone();
        };
        let columns = takes.iter().map(|take| match take {
            Take::In(column) => Arc::clone(rows.column(*column)),
            Take::Made(step) => Arc::clone(&made[*step]),
        });
        RecordBatch::try_new(Arc::clone(&step.call.input), columns.collect()).unwrap()
    };
    Arc::new(move |block| {
        if !steps[0].0.call.spec.is_table() {
            let mut made = vec![];
            for (step, work) in &steps {
                let values = work(taken(step, &block, &made))?;
                let values = concat_batches(&values[0].schema(), &values).unwrap();
                made.push(Arc::clone(values.column(0)));
            }
            let fields = steps
                .iter()
                .map(|(step, _)| step.call.output.field(0).clone());
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            return Ok(vec![RecordBatch::try_new(schema, made).unwrap()]);
        }
        let mut rows = vec![block];
        for (step, work) in &steps {
            let mut next = vec![];
            for part in rows {
                let answers = work(taken(step, &part, &[]))?;
                match (step.call.spec.is_table(), step.call.mode) {
                    (true, _) => next.extend(answers),
                    (false, CallMode::Filter) => {
                        let mask = answers[0].column(0).as_boolean();
                        next.push(filter_record_batch(&part, mask).unwrap());
                    }
                    (false, _) => {
                        let columns = part.columns().iter().chain(answers[0].columns());
                        let fields = part.schema().fields().iter().cloned().collect::<Vec<_>>();
                        let fields = [fields, answers[0].schema().fields().to_vec()].concat();
                        let schema = Arc::new(Schema::new(fields));
                        let columns = columns.cloned().collect();
                        next.push(RecordBatch::try_new(schema, columns).unwrap());
                    }
                }
            }
            rows = next;
        }
        Ok(rows)
    })
}

struct FakePool {
    work: Work,
    workers: Arc<Semaphore>,
    concurrency: usize,
    alive: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
    train: usize,
    trains: Arc<Mutex<Vec<usize>>>,
    lanes: Arc<Mutex<Vec<(usize, RecordBatch)>>>,
}

impl fmt::Debug for FakePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakePool")
    }
}

impl Drop for FakePool {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl UdfPool for FakePool {
    /// A worker is busy until its answers are read, as real ones are.
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        let worker = Arc::clone(&self.workers).acquire_owned().await.unwrap();
        self.calls.fetch_add(1, Ordering::SeqCst);
        // Give other tasks a turn, so that calls finish out of order.
        for _ in 0..block.num_rows() % 3 {
            tokio::task::yield_now().await;
        }
        let answers = (self.work)(block)?;
        let answers = stream::iter(answers.into_iter().map(|rows| Ok(Answer::Rows(rows)))).map(
            move |answer| {
                let _busy = &worker;
                answer
            },
        );
        Ok(answers.boxed())
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        self.trains.lock().unwrap().push(blocks.len());
        one_by_one(self, blocks).await
    }

    async fn call_lane(
        &self,
        lane: usize,
        blocks: Vec<RecordBatch>,
    ) -> Result<AnswerStream, UdfError> {
        let given = blocks.iter().cloned().map(|block| (lane, block));
        self.lanes.lock().unwrap().extend(given);
        self.call_each(blocks).await
    }

    fn train(&self) -> usize {
        self.train
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn stats(&self) -> PoolStats {
        PoolStats::default()
    }
}

/// Functions that tests call; names starting with a capital are classes.
pub const FUNCTIONS: &str = "
CREATE FUNCTION net(a DOUBLE, b DOUBLE) RETURNS DOUBLE LANGUAGE python IMMUTABLE AS $$x$$;
CREATE FUNCTION inc(a BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$x$$;
CREATE FUNCTION dice(a BIGINT) RETURNS BIGINT LANGUAGE python VOLATILE AS $$x$$;
CREATE FUNCTION one() RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$x$$;
CREATE FUNCTION twice(rows TABLE) RETURNS TABLE(x BIGINT, s VARCHAR) LANGUAGE python AS $$x$$;
CREATE FUNCTION same(rows TABLE) RETURNS TABLE(x BIGINT, s VARCHAR) LANGUAGE python IMMUTABLE AS $$x$$;
CREATE FUNCTION big(a BIGINT) RETURNS BOOLEAN LANGUAGE python IMMUTABLE AS $$x$$;
CREATE FUNCTION good(row TABLE) RETURNS BOOLEAN LANGUAGE python IMMUTABLE AS $$x$$;
CREATE FUNCTION \"Embed\"(s VARCHAR) RETURNS FLOAT[] LANGUAGE python WITH (batch_size = 8) AS $$x$$;
";

/// The functions of [`FUNCTIONS`].
pub fn functions() -> Arc<FunctionCatalog> {
    let catalog = FunctionCatalog::default();
    for statement in parse_statements(FUNCTIONS).unwrap() {
        let MobulaStatement::CreateFunction(create) = statement else {
            panic!("{statement:?}");
        };
        let mut spec = create.spec;
        if spec.name.starts_with(char::is_uppercase) {
            spec.object = ObjectKind::Class;
        }
        catalog.insert(Arc::new(spec));
    }
    Arc::new(catalog)
}

/// A session over `host` with tables `t(a, b, c, s)` in two partitions and
/// `u(a, x)`.
pub fn session(host: Arc<FakeHost>) -> SessionState {
    session_with(host, MobulaOptions::default())
}

pub fn session_with(host: Arc<FakeHost>, options: MobulaOptions) -> SessionState {
    session_knowing(host, functions(), options)
}

pub fn session_knowing(
    host: Arc<FakeHost>,
    functions: Arc<FunctionCatalog>,
    options: MobulaOptions,
) -> SessionState {
    let config = SessionConfig::new()
        .with_target_partitions(2)
        .with_information_schema(true)
        .with_extension(Arc::new(TaskHostHandle(host)));
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_mobula(MobulaPlanning { functions, options })
        .build();
    add_table(&state, "t", vec![rows_of_t(0..5), rows_of_t(5..9)]);
    let u = [
        ("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ("x", Arc::new(Int64Array::from(vec![10, 20]))),
    ];
    add_table(&state, "u", vec![RecordBatch::try_from_iter(u).unwrap()]);
    state
}

/// Registers `partitions` as a table.
pub fn add_table(state: &SessionState, name: &str, partitions: Vec<RecordBatch>) {
    let schema = partitions[0].schema();
    let partitions = partitions.into_iter().map(|batch| vec![batch]).collect();
    let table = MemTable::try_new(schema, partitions).unwrap();
    let schema = state.schema_for_ref(name).unwrap();
    schema
        .register_table(name.to_owned(), Arc::new(table))
        .unwrap();
}

/// Rows of `t`: a = i, b = i / 2, c = i % 3, s = "si".
pub fn rows_of_t(rows: std::ops::Range<i64>) -> RecordBatch {
    let columns: [(&str, ArrayRef); 4] = [
        ("a", Arc::new(Int64Array::from_iter_values(rows.clone()))),
        (
            "b",
            Arc::new(Float64Array::from_iter_values(
                rows.clone().map(|i| i as f64 / 2.0),
            )),
        ),
        (
            "c",
            Arc::new(Int64Array::from_iter_values(rows.clone().map(|i| i % 3))),
        ),
        (
            "s",
            Arc::new(StringArray::from_iter_values(rows.map(|i| format!("s{i}")))),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Compares the physical plan of `sql` with the approved text, and makes sure that our
/// rules leave alone what they have made.
pub async fn check_plan(sql: &str, expected: Expect) {
    let state = session(Arc::new(FakeHost::default()));
    let plan = plan(&state, sql).await.unwrap();
    let once = state.create_physical_plan(&plan).await.unwrap();
    let text = physical_text(&once);
    expected.assert_eq(&text);
    for rule in physical_rules() {
        let twice = rule.optimize(Arc::clone(&once), state.config_options());
        assert_eq!(text, physical_text(&twice.unwrap()), "{}", rule.name());
    }
}

pub fn physical_text(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(false).to_string()
}

/// The plan of `sql` as DataFusion's SQL planner makes it.
pub async fn plan(state: &SessionState, sql: &str) -> Result<LogicalPlan> {
    let mut statements = parse_statements(sql)?;
    assert_eq!(statements.len(), 1, "{sql}");
    let Some(MobulaStatement::DataFusion(statement)) = statements.pop() else {
        panic!("{sql}");
    };
    state.statement_to_plan(*statement).await
}
