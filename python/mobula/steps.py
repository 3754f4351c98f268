"""The steps of a dataset: a tree that becomes one SQL query when somebody reads it.

Each step is a named query of a WITH clause (`mobula_1`, `mobula_2`, …), so that long chains
do not nest: SQL and Python end up in one logical plan, and the engine's optimizer sees all
of it. Rendering asks the server only where a step cannot be written without the columns of
its input, and to declare user code.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from . import calls, sql_text
from .bound import Values
from .errors import QueryFailed
from .functions import Code

if TYPE_CHECKING:
    import pyarrow as pa

    from .connection import Connection
    from .declared import Func


class Step:
    """One operator, with its inputs."""

    title: str = ""
    """What `label` says, unless it is made of other fields."""

    @property
    def inputs(self) -> tuple[Step, ...]:
        """The steps it has its rows from."""
        return ()

    @property
    def label(self) -> str:
        """What it is, in a line."""
        return self.title

    def sql(self, query: Rendering) -> str:
        """Its query, over the names that `query` gives to its inputs."""
        raise NotImplementedError

    def first_sql(self, query: Rendering, limit: int) -> str | None:
        """A query for its first rows that a function may be called for; `None`: by LIMIT."""
        return None


class Rendering:
    """Makes a query of a tree of steps. A context, in which the query has to begin to run."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.values: Values = Values()
        self._names: dict[tuple[int, bool], str] = {}
        # A call of user code is refused an ORDER BY over what it does not get.
        self.is_below_call = False
        self._parts: dict[str, str] = {}

    def __enter__(self) -> Rendering:
        self._began = self.connection._functions.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection._functions.end(self._began)

    def query(self, step: Step) -> str:
        """The whole query of `step`."""
        return self.over(step.sql(self))

    def name_of(self, step: Step, *, is_below_call: bool | None = None) -> str:
        """The name under which other steps find the rows of this one. `is_below_call`: for user
        code, or not for it; otherwise as what asks."""
        before = self.is_below_call
        if is_below_call is not None:
            self.is_below_call = is_below_call
        key = id(step), self.is_below_call
        try:
            if key not in self._names:
                sql = step.sql(self)
                name = f"mobula_{len(self._parts) + 1}"
                self._parts[name] = sql
                self._names[key] = name
            return self._names[key]
        finally:
            self.is_below_call = before

    def over(self, sql: str) -> str:
        """`sql`, which may use the names given so far, as a query of its own."""
        return sql_text.with_relations(sql, self._parts)

    def columns_of(self, step: Step) -> list[str]:
        """The names of its columns, from the server."""
        return self.connection._link.schema(self.alone(f"SELECT * FROM {self.name_of(step)}")).names

    def with_functions(self, text: str, functions: Mapping[str, Func[..., Any]]) -> str:
        """`text`, which calls them by the names that they have on the server."""
        return calls.with_calls(text, {name: self.connection._functions.named(one) for name, one in functions.items()})

    def with_plain_names(self, sql: str, functions: Mapping[str, Func[..., Any]]) -> str:
        """The query `sql`, whose columns without a name of their own are called after functions as the
        user calls them, not as the server does."""
        if not functions or not sql_text.is_query(sql):
            return sql
        called = {self.connection._functions.named(one): name for name, one in functions.items()}
        given = self.connection._link.schema(self.alone(sql)).names
        plain = [re.sub("|".join(map(re.escape, called)), lambda found: called[found[0]], column) for column in given]
        if plain == given:
            return sql
        # By their places: parameters have other names where they are bound.
        return f"SELECT * FROM ({sql}) AS named({sql_text.names(plain)})"

    def alone(self, sql: str) -> str:
        """As `over`, with literals for what else is bound beside it."""
        return self.values.as_literals(self.over(sql))


