//! Functions that fail or do not fit their declaration: the message says how.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use mobula_udfs::{Literal, UdfErrorClass};

use crate::bench::*;

#[tokio::test]
async fn results_that_do_not_fit_say_how() {
    for (body, expected) in [
        (
            "return x[:2]",
            "function \"f\" returned 2 values for 3 rows. Return one value per row",
        ),
        (
            "return 1",
            "function \"f\" returned 1 value (int) for 3 rows. Return one value per row",
        ),
        (
            "return x.sum()",
            "function \"f\" returned 1 value (int64) for 3 rows. Return one value per row",
        ),
        (
            "pass",
            "function \"f\" returned None for 3 rows. Return one value per row",
        ),
        (
            "return ['a', 'b', 'c']",
            "function \"f\" returned values that are not int64: ",
        ),
        (
            "return np.array(['a', 'b', 'c'])",
            "function \"f\" returned string, but int64 is declared",
        ),
        (
            "return x + 0.5",
            "function \"f\" returned values that are not int64: ",
        ),
        (
            "return x.astype('datetime64[s]')",
            "function \"f\" returned timestamp[s], but int64 is declared",
        ),
        (
            "return Unreadable()",
            "function \"f\" returned a Unreadable that cannot be read: RuntimeError: no",
        ),
        (
            "return {'x': x}",
            "function \"f\" returned a dict. Return a numpy or Arrow array or a list",
        ),
        (
            "return x.reshape(3, 1)",
            "function \"f\" returned an array of shape (3, 1), but int64 is declared",
        ),
    ] {
        let unreadable = "class Unreadable:\n    def __array__(self): raise RuntimeError('no')";
        let body = format!("\nimport numpy as np\n{unreadable}\ndef f(x):\n    {body}");
        let error = Case::ints("f", &body).fails(counting(3)).await;
        assert!(
            error.to_string().starts_with(expected),
            "{error}\n{expected}"
        );
        assert_eq!(error.class(), UdfErrorClass::User);
    }
}

#[tokio::test]
async fn values_of_another_kind_are_not_made_to_fit() {
    let of = |fields: &[(&str, DataType)]| {
        let fields = fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true));
        DataType::Struct(fields.collect())
    };
    let list = |t| DataType::List(Arc::new(Field::new("item", t, true)));
    for (value, declared, expected) in [
        ("1", DataType::Date32, "int64, but date32[day] is declared"),
        (
            "1",
            DataType::Boolean,
            "values that are not bool: Could not convert 1",
        ),
        (
            "'ab'",
            list(DataType::Utf8),
            "string, but list<item: string> is declared",
        ),
        (
            "[1]",
            list(DataType::Date32),
            "list<item: int64>, but list<item: date32[day]> is declared",
        ),
        (
            "{'b': 1}",
            of(&[("a", DataType::Int64)]),
            "struct<b: int64>, but struct<a: int64> is declared",
        ),
        (
            "1e300",
            DataType::Float32,
            "values that are not float: a value is too large",
        ),
        (
            "[1e300]",
            list(DataType::Float32),
            "values that are not list<item: float>: a value is too large",
        ),
        (
            "99999",
            DataType::Decimal128(5, 2),
            "values that are not decimal128(5, 2): ",
        ),
    ] {
        let body = format!("\ndef f(x): return [{value}] * len(x)");
        let error = Case::scalar("f", &[("x", DataType::Int64)], declared, &body);
        let error = error.fails(counting(3)).await.to_string();
        assert!(
            error.starts_with(&format!("function \"f\" returned {expected}")),
            "{error}"
        );
    }
    // A key may be missing, and whole numbers and floats are decimals.
    for (value, declared) in [
        (
            "{'a': 1}",
            of(&[("a", DataType::Int64), ("b", DataType::Utf8)]),
        ),
        ("2.5", DataType::Decimal128(5, 2)),
        ("1", DataType::Decimal128(5, 2)),
        ("True", DataType::Boolean),
        ("float('inf')", DataType::Float32),
    ] {
        let body = format!("\ndef f(x): return [{value}] * len(x)");
        let case = Case::scalar("f", &[("x", DataType::Int64)], declared, &body);
        assert_eq!(
            case.once(counting(3)).await.unwrap().num_rows(),
            3,
            "{value}"
        );
    }
}

