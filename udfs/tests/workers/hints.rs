//! The methods of a class and their SQL types, as its type hints say.

use mobula_udfs::{DescribedMethod, FunctionSpec};

use crate::bench::*;

const HINTS: &str = "
import datetime
import decimal
import typing
from typing import Annotated, Optional
import numpy as np
import pandas as pd
import pyarrow as pa
class counter:
    def __call__(self, x): return x
    def a_plain(self, i: int, f: float, s: str, b: bool, y: bytes, d: datetime.date, t: datetime.datetime) -> int: ...
    def b_nested(self, x: list[list[str]], y: Optional[int], z: 'int | None') -> list[float]: ...
    def c_sql(self, x: 'DECIMAL(10,2)', y: 'BIGINT[]') -> 'TIMESTAMP': ...
    def d_late(self, x: 'int', y: 'datetime.date') -> 'list[int]': ...
    def e_nothing(self, x: int) -> None: ...
    def f_batches(self, x: Annotated[pa.Array, 'BIGINT']) -> Annotated[pa.Array, 'DOUBLE']: ...
    def g_table(self, rows: 'TABLE') -> 'TABLE(x BIGINT)': yield rows
    def h_frame(self, rows: Annotated[pd.DataFrame, 'TABLE']) -> 'TABLE(x BIGINT)': ...
    def i_default(self, x: int, y: int = 1, z=2) -> int: ...
    def j_array(self, x: np.ndarray) -> int: ...
    def k_untyped(self, x) -> int: ...
    def l_unsaid(self, x: int): ...
    async def m_async(self, x: int) -> int: ...
    def n_keyword(self, *, x: int) -> int: ...
    def o_yields(self, x: int) -> int: yield x
    def p_own(self, x: 'counter') -> int: ...
    @staticmethod
    def q_static(x: int) -> int: ...
    @property
    def r_property(self) -> int: ...
    def _hidden(self, x: int) -> int: ...
    def snapshot(self) -> bytes: ...
";

/// A described method in a line.
fn line(method: &DescribedMethod) -> String {
    if let Some(problem) = &method.problem {
        let (problem, _) = problem.split_once(". ").unwrap_or((problem, ""));
        return format!("{} {problem}", method.name);
    }
    let params = method.params.iter();
    let params = params.map(|p| format!("{} {}", p.name, p.sql_type.as_deref().unwrap_or("?")));
    let batches = method.batches.map(|format| format!(" in {format}"));
    format!(
        "{}({}) {}{}",
        method.name,
        params.collect::<Vec<_>>().join(", "),
        method.returns.as_deref().unwrap_or("?"),
        batches.unwrap_or_default(),
    )
}

#[tokio::test]
async fn hints_become_types() {
    let manager = manager();
    let class = Case::ints("counter", HINTS).class().spec;
    // The same again in the same worker.
    manager.describe_methods(&class).await.unwrap();
    let described = manager.describe_methods(&class).await;
    let lines: Vec<_> = described.unwrap().iter().map(line).collect();
    let expected = "\
        a_plain(i BIGINT, f DOUBLE, s VARCHAR, b BOOLEAN, y BYTEA, d DATE, t TIMESTAMP) BIGINT
        b_nested(x VARCHAR[][], y BIGINT, z BIGINT) DOUBLE[]
        c_sql(x DECIMAL(10,2), y BIGINT[]) TIMESTAMP
        d_late(x BIGINT, y DATE) BIGINT[]
        e_nothing(x BIGINT) VARCHAR
        f_batches(x BIGINT) DOUBLE in pyarrow
        g_table(rows TABLE) TABLE(x BIGINT) in numpy
        h_frame(rows TABLE) TABLE(x BIGINT) in pandas
        i_default(x BIGINT, y BIGINT) BIGINT
        j_array has the type hint numpy.ndarray for \"x\", which is no SQL type
        k_untyped says no type of \"x\"
        l_unsaid says no type of what it returns
        m_async is async, which is not supported
        n_keyword has the parameter x that needs a keyword, but arguments are given by position
        o_yields yields, but returns one value a row
        p_own has the type hint counter for \"x\", which is no SQL type
        q_static(x BIGINT) BIGINT";
    let expected: Vec<_> = expected.lines().map(str::trim).collect();
    assert_eq!(lines, expected);
    manager.shutdown().await;
}

#[test]
fn a_declaration_of_before_is_read_without_an_actor() {
    let spec = Case::ints("f", "def f(x): return x").spec;
    let decoded = FunctionSpec::decode(&spec.encode().unwrap()).unwrap();
    assert_eq!(decoded.actor, None);
    // The field is not there at all.
    let bytes = spec.encode().unwrap();
    assert!(!bytes.windows(5).any(|part| part == b"actor"));
}