@dataclasses.dataclass(frozen=True, eq=False)
class Query(Step):
    """A query of the user's, over named relations of theirs, with values for its `$name`."""

    text: str
    relations: Mapping[str, Step] = dataclasses.field(default_factory=dict[str, Any])
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    functions: Mapping[str, Func[..., Any]] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def inputs(self) -> tuple[Step, ...]:
        return tuple(self.relations.values())

    @property
    def label(self) -> str:
        text = " ".join(self.text.split())
        return f"sql {text if len(text) <= 60 else text[:59] + '…'}"

    def sql(self, query: Rendering) -> str:
        relations = {name: f"SELECT * FROM {query.name_of(step, is_below_call=False)}" for name, step in self.relations.items()}
        text = query.with_functions(query.values.placed(self.text, self.values), self.functions)
        return query.with_plain_names(sql_text.with_relations(text, relations), self.functions)


@dataclasses.dataclass(frozen=True, eq=False)
class Local(Step):
    """Rows of this process, which the server is given at their first use."""

    read: Callable[[], pa.RecordBatchReader]
    title: str

    def sql(self, query: Rendering) -> str:
        return f"SELECT * FROM {query.connection._uploaded(self, self.read)}"


@dataclasses.dataclass(frozen=True, eq=False)
class Wrapped(Step):
    """SQL around its input: projections, conditions, orders, limits, groups."""

    before: str
    source: Step
    after: str
    title: str
    functions: Mapping[str, Func[..., Any]] = dataclasses.field(default_factory=dict[str, Any])
    # What it does with an order of rows (`orders.py`): sorts, or limits, filters or projects rows
    # that have one. Otherwise they have none behind it.
    order: Literal["sort", "limit", "filter", "project", None] = None
    # Whether an operator gets the rows, in the order that they have.
    is_call: bool = False

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.source,)

    def sql(self, query: Rendering) -> str:
        before = query.with_functions(self.before, self.functions)
        after = query.with_functions(self.after, self.functions)
        if self.order == "limit" and query.is_below_call:
            first = self.source.first_sql(query, int(after.split()[-1]))
            if first is not None:
                return first
        # What comes first is known of an ORDER BY.
        is_below_call = True if self.is_call else False if self.order == "limit" else None
        return f"{before} FROM {query.name_of(self.source, is_below_call=is_below_call)}{after}"


@dataclasses.dataclass(frozen=True, eq=False)
class Renamed(Step):
    """Other names for columns, in their places."""

    source: Step
    names: Mapping[str, str] | list[str]

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.source,)

    @property
    def label(self) -> str:
        return f"rename_columns {self.names}"

    def sql(self, query: Rendering) -> str:
        columns = query.columns_of(self.source)
        if isinstance(self.names, list):
            if len(self.names) != len(columns):
                raise QueryFailed(f"rename_columns gives {len(self.names)} names for {len(columns)} columns: {', '.join(columns)}")
            mapped = dict(zip(columns, self.names))
        else:
            _check_known(self.names, columns, "rename_columns")
            mapped = dict(self.names)
        made = [mapped.get(column, column) for column in columns]
        for name in made:
            if made.count(name) > 1:
                named = ", ".join(column for column, one in zip(columns, made) if one == name)
                raise QueryFailed(f'rename_columns gives several columns the name "{name}": {named}')
        items = (f"{sql_text.name(column)} AS {sql_text.name(name)}" for column, name in zip(columns, made))
        return f"SELECT {', '.join(items)} FROM {query.name_of(self.source)}"


@dataclasses.dataclass(frozen=True, eq=False)
class WithColumn(Step):
    """A column more, or another expression for one that is there."""

    source: Step
    column: str
    expression: str
    functions: Mapping[str, Func[..., Any]] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.source,)

    @property
    def label(self) -> str:
        return f"with_column {self.column} = {self.expression}"

    def sql(self, query: Rendering) -> str:
        expression = query.with_functions(self.expression, self.functions)
        columns, made = query.columns_of(self.source), f"({expression}) AS {sql_text.name(self.column)}"
        kept = [made if column == self.column else sql_text.name(column) for column in columns]
        if self.column not in columns:
            kept.append(made)
        return f"SELECT {', '.join(kept)} FROM {query.name_of(self.source)}"