#[tokio::test]
async fn relations_that_do_not_fit_say_how() {
    for (body, expected) in [
        (
            "return {'b': rows['x']}",
            "function \"f\" returned a relation without column \"a\". Declared: a, b; returned: b",
        ),
        (
            "return {'a': rows['x'], 'b': rows['x'], 'c': []}",
            "function \"f\" returned a relation with a column \"c\" that is not declared. Declared: a, b; returned: a, b, c",
        ),
        (
            "return {'a': [1, 2], 'b': [1]}",
            "function \"f\" returned 2 values in column \"a\" but 1 in column \"b\"",
        ),
        (
            "return {'a': [1], 'b': 1}",
            "function \"f\" returned 1 value (int) as column \"b\". Return an array of one value per row",
        ),
        (
            "import pyarrow; return pyarrow.table([[1], [2], [3]], names=['a', 'b', 'b'])",
            "function \"f\" returned two columns named \"b\"",
        ),
        (
            "import pandas; return pandas.DataFrame([[1, 2, 3]], columns=['a', 'b', 'b'])",
            "function \"f\" returned two columns named \"b\"",
        ),
        (
            "return type('Odd', (dict,), {'__iter__': None, 'keys': None})(a=[1], b=[2])",
            "function \"f\" returned a Odd that cannot be read: TypeError: ",
        ),
        (
            "return {'a': [1], 'b': ['x']}",
            "function \"f\" returned column \"b\" as values that are not int64: ",
        ),
        (
            "return None",
            "function \"f\" returned None, but a relation is declared. ",
        ),
        (
            "yield 5",
            "function \"f\" yielded 1 value (int), but a relation is declared. ",
        ),
    ] {
        let body = format!("\ndef f(rows):\n    {body}");
        let f = Case::table(
            "f",
            &[("a", DataType::Int64), ("b", DataType::Int64)],
            &body,
        );
        let error = f.fails(counting(3)).await;
        assert!(
            error.to_string().starts_with(expected),
            "{error}\n{expected}"
        );
    }
}

#[tokio::test]
async fn exceptions_name_the_users_line() {
    let body = "
def inner(a):
    return 1 // a

def net(x):
    y = 5
    return [inner(v) for v in x.tolist()]
";
    let error = Case::ints("net", body).fails(counting(3)).await;
    assert_eq!(
        error.to_string(),
        "function \"net\" failed: ZeroDivisionError: integer division or modulo by zero (line 3: return 1 // a)"
    );
    let traceback = error.traceback().unwrap();
    assert!(
        traceback.contains("File \"<function net>\", line 7, in net"),
        "{traceback}"
    );
    assert!(
        traceback.contains("return [inner(v) for v in x.tolist()]"),
        "{traceback}"
    );
    assert!(!traceback.contains("mobula"), "{traceback}");
    assert_eq!(error.class(), UdfErrorClass::User);
}

#[tokio::test]
async fn exits_and_odd_exceptions_are_the_users() {
    for (raise, expected) in [
        (
            "raise SystemExit(3)",
            "SystemExit: 3 (line 3: raise SystemExit(3))",
        ),
        (
            "raise KeyError('k')",
            "KeyError: 'k' (line 3: raise KeyError('k'))",
        ),
        (
            "raise ValueError('\\ud800 a\\n  b')",
            "ValueError: ? a b (line 3: ",
        ),
        (
            "raise KeyboardInterrupt",
            "KeyboardInterrupt (line 3: raise KeyboardInterrupt)",
        ),
        (
            "import nowhere",
            "ModuleNotFoundError: No module named 'nowhere' (line 3: import nowhere)",
        ),
        ("import pyarrow; pyarrow.array([1, 'a'])", "ArrowInvalid: "),
    ] {
        let error = Case::ints("f", &format!("\ndef f(x):\n    {raise}"))
            .fails(counting(1))
            .await;
        let expected = format!("function \"f\" failed: {expected}");
        assert!(
            error.to_string().starts_with(&expected),
            "{error}\n{expected}"
        );
        assert!(!error.traceback().unwrap().contains("<mobula"));
    }
}

#[tokio::test]
async fn an_exception_without_a_text_is_still_the_users() {
    for raise in ["raise ValueError('no')", "raise SystemExit"] {
        let body = format!(
            "
class Mute(Exception):
    def __str__(self):
        {raise}
def f(x):
    raise Mute()"
        );
        let error = Case::ints("f", &body).fails(counting(1)).await;
        let expected = "function \"f\" failed: Mute: its text cannot be read: ";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(error.class(), UdfErrorClass::User);
    }
}

