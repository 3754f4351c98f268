"""Mobula: SQL with Python functions and actors, in this process or on a cluster.

    import mobula

    orders = mobula.read_parquet("orders/*.parquet")
    large = orders.filter(expr="total > 1000").map(lambda row: {"who": row["name"].upper()})
    mobula.sql("SELECT who, count(*) AS n FROM large GROUP BY who").show()

The functions here work on an engine that starts at the first use and ends with this process;
`connect` gives others. See docs/guide/python.md.
"""

from __future__ import annotations

from .call_context import Context, context
from .compute import ActorPoolStrategy, TaskPoolStrategy
from .connection import Connection, connect
from .dataset import Dataset
from .declared import actor, func
from .default import (
    default_connection,
    from_arrow,
    from_huggingface,
    from_items,
    from_numpy,
    from_pandas,
    from_polars,
    range,
    read_binary_files,
    read_csv,
    read_images,
    read_json,
    read_parquet,
    read_text,
    sql,
)
from .epochs import Epoch, Epochs
from .errors import (
    CodeRefused,
    ConnectionFailed,
    EngineFailed,
    Error,
    FunctionFailed,
    LoginFailed,
    NotSupported,
    QueryFailed,
)
from .grouped import GroupedData
from .splitting import DataIterator

# DB-API 2.0 (PEP 249).
apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"

__all__ = [
    "ActorPoolStrategy",
    "CodeRefused",
    "Connection",
    "ConnectionFailed",
    "Context",
    "DataIterator",
    "Dataset",
    "EngineFailed",
    "Epoch",
    "Epochs",
    "Error",
    "FunctionFailed",
    "GroupedData",
    "LoginFailed",
    "NotSupported",
    "QueryFailed",
    "TaskPoolStrategy",
    "actor",
    "apilevel",
    "connect",
    "context",
    "default_connection",
    "from_arrow",
    "from_huggingface",
    "from_items",
    "from_numpy",
    "from_pandas",
    "from_polars",
    "func",
    "paramstyle",
    "range",
    "read_binary_files",
    "read_csv",
    "read_images",
    "read_json",
    "read_parquet",
    "read_text",
    "sql",
    "threadsafety",
]
