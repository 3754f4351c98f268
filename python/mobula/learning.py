"""Runs in workers: finds the types of what user code returns, by calling it.

The client asks for it where nobody declared a schema (`probe` in `functions`): the code is
called with the first rows, where it will run anyway, and what comes back says the types, as
in Ray Data. Like `carried`, the text of this file travels, and needs pyarrow alone.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import pyarrow as pa

# A row at a time: until all types are known, and then as long as this, so that a whole
# number in the first row does not hide the fractions of the next.
ROW_SECONDS = 0.2


def teacher(code: Callable[..., Any], rows: bool) -> Callable[[Any], dict[str, Any]]:
    """What the worker calls instead of `code`: it gives one row with the schema.

    `rows`: `code` is called for each row of the list it gets, not for a whole batch.
    """

    def learn(batch: Any) -> dict[str, Any]:
        called = code() if isinstance(code, type) else code
        schema = _of_rows(called, batch) if rows else _of_parts(_result(called, batch))
        found = schema.serialize().to_pybytes()
        # Called with rows, a dict is one of them; else it is columns.
        return {"schema": found if rows else [found]}

    return learn


def _of_rows(code: Callable[..., Any], rows: Iterable[Any]) -> pa.Schema:
    made: list[Any] = []
    schema: pa.Schema | None = None
    until: float | None = None
    for row in rows:
        result = _result(code, row)
        made.extend([result] if _is_mapping(result) else result)
        if made and schema is None:
            schema = _of_dicts(made)
        if schema is not None and not _open(schema):
            until = until or time.monotonic() + ROW_SECONDS
            if time.monotonic() > until:
                break
        else:
            schema = None
    return _of_dicts(made)


def _result(code: Callable[..., Any], given: Any) -> Any:
    """What it returns, also of an async function."""
    result = code(given)
    if inspect.isasyncgen(result):

        async def collected() -> list[Any]:
            return [part async for part in result]

        return asyncio.run(collected())
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _of_parts(value: Any) -> pa.Schema:
    """The schema of a relation, or of several that a generator yields."""
    if _is_relation(value):
        return _of_relation(value)
    if not _is_several(value):
        raise TypeError(
            f"returned {type(value).__name__}. Return a dict of arrays, a RecordBatch, a Table, a DataFrame, or yield those"
        )
    schemas: list[pa.Schema] = []
    for part in value:
        schemas.append(_of_relation(part))
        if not _open(schemas[-1]):
            break
    if not schemas:
        return pa.schema([])
    return pa.unify_schemas(schemas, promote_options="permissive")


def _is_relation(value: Any) -> bool:
    return _is_mapping(value) or _frame(value) is not None


def _is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _is_several(value: Any) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _frame(value: Any) -> pa.Table | None:
    """An Arrow table of a RecordBatch, Table or DataFrame; else None."""
    kind = type(value).__module__.partition(".")[0]
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return value
    if kind == "pandas" and hasattr(value, "columns"):
        return pa.Table.from_pandas(value, preserve_index=False)
    if kind == "polars" and hasattr(value, "columns"):
        return value.to_arrow()
    return None


def _of_relation(value: Any) -> pa.Schema:
    table = _frame(value)
    if table is not None:
        return pa.schema(list(zip(table.schema.names, table.schema.types)))
    if not _is_mapping(value):
        raise TypeError(f"yielded {type(value).__name__}. Yield a dict of arrays, a RecordBatch, a Table or a DataFrame")
    return pa.schema([(str(name), _of_column(name, values)) for name, values in value.items()])


def _of_dicts(rows: Sequence[Any]) -> pa.Schema:
    names: dict[Any, None] = {}
    for row in rows:
        if not _is_mapping(row):
            raise TypeError(f"gave {type(row).__name__} for a row. Give dicts")
        names.update(dict.fromkeys(row))
    return pa.schema([(str(name), _of_column(name, [row.get(name) for row in rows])) for name in names])


def _of_column(name: Any, values: Any) -> pa.DataType:
    try:
        return _of_values(values)
    except (pa.ArrowException, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise TypeError(f'returned column "{name}" with values of which no type is known: {text}. Say it by schema=') from None


def _of_values(values: Any) -> pa.DataType:
    if hasattr(values, "to_arrow"):
        return values.to_arrow().type
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if getattr(values, "ndim", 1) > 1:
        values = list(values)
    if _is_list(values) and any(getattr(value, "ndim", 0) > 1 for value in values):
        values = [value if value is None else value.tolist() for value in values]
    return pa.array(values).type


def _open(schema: pa.Schema) -> bool:
    """Whether a type is not known yet: only None, or no element of a list, has been seen."""
    return not len(schema) or any(_unknown(kind) for kind in schema.types)


def _unknown(kind: pa.DataType) -> bool:
    places = range(kind.num_fields)
    # Its stub says `Field`, of no type.
    inner: list[pa.Field[Any]] = [kind.field(place) for place in places]  # pyright: ignore[reportUnknownMemberType]
    return pa.types.is_null(kind) or any(_unknown(field.type) for field in inner)