#[tokio::test]
async fn a_failed_call_leaves_the_worker_and_the_actor_in_place() {
    let body = "
class Odd:
    def __init__(self):
        self.calls = 0
    def __call__(self, x):
        self.calls += 1
        if self.calls % 2:
            raise ValueError(self.calls)
        return x * 0 + self.calls";
    let manager = manager();
    let pool = Case::ints("odd", body).class().pool(&manager, 1);
    for call in 1..=4 {
        let out = run(&pool, counting(1)).await;
        match call % 2 {
            1 => assert!(
                out.unwrap_err()
                    .to_string()
                    .contains(&format!("ValueError: {call}"))
            ),
            _ => assert_eq!(values(&out.unwrap()), [Some(call)]),
        }
    }
    assert_eq!(pool.stats().workers_started, 1);
    manager.shutdown().await;
}

#[tokio::test]
async fn describe_refuses_what_cannot_be_called() {
    let manager = manager();
    for (body, expected) in [
        (
            "def f(:",
            "function \"f\" failed: SyntaxError: invalid syntax (line 1: def f(:)",
        ),
        (
            "\n\nx = 1 / 0",
            "function \"f\" failed: ZeroDivisionError: division by zero (line 3: x = 1 / 0)",
        ),
        (
            "x = 1",
            "function \"f\" has a body that defines neither a def nor a class. Define one named f",
        ),
        (
            "def a(x): pass\ndef b(x): pass",
            "function \"f\" has a body that defines a, b, but none is named f. Name one so",
        ),
        (
            "def f(): pass",
            "function \"f\" is declared with 1 parameter (x), but its Python code takes 0 ()",
        ),
        (
            "def f(x, y): pass",
            "function \"f\" is declared with 1 parameter (x), but its Python code takes 2 (x, y)",
        ),
        (
            "def f(x, *, k): pass",
            "function \"f\" has a Python parameter k that needs a keyword, but arguments are given by position",
        ),
        (
            "class f: pass",
            "function \"f\" is the class f without a method __call__. Add one that takes 1 parameter",
        ),
        (
            "class f:\n  def __call__(self): pass",
            "function \"f\" is declared with 1 parameter (x), but its Python code takes 0 ()",
        ),
        (
            "async def f(x): yield x",
            "function \"f\" yields, but returns one value a row. ",
        ),
        (
            "def f(x): yield x",
            "function \"f\" yields, but returns one value a row. ",
        ),
    ] {
        let error = manager
            .describe(&Case::ints("f", body).spec)
            .await
            .unwrap_err();
        assert!(
            error.to_string().starts_with(expected),
            "{error}\n{expected}"
        );
        assert_eq!(error.class(), UdfErrorClass::User);
    }
    let int = DataType::Int64;
    let swapped = Case::scalar(
        "f",
        &[("a", int.clone()), ("b", int.clone())],
        int,
        "def f(b, a): pass",
    );
    let error = manager
        .describe(&swapped.spec)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("declares a as parameter 1 of (a, b), but its Python code has (b, a)"),
        "{error}"
    );
    let table = Case::table("f", &[("x", DataType::Int64)], "def f(t): return t").strict();
    let error = manager.describe(&table.spec).await.unwrap_err().to_string();
    assert!(error.contains("STRICT"), "{error}");
    manager.shutdown().await;
}

#[tokio::test]
async fn constructors_fail_with_the_users_words() {
    let body = "\nclass f:\n  def __init__(self, n):\n    self.n = 10 / n\n  def __call__(self, x): return x";
    let f = Case::ints("f", body).class();
    let error = f.clone().arg("n", Literal::Int(0)).fails(counting(1)).await;
    assert_eq!(
        error.to_string(),
        "function \"f\" failed: ZeroDivisionError: division by zero (line 4: self.n = 10 / n). It was tried 3 times in a row"
    );
    let error = f
        .arg("m", Literal::Null)
        .fails(counting(1))
        .await
        .to_string();
    assert!(
        error.contains("TypeError: f.__init__() got an unexpected keyword argument 'm'"),
        "{error}"
    );
    let def = Case::ints("f", "def f(x): return x").arg("n", Literal::Int(0));
    let error = manager().open_pool(def.call(), 1).unwrap_err().to_string();
    assert!(error.contains("takes no constructor arguments"), "{error}");
}

#[tokio::test]
async fn two_columns_of_one_name_are_refused() {
    let mut f = Case::table("f", &[("x", DataType::Int64)], "def f(rows): return rows");
    let x = || Field::new("x", DataType::Int64, true);
    f.input = Arc::new(Schema::new(vec![x(), x()]));
    let block = counting(2);
    let columns = vec![Arc::clone(block.column(0)), Arc::clone(block.column(0))];
    let block = RecordBatch::try_new(Arc::clone(&f.input), columns).unwrap();
    let error = f.fails(block).await.to_string();
    assert_eq!(
        error,
        "function \"f\" gets two columns named \"x\". Rename one with AS"
    );
}
