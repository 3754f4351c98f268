//! Mobula's operators in a plain DataFusion program: the whole host.

use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::prelude::{SessionConfig, SessionContext};
use mobula_plan::sql::statement::{MobulaStatement, parse_statements};
use mobula_plan::{
    FunctionCatalog, MobulaOptions, MobulaPlanning, SessionStateBuilderExt, TaskHost,
    TaskHostHandle,
};
use mobula_tests::python;
use mobula_udfs::{UdfCall, UdfError, UdfPool, WorkerManager, WorkerSettings};

/// Lends the worker processes of this program to its plans.
#[derive(Debug)]
struct Host(Arc<WorkerManager>);

impl TaskHost for Host {
    fn open_pool(&self, call: Arc<UdfCall>, n: usize) -> Result<Arc<dyn UdfPool>, UdfError> {
        self.0.open_pool(call, n)
    }

    fn task_share(&self, _context: &TaskContext, total: usize) -> usize {
        total
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datafusion_program_gets_the_operators() {
    let workers = WorkerManager::new(WorkerSettings {
        python: python(),
        ..WorkerSettings::default()
    });
    let functions = Arc::new(FunctionCatalog::default());
    let config = SessionConfig::new().with_extension(Arc::new(TaskHostHandle(Arc::new(Host(
        Arc::clone(&workers),
    )))));
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_mobula(MobulaPlanning {
            functions: Arc::clone(&functions),
            options: MobulaOptions::default(),
        })
        .build();

    let create = "CREATE FUNCTION twice(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
def twice(x):
    return x * 2
$$";
    let Some(MobulaStatement::CreateFunction(create)) = parse_statements(create).unwrap().pop()
    else {
        unreachable!("it is a CREATE FUNCTION");
    };
    let mut spec = create.spec;
    spec.object = workers.describe(&spec).await.unwrap();
    functions.insert(Arc::new(spec));

    let context = SessionContext::new_with_state(state);
    let sql = "SELECT * FROM map_batches((SELECT value AS x FROM generate_series(1, 3)), twice)";
    let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
    let text = pretty_format_batches(&rows).unwrap().to_string();
    assert!(text.contains("| 3 | 6     |"), "{text}");
    workers.shutdown().await;
}
