//! Native functions in SQL: they answer as the same functions in Python, and what
//! goes wrong in one ends its query alone.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use futures::{StreamExt, TryStreamExt};
use mobula_execution::{Engine, EngineSettings, RustFunctions};
use mobula_flight_server::{Database, Outcome, ServerError, Session};
use mobula_plan::MobulaOptions;
use mobula_tests::python;
use mobula_udfs::native::NativeBatches;
use mobula_udfs::{FunctionSpec, Literal, Native, NativeError, NativeInstance};

const INT: DataType = DataType::Int64;

/// The functions of [`native`], in Python and with other names.
const PYTHON: &str = "
CREATE FUNCTION py_inc(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE AS $$
def py_inc(value):
    return value + 1
$$;
CREATE FUNCTION py_strict(value BIGINT) RETURNS BIGINT LANGUAGE python IMMUTABLE STRICT AS $$
def py_strict(value):
    return value + 1
$$;
CREATE FUNCTION py_odd(value BIGINT) RETURNS BOOLEAN LANGUAGE python IMMUTABLE AS $$
def py_odd(value):
    return value % 2 == 1
$$;
CREATE FUNCTION py_small(row TABLE) RETURNS BOOLEAN LANGUAGE python IMMUTABLE AS $$
def py_small(row):
    return row['value'] < 4
$$;
CREATE FUNCTION py_twice(rows TABLE) RETURNS TABLE(v BIGINT) LANGUAGE python IMMUTABLE AS $$
def py_twice(rows):
    for v in rows['value']:
        yield {'v': [v, v]}
$$;
CREATE FUNCTION py_double(row TABLE) RETURNS TABLE(v BIGINT) LANGUAGE python IMMUTABLE AS $$
def py_double(row):
    return {'v': 2 * row['value']}
$$;
CREATE FUNCTION py_again(row TABLE) RETURNS TABLE(v BIGINT) LANGUAGE python IMMUTABLE AS $$
def py_again(row):
    return [{'v': row['value']}] * 2
$$;
CREATE FUNCTION py_batch(value BIGINT) RETURNS BIGINT LANGUAGE python AS $$
class py_batch:
    def __init__(self, start):
        self.last = start

    def __call__(self, value):
        self.last += 1
        return [self.last] * len(value)
$$;
";

/// Each is asked with `FN_` as `py_` and as `rs_`.
const QUERIES: &[&str] = &[
    "SELECT value, FN_inc(value) FROM generate_series(1, 5)",
    "SELECT FN_inc(FN_inc(value)) + FN_inc(0) FROM generate_series(1, 5)",
    "SELECT value FROM generate_series(1, 9) WHERE FN_inc(value) > 7",
    "SELECT FN_inc(value % 3) AS k, count(*) FROM generate_series(1, 9) GROUP BY FN_inc(value % 3)",
    "SELECT sum(FN_inc(value)) FROM generate_series(1, 100000)",
    "SELECT value FROM generate_series(1, 4) ORDER BY FN_inc(-value)",
    "SELECT FN_strict(value) FROM (VALUES (1), (NULL), (3)) AS t(value)",
    "SELECT sum(FN_inc) FROM map_batches(TABLE(SELECT value FROM generate_series(1, 1000)), FN_inc, batch_size => 7, concurrency => 3)",
    "SELECT * FROM map(TABLE(SELECT value FROM generate_series(1, 5)), FN_inc)",
    "SELECT * FROM filter(TABLE(SELECT value FROM generate_series(1, 9)), FN_odd)",
    "SELECT * FROM filter(TABLE(SELECT value FROM generate_series(1, 9)), FN_small)",
    "SELECT * FROM map_batches(TABLE(SELECT value FROM generate_series(1, 3)), FN_twice, concurrency => 1)",
    "SELECT count(*), sum(v) FROM map_batches(TABLE(SELECT value FROM generate_series(1, 1000)), FN_twice, batch_size => 10)",
    "SELECT * FROM map(TABLE(SELECT value FROM generate_series(1, 3)), FN_double, concurrency => 1)",
    "SELECT count(*), sum(v) FROM flat_map(TABLE(SELECT value FROM generate_series(1, 20000)), FN_again)",
    "SELECT * FROM map_batches(TABLE(SELECT value FROM generate_series(1, 6) ORDER BY value DESC), FN_batch(start => 10), batch_size => 4)",
];

fn ints(batch: &RecordBatch) -> Result<&Int64Array, NativeError> {
    let column = batch.column_by_name("value").ok_or("there is no value")?;
    column.as_primitive_opt().ok_or_else(|| "not Int64".into())
}

fn v(values: impl IntoIterator<Item = Option<i64>>) -> Result<RecordBatch, NativeError> {
    let values: ArrayRef = Arc::new(Int64Array::from_iter(values));
    Ok(RecordBatch::try_from_iter_with_nullable([(
        "v", values, true,
    )])?)
}

fn inc(batch: &RecordBatch) -> Result<ArrayRef, NativeError> {
    Ok(Arc::new(ints(batch)?.unary::<_, Int64Type>(|v| v + 1)))
}

/// Numbers its batches, as `py_batch`.
struct Batches(i64);

impl NativeInstance for Batches {
    fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError> {
        self.0 += 1;
        let numbers = v(vec![Some(self.0); batch.num_rows()]);
        Ok(Box::new(std::iter::once(numbers)))
    }
}

fn native() -> RustFunctions {
    let x = || [("value", INT)];
    let table = || [Field::new("v", INT, true)];
    let twice = |batch: RecordBatch| v(ints(&batch)?.iter().flat_map(|v| [v, v]));
    let double = |batch: RecordBatch| v(ints(&batch)?.iter().map(|v| v.map(|v| 2 * v)));
    let strict = |batch: &RecordBatch| match ints(batch)?.null_count() {
        0 => inc(batch),
        _ => Err("STRICT, and there is a NULL".into()),
    };
    let odd = |batch: &RecordBatch| -> Result<ArrayRef, NativeError> {
        let odd = BooleanArray::from_unary(ints(batch)?, |v| v % 2 == 1);
        Ok(Arc::new(odd))
    };
    let small = |batch: &RecordBatch| Ok(BooleanArray::from_unary(ints(batch)?, |v| v < 4));
    let endless = |_| Ok(std::iter::repeat_with(|| v([Some(1)])));
    let picky = |batch: &RecordBatch| {
        assert!(
            ints(batch)?.iter().all(|v| v != Some(7)),
            "seven is refused"
        );
        inc(batch)
    };
    let open = |args: &[(String, Literal)]| match args {
        [(name, Literal::Int(start))] if name == "start" => Ok(Batches(*start)),
        _ => Err("takes start => a whole number".into()),
    };
    let actor = FunctionSpec::native_scalar("rs_batch", x(), INT);
    let mut functions = RustFunctions::new();
    for function in [
        Native::scalar("rs_inc", x(), INT, inc).immutable(),
        Native::scalar("rs_strict", x(), INT, strict)
            .immutable()
            .strict(),
        Native::scalar("rs_odd", x(), DataType::Boolean, odd).immutable(),
        Native::filter("rs_small", small).immutable(),
        Native::table("rs_twice", table(), twice).immutable(),
        Native::table("rs_double", table(), double).immutable(),
        Native::table("rs_again", table(), twice).immutable(),
        Native::actor(actor, open),
        Native::generator("rs_endless", table(), endless),
        Native::scalar("rs_picky", x(), INT, picky),
    ] {
        functions = functions.with_native(function).unwrap();
    }
    functions
}

async fn session() -> Arc<Session> {
    let settings = EngineSettings {
        options: MobulaOptions::default(),
        python: python(),
    };
    let engine = Engine::embedded_with(settings, native()).unwrap();
    let database = Database::open(engine, None).await.unwrap();
    database.new_session().unwrap()
}

async fn answer(session: &Session, sql: &str) -> Result<String, ServerError> {
    let Outcome::Rows(run) = session.sql(sql).await? else {
        return Ok(String::new());
    };
    let blocks: Vec<RecordBatch> = run.stream.try_collect().await?;
    Ok(pretty_format_batches(&blocks).unwrap().to_string())
}

/// The rows of an answer, as lines without their head.
fn rows(answer: &str) -> Vec<&str> {
    let lines = answer.lines().filter(|line| line.starts_with('|'));
    lines.skip(1).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_and_python_functions_answer_alike() {
    let session = session().await;
    for create in PYTHON
        .split_inclusive("$$;")
        .filter(|sql| sql.contains("CREATE"))
    {
        // The body ends with the second "$$;" of each.
        answer(&session, create.trim().trim_end_matches(';'))
            .await
            .unwrap();
    }
    for query in QUERIES {
        let python = answer(&session, &query.replace("FN_", "py_"))
            .await
            .unwrap();
        let native = answer(&session, &query.replace("FN_", "rs_"))
            .await
            .unwrap();
        let (mut python, mut native) = (rows(&python), rows(&native));
        if !query.contains("ORDER BY") {
            python.sort_unstable();
            native.sort_unstable();
        }
        assert!(!native.is_empty(), "{query}");
        // Widths of columns follow their names, which are equally long.
        assert_eq!(native, python, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_ends_an_endless_answer() {
    let session = session().await;
    let sql = "SELECT count(*) FROM (SELECT * FROM map_batches(TABLE(SELECT 1 AS value), rs_endless) LIMIT 10)";
    assert_eq!(
        rows(&answer(&session, sql).await.unwrap()),
        ["| 10       |"]
    );
    let endless = "SELECT * FROM map_batches(TABLE(SELECT 1 AS value), rs_endless)";
    let Outcome::Rows(mut run) = session.sql(endless).await.unwrap() else {
        unreachable!("a query gives rows");
    };
    run.stream.next().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_its_query_alone() {
    let session = session().await;
    let sql = "SELECT sum(rs_picky(value)) FROM generate_series(1, 9)";
    let error = answer(&session, sql).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "function \"rs_picky\" failed: panicked: seven is refused"
    );
    let fine = sql.replace('9', "6");
    assert_eq!(rows(&answer(&session, &fine).await.unwrap()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_analyze_counts_threads_and_no_bytes() {
    let session = session().await;
    let sql = "EXPLAIN ANALYZE SELECT sum(rs_inc) FROM map_batches(\
               TABLE(SELECT value FROM generate_series(1, 100000)), rs_inc, concurrency => 1)";
    let text = answer(&session, sql).await.unwrap();
    for part in [
        "udf=rs_inc, kind=scalar, language=native, volatility=immutable, batch_size=block, concurrency=1",
        "calls=2",
        "workers_started=1",
        "bytes_to_workers=0",
        "user_time=",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
