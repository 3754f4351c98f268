//! A host of named actors, for tests.

use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{DataType, Schema};
use mobula_udfs::{
    ActorHost, ActorInfo, ActorSpec, ActorState, CallMode, Demand, Literal, MethodOf, UdfError,
    UdfPool, WorkerManager,
};

use crate::bench::*;

pub const COUNTER: &str = "
import os, time
class counter:
    def __init__(self, start=0, log=None):
        self.n, self.log = start, log
        if log and os.path.exists(log + '.refuse'):
            raise ValueError('not today')
    def __call__(self, x):
        return x + self.n
    def add(self, x: int) -> int:
        self.n += x
        return self.n
    def get(self) -> int:
        return self.n
    def pid(self) -> int:
        return os.getpid()
    def slow(self, x: int) -> int:
        began = time.monotonic_ns()
        time.sleep(x / 1000)
        if self.log:
            with open(self.log, 'a') as log:
                log.write(f'{began} {time.monotonic_ns()}\\n')
        self.n += 1
        return self.n
    def fails(self, x: int) -> int:
        raise ValueError(x)
    def dies(self, x: int) -> int:
        os.kill(os.getpid(), 9)
    def lines(self, rows: 'TABLE') -> 'TABLE(x BIGINT)':
        for x in rows['x']:
            yield {'x': [x] * 1000}
            self.n += 1
";

/// A host with the actors that tests make.
pub struct Stage {
    pub manager: Arc<WorkerManager>,
    pub host: ActorHost,
    pub class: Case,
}

impl Stage {
    pub fn new(body: &str) -> Self {
        Self::with_room(body, 10)
    }

    pub fn with_room(body: &str, actors_max: usize) -> Self {
        let manager = manager();
        Self {
            host: ActorHost::new(Arc::clone(&manager), "here", actors_max),
            manager,
            class: Case::ints("counter", body).class(),
        }
    }

    pub fn spec(&self, actor: &str, args: &[(&str, Literal)]) -> ActorSpec {
        let mut spec = ActorSpec {
            name: actor.to_owned(),
            class: self.class.spec.clone(),
            args: args
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            timeout: None,
            init_timeout: None,
            methods: vec![],
            demand: Demand::default(),
            pool: None,
            member: 0,
        };
        for name in [
            "__call__", "add", "get", "pid", "slow", "fails", "dies", "lines",
        ] {
            spec.methods.push(self.method(actor, name).spec);
        }
        spec
    }

    pub async fn create(&self, actor: &str, args: &[(&str, Literal)]) -> Result<(), UdfError> {
        let built = self.host.build(Arc::new(self.spec(actor, args))).await?;
        let replaced = self.host.put(built);
        if let Some(replaced) = replaced {
            self.host.end(replaced).await;
        }
        Ok(())
    }

    /// A method as the planner makes it.
    pub fn method(&self, actor: &str, name: &str) -> Case {
        let mut case = match name {
            "lines" => Case::table(name, &[("x", DataType::Int64)], ""),
            "get" | "pid" => Case::scalar(name, &[], DataType::Int64, ""),
            _ => Case::ints(name, ""),
        }
        .class();
        let by_row = !matches!(name, "__call__" | "lines");
        if by_row {
            case.mode = CallMode::Map;
        }
        case.spec.body = self.class.spec.body.clone();
        case.spec.name = match name {
            "__call__" => actor.to_owned(),
            _ => format!("{actor}.{name}"),
        };
        case.spec.actor = Some(MethodOf {
            actor: actor.to_owned(),
            method: name.to_owned(),
            by_row,
            problem: None,
        });
        case
    }

    pub fn pool(&self, actor: &str, method: &str) -> Arc<dyn UdfPool> {
        let call = self.method(actor, method).call();
        self.host.open_pool(call).unwrap()
    }

    /// One value through a method.
    pub async fn call(&self, actor: &str, method: &str, x: i64) -> Result<i64, UdfError> {
        let pool = self.pool(actor, method);
        let out = run(&pool, one(method, x)).await?;
        Ok(values(&out)[0].unwrap())
    }

    pub fn info(&self, actor: &str) -> ActorInfo {
        let mut all = self.host.list().into_iter();
        all.find(|info| info.name == actor).unwrap()
    }

    /// Waits until the actor is in `state`.
    pub async fn until(&self, actor: &str, state: ActorState) -> ActorInfo {
        let since = Instant::now();
        loop {
            let info = self.info(actor);
            if info.state == state {
                return info;
            }
            assert!(since.elapsed() < PATIENCE, "{info:?}");
            tokio::task::yield_now().await;
        }
    }

    pub async fn end(self) {
        self.host.shutdown();
        self.manager.shutdown().await;
    }
}

/// A row for a method: of `x`, or of nothing.
pub fn one(method: &str, x: i64) -> arrow::array::RecordBatch {
    use arrow::array::{RecordBatch, RecordBatchOptions};
    match method {
        "get" | "pid" => {
            let options = RecordBatchOptions::new().with_row_count(Some(1));
            let schema = Arc::new(Schema::empty());
            RecordBatch::try_new_with_options(schema, vec![], &options).unwrap()
        }
        _ => ints([Some(x)]),
    }
}