@dataclasses.dataclass(frozen=True, eq=False)
class Union(Step):
    """All rows of several, columns matched by name."""

    sources: tuple[Step, ...]
    title: str = "union"

    @property
    def inputs(self) -> tuple[Step, ...]:
        return self.sources

    def sql(self, query: Rendering) -> str:
        return " UNION ALL BY NAME ".join(f"SELECT * FROM {query.name_of(step)}" for step in self.sources)


@dataclasses.dataclass(frozen=True, eq=False)
class Apply(Step):
    """User code, called by one of the engine's operators."""

    source: Step
    code: Code

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.source,)

    @property
    def label(self) -> str:
        options = "".join(f", {key}={value}" for key, value in self.code.options.items())
        return f"{self.code.operator} {self.code.packed.name}{options}"

    def sql(self, query: Rendering) -> str:
        name = query.name_of(self.source, is_below_call=True)
        # A query that stands alone: rows to learn from are read by it.
        learned = query.alone(f"SELECT * FROM {name}")
        return query.connection._functions.call(self.code, f"SELECT * FROM {name}", learned)


JOINS = {
    "inner": "INNER JOIN",
    "left_outer": "LEFT JOIN",
    "right_outer": "RIGHT JOIN",
    "full_outer": "FULL JOIN",
    "left_semi": "LEFT SEMI JOIN",
    "right_semi": "RIGHT SEMI JOIN",
    "left_anti": "LEFT ANTI JOIN",
    "right_anti": "RIGHT ANTI JOIN",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Join(Step):
    """An equi-join. Keys come out once, under their names on the left."""

    left: Step
    right: Step
    kind: str
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    suffixes: tuple[str | None, str | None]

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.left, self.right)

    @property
    def label(self) -> str:
        return f"join {self.kind} on {', '.join(self.left_on)}"

    def sql(self, query: Rendering) -> str:
        sides = [query.name_of(self.left), query.name_of(self.right)]
        pairs = zip(self.left_on, self.right_on)
        condition = " AND ".join(f"l.{sql_text.name(a)} = r.{sql_text.name(b)}" for a, b in pairs)
        items = self._items(query.columns_of(self.left), query.columns_of(self.right))
        return f"SELECT {', '.join(items)} FROM {sides[0]} AS l {JOINS[self.kind]} {sides[1]} AS r ON {condition}"

    def _items(self, left: list[str], right: list[str]) -> list[str]:
        _check_known(self.left_on, left, "join")
        _check_known(self.right_on, right, "join")
        if self.kind.endswith(("_semi", "_anti")):
            side, columns = ("l", left) if self.kind.startswith("left") else ("r", right)
            return [f"{side}.{sql_text.name(column)}" for column in columns]
        rest = [column for column in right if column not in self.right_on]
        twice = {column for column in rest if column in left}
        if twice and not any(self.suffixes):
            raise QueryFailed(f"both sides of the join have {', '.join(sorted(twice))}. Give left_suffix or right_suffix")
        items: list[str] = []
        for column in left:
            shown = f"l.{sql_text.name(column)}"
            if column in self.left_on and self.kind in ("right_outer", "full_outer"):
                other = self.right_on[self.left_on.index(column)]
                shown = f"COALESCE({shown}, r.{sql_text.name(other)})"
            renamed = column + (self.suffixes[0] or "") if column in twice and column not in self.left_on else column
            items.append(f"{shown} AS {sql_text.name(renamed)}")
        for column in rest:
            renamed = column + (self.suffixes[1] or "") if column in twice else column
            items.append(f"r.{sql_text.name(column)} AS {sql_text.name(renamed)}")
        return items


def _check_known(asked: Iterable[str], columns: list[str], what: str) -> None:
    for column in asked:
        if column not in columns:
            raise QueryFailed(f'{what} names column "{column}", which is not there. There are {", ".join(columns)}')


def tree(step: Step, depth: int = 0) -> str:
    """The steps, one a line, each over its inputs."""
    lines = ["  " * depth + step.label]
    lines.extend(tree(one, depth + 1) for one in step.inputs)
    return "\n".join(lines)
