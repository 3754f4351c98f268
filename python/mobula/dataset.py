"""`Dataset`: a lazy table with Ray Data's methods, which is a query underneath.

Methods return new datasets and run nothing. Where Ray Data wants an expression object or a
Python string, this wants SQL: `ds.filter(expr="price > 10 AND day >= DATE '2026-01-01'")`.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import arguments, formats, sql_text
from .compute import Compute, Concurrency, call_options
from .declared import functions_of
from .drawn import Drawn
from .epochs import Repeating
from .errors import QueryFailed
from .functions import Code
from .kept import Keeping
from .packing import pack
from .schemas import Schema, annotated
from .splitting import Splitting
from .steps import JOINS, Apply, Join, Renamed, Step, Union, WithColumn, Wrapped
from .zipped import Zipping

if TYPE_CHECKING:
    from .compute import UserCode
    from .connection import Connection
    from .grouped import GroupedData


class Dataset(Keeping, Splitting, Repeating, Zipping):
    """Rows that somewhere are, or will be computed. Made by `mobula.read_parquet` and its
    like, by `Connection.sql`, and by the methods of other datasets."""

    def __init__(self, connection: Connection, step: Step) -> None:
        self._connection = connection
        self._step = step

    # --- User code

    def map_batches(
        self,
        fn: UserCode,
        *,
        batch_size: int | None = None,
        compute: Compute | None = None,
        batch_format: str | None = "default",
        zero_copy_batch: bool = True,
        fn_args: Iterable[Any] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        fn_constructor_args: Iterable[Any] | None = None,
        fn_constructor_kwargs: Mapping[str, Any] | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory: float | str | None = None,
        concurrency: Concurrency = None,
        resources: Mapping[str, float] | None = None,
        label_selector: Mapping[str, str] | str | None = None,
        schema: Schema | None = None,
        **options: Any,
    ) -> Dataset:
        """Calls `fn` with batches of rows; what it returns are the rows of the new dataset.

        Args:
            fn: a function, or a class that is built once in each actor and called. It gets a
                batch and returns one with any number of rows, or yields several.
            batch_size: rows of a batch; `None`: as the engine cuts them, up to 65,536.
            batch_format: what `fn` gets: `"numpy"` (a dict of arrays), `"pandas"`,
                `"polars"`, `"pyarrow"`, `"rows"` (a list of dicts). It may return any of these.
            zero_copy_batch: arrays are read-only and lie where the engine has them; `False`:
                copies that may be written to.
            compute, concurrency: how many workers; see `ActorPoolStrategy`.
            num_cpus, num_gpus, memory: what each worker asks for, and is counted.
            schema: the columns that come back: a `pyarrow.Schema`, a dict of names and types,
                or SQL text. Without it, `fn` is called with up to 100 first rows to see.
            options: of the engine, such as `timeout="30s"`, `on_error="drop"`, `preserve_order=True`,
                `retry_exceptions=[ConnectionError]`: docs/operators/map_batches.md.

        Raises:
            CodeRefused: `fn` cannot be sent, or what it returns is not known.
            FunctionFailed: when the rows are read, and `fn` raises.

        >>> def double(batch):
        ...     return {"twice": batch["id"] * 2}
        >>> mobula.range(3).map_batches(double).take()
        [{'twice': 0}, {'twice': 2}, {'twice': 4}]
        """
        if batch_size is not None:
            options["batch_size"] = batch_size
        call = _Call(compute, concurrency, num_cpus, num_gpus, memory, resources, label_selector, options)
        form = {"batch_format": sql_text.string(formats.check(batch_format, of_workers=True))}
        if not zero_copy_batch:
            form["zero_copy_batch"] = "FALSE"
        packed = pack(
            fn,
            fn_args=fn_args,
            fn_kwargs=fn_kwargs,
            fn_constructor_args=fn_constructor_args,
            fn_constructor_kwargs=fn_constructor_kwargs,
        )
        code = Code(packed, "map_batches", form | call.sql(packed.is_class), schema)
        return self._then(Apply(self._step, code))

    def map(
        self,
        fn: UserCode,
        *,
        compute: Compute | None = None,
        fn_args: Iterable[Any] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        fn_constructor_args: Iterable[Any] | None = None,
        fn_constructor_kwargs: Mapping[str, Any] | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory: float | str | None = None,
        concurrency: Concurrency = None,
        resources: Mapping[str, float] | None = None,
        label_selector: Mapping[str, str] | str | None = None,
        schema: Schema | None = None,
        **options: Any,
    ) -> Dataset:
        """Calls `fn` with each row, a dict; the dict that it returns is the new row.

        Arguments as those of `map_batches`. A return annotation with fields, such as a
        `TypedDict`, is a schema too. Where `fn` could take arrays, `map_batches` is many
        times faster.

        >>> mobula.range(2).map(lambda row: {"text": f"row {row['id']}"}).take()
        [{'text': 'row 0'}, {'text': 'row 1'}]
        """
        call = _Call(compute, concurrency, num_cpus, num_gpus, memory, resources, label_selector, options)
        packed = pack(
            fn,
            fn_args=fn_args,
            fn_kwargs=fn_kwargs,
            fn_constructor_args=fn_constructor_args,
            fn_constructor_kwargs=fn_constructor_kwargs,
        )
        code = Code(packed, "map", call.sql(packed.is_class), schema if schema is not None else annotated(fn))
        return self._then(Apply(self._step, code))

    def flat_map(
        self,
        fn: UserCode,
        *,
        compute: Compute | None = None,
        fn_args: Iterable[Any] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        fn_constructor_args: Iterable[Any] | None = None,
        fn_constructor_kwargs: Mapping[str, Any] | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory: float | str | None = None,
        concurrency: Concurrency = None,
        resources: Mapping[str, float] | None = None,
        label_selector: Mapping[str, str] | str | None = None,
        schema: Schema | None = None,
        **options: Any,
    ) -> Dataset:
        """Calls `fn` with each row; it returns a list of rows, or yields them.

        Arguments as those of `map`.

        >>> mobula.range(3).flat_map(lambda row: [row] * row["id"]).take()
        [{'id': 1}, {'id': 2}, {'id': 2}]
        """
        call = _Call(compute, concurrency, num_cpus, num_gpus, memory, resources, label_selector, options)
        packed = pack(
            fn,
            fn_args=fn_args,
            fn_kwargs=fn_kwargs,
            fn_constructor_args=fn_constructor_args,
            fn_constructor_kwargs=fn_constructor_kwargs,
        )
        code = Code(packed, "flat_map", call.sql(packed.is_class), schema if schema is not None else annotated(fn))
        return self._then(Apply(self._step, code))

    def filter(
        self,
        fn: UserCode | None = None,
        expr: str | None = None,
        *,
        compute: Compute | None = None,
        fn_args: Iterable[Any] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        fn_constructor_args: Iterable[Any] | None = None,
        fn_constructor_kwargs: Mapping[str, Any] | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory: float | str | None = None,
        concurrency: Concurrency = None,
        resources: Mapping[str, float] | None = None,
        label_selector: Mapping[str, str] | str | None = None,
        **options: Any,
    ) -> Dataset:
        """Keeps the rows for which `fn` says so, or for which the SQL condition `expr` holds.

        An `expr` is planned with everything else: it prunes files and moves below other steps.

        >>> mobula.range(10).filter(expr="id % 4 = 0").filter(lambda row: row["id"] > 0).take()
        [{'id': 4}, {'id': 8}]
        """
        if (fn is None) == (expr is None):
            raise ValueError("filter takes a function or expr, one of them")
        if fn is None:
            condition = sql_text.within(str(expr))
            title = f"filter {condition}"
            return self._then(Wrapped("SELECT *", self._step, f" WHERE {condition}", title, functions_of(condition), "filter"))
        call = _Call(compute, concurrency, num_cpus, num_gpus, memory, resources, label_selector, options)
        packed = pack(
            fn,
            fn_args=fn_args,
            fn_kwargs=fn_kwargs,
            fn_constructor_args=fn_constructor_args,
            fn_constructor_kwargs=fn_constructor_kwargs,
        )
        return self._then(Apply(self._step, Code(packed, "filter", call.sql(packed.is_class))))

    # --- Columns

    def with_column(self, column_name: str, expr: str) -> Dataset:
        """Adds a column of an SQL expression, or replaces the one of that name.

        >>> mobula.range(2).with_column("half", "id / 2.0").take()
        [{'id': 0, 'half': 0.0}, {'id': 1, 'half': 0.5}]
        """
        return self._then(WithColumn(self._step, column_name, sql_text.within(expr), functions_of(expr)))

    def select_columns(self, cols: str | Sequence[str]) -> Dataset:
        """These columns, in this order."""
        chosen = [cols] if isinstance(cols, str) else list(cols)
        if not chosen:
            raise ValueError("select_columns without a column")
        text = f"SELECT {sql_text.names(chosen)}"
        return self._then(Wrapped(text, self._step, "", f"select_columns {', '.join(chosen)}", order="project"))

    def drop_columns(self, cols: str | Sequence[str]) -> Dataset:
        """All columns but these."""
        dropped = [cols] if isinstance(cols, str) else list(cols)
        if not dropped:
            return self
        text = f"SELECT * EXCEPT ({sql_text.names(dropped)})"
        return self._then(Wrapped(text, self._step, "", f"drop_columns {', '.join(dropped)}", order="project"))

    def rename_columns(self, names: Mapping[str, str] | Sequence[str]) -> Dataset:
        """Other names: a dict of old and new ones, or one for each column.

        >>> mobula.range(1).rename_columns({"id": "key"}).take()
        [{'key': 0}]
        """
        return self._then(Renamed(self._step, names if isinstance(names, Mapping) else list(names)))

    # --- Rows

    def limit(self, limit: int) -> Dataset:
        """The first `limit` rows; those of no order in particular, if nothing sorted them."""
        if limit < 0:
            raise ValueError(f"limit is {limit}")
        return self._then(Wrapped("SELECT *", self._step, f" LIMIT {limit}", f"limit {limit}", order="limit"))

    def sort(self, key: str | Sequence[str], descending: bool | Sequence[bool] = False) -> Dataset:
        """Sorted by columns; NULLs come last.

        >>> mobula.range(3).sort("id", descending=True).take(1)
        [{'id': 2}]
        """
        keys = [key] if isinstance(key, str) else list(key)
        downs = [descending] * len(keys) if isinstance(descending, bool) else list(descending)
        if not keys or len(downs) != len(keys):
            raise ValueError(f"sort by {len(keys)} columns with {len(downs)} directions")
        terms = (f"{sql_text.name(one)} {'DESC' if down else 'ASC'} NULLS LAST" for one, down in zip(keys, downs))
        text = f" ORDER BY {', '.join(terms)}"
        return self._then(Wrapped("SELECT *", self._step, text, f"sort {', '.join(keys)}", order="sort"))

    def union(self, *other: Dataset) -> Dataset:
        """All rows of this and the others. Columns go together by name; missing ones are NULL."""
        self._check_same_connection(*other)
        return self._then(Union((self._step, *(one._step for one in other)))) if other else self

    def join(
        self,
        ds: Dataset,
        join_type: str = "inner",
        num_partitions: int | None = None,
        *,
        on: str | Sequence[str],
        right_on: str | Sequence[str] | None = None,
        left_suffix: str | None = None,
        right_suffix: str | None = None,
    ) -> Dataset:
        """Joins rows with equal keys. Keys come out once, under their names here.

        Args:
            join_type: `"inner"`, `"left_outer"`, `"right_outer"`, `"full_outer"`, `"left_semi"`,
                `"right_semi"`, `"left_anti"` or `"right_anti"`.
            num_partitions: means nothing here: the engine chooses.
            on: keys here; `right_on`: those of `ds`, if they have other names.
            left_suffix, right_suffix: behind other columns that both have.

        >>> names = mobula.from_items([{"id": 1, "name": "one"}])
        >>> mobula.range(3).join(names, on="id").take()
        [{'id': 1, 'name': 'one'}]
        """
        self._check_same_connection(ds)
        if join_type not in JOINS:
            raise ValueError(f"join_type is {join_type!r}. There are {', '.join(JOINS)}")
        left_on = (on,) if isinstance(on, str) else tuple(on)
        other_on = left_on if right_on is None else (right_on,) if isinstance(right_on, str) else tuple(right_on)
        if not left_on or len(left_on) != len(other_on):
            raise ValueError(f"join on {len(left_on)} columns here and {len(other_on)} there")
        return self._then(Join(self._step, ds._step, join_type, left_on, other_on, (left_suffix, right_suffix)))

    def unique(self, column: str, ignore_nulls: bool = False) -> list[Any]:
        """The different values of a column, in no order. Runs the query.

        >>> sorted(mobula.range(9).with_column("k", "id % 2").unique("k"))
        [0, 1]
        """
        quoted = sql_text.name(column)
        condition = f" WHERE {quoted} IS NOT NULL" if ignore_nulls else ""
        found = self._then(Wrapped(f"SELECT DISTINCT {quoted}", self._step, condition, f"unique {column}"))
        return formats.values_of(found.to_arrow().column(0), column)

    def random_sample(self, fraction: float, *, seed: int | None = None) -> Dataset:
        """Each row with the probability `fraction`.

        `seed`: the same ones at each run, of the same rows. It sorts them to number them.

        >>> drawn = mobula.range(100).random_sample(0.1, seed=1).sort("id")
        >>> drawn.take_all() == drawn.take_all()
        True
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction is {fraction}. Give a number from 0 to 1")
        return self._then(Drawn(self._step, seed, fraction))

    def random_shuffle(self, *, seed: int | None = None) -> Dataset:
        """All rows in another order at each run, or, with a `seed`, in the same one for the same
        rows. It sorts, with a seed twice: data beyond memory spills."""
        return self._then(Drawn(self._step, seed))

    def repartition(
        self,
        num_blocks: int | None = None,
        target_num_rows_per_block: int | None = None,
        *,
        keys: str | Sequence[str] | None = None,
    ) -> Dataset:
        """The same rows in other streams and blocks: docs/operators/repartition.md.

        Args:
            num_blocks: streams, over the whole cluster.
            target_num_rows_per_block: blocks of so many rows for the function right above.
            keys: rows with equal values of these columns in one stream.
        """
        chosen = [keys] if isinstance(keys, str) else list(keys or [])
        words = [str(num_blocks)] if num_blocks is not None else []
        words += [f"by => ({sql_text.names(chosen)})"] if chosen else []
        words += [f"rows_per_block => {target_num_rows_per_block}"] if target_num_rows_per_block is not None else []
        if not words:
            raise ValueError("repartition takes num_blocks, target_num_rows_per_block or keys")
        text = ", ".join(words)
        before, after = "SELECT * FROM repartition(TABLE(SELECT *", f"), {text})"
        return self._then(Wrapped(before, self._step, after, f"repartition {text}", is_call=True))

    # --- Groups and sums

    def groupby(self, key: str | Sequence[str] | None) -> GroupedData:
        """Groups of rows with equal keys, to be aggregated or mapped; `None`: all rows are one,
        which is aggregated."""
        from .grouped import GroupedData

        return GroupedData(self, [key] if isinstance(key, str) else key)

    def sum(self, on: str | Sequence[str]) -> Any:
        """The sum of a column, or a dict of those of several, as `sum(column)`. Runs the query.

        >>> mobula.range(4).sum(["id"])
        {'sum(id)': 6}
        """
        return self._aggregated("sum", "sum", on)

    def min(self, on: str | Sequence[str]) -> Any:
        """The least value of a column, or those of several, as of `sum`. Runs the query."""
        return self._aggregated("min", "min", on)

    def max(self, on: str | Sequence[str]) -> Any:
        """The greatest value of a column, or those of several, as of `sum`. Runs the query."""
        return self._aggregated("max", "max", on)

    def mean(self, on: str | Sequence[str]) -> Any:
        """The mean of a column, or those of several, as of `sum`. Runs the query.

        >>> mobula.range(4).mean("id")
        1.5
        """
        return self._aggregated("mean", "avg", on)

    def std(self, on: str | Sequence[str], ddof: int = 1) -> Any:
        """The standard deviation of a column, or those of several, as of `sum`. Runs the query.

        Args:
            ddof: 1 for that of a sample, 0 for that of all there is.
        """
        return self._aggregated("std", arguments.deviation(ddof), on)

    def _aggregated(self, shown: str, function: str, on: str | Sequence[str]) -> Any:
        columns = arguments.column_names(f"on of {shown}", on)
        items = (f"{function}({sql_text.name(c)}) AS {sql_text.name(f'{shown}({c})')}" for c in columns)
        step = Wrapped(f"SELECT {', '.join(items)}", self._step, "", f"{shown} {', '.join(columns)}")
        [row] = formats.rows_of(self._then(step).to_arrow())
        return row[f"{shown}({on})"] if isinstance(on, str) else row

    def _then(self, step: Step) -> Dataset:
        return Dataset(self._connection, step)

    def _limited(self, limit: int) -> Dataset:
        return self.limit(limit)

    def _check_same_connection(self, *other: Dataset) -> None:
        for one in other:
            # Checkers know that it is one; callers without one do not.
            if not isinstance(one, Dataset):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"{reprlib.repr(one)} is no dataset. Make one of it, as from_arrow, from_pandas and from_items do")
            if one._connection is not self._connection:
                raise QueryFailed("the two datasets belong to different connections. Read both through one")


class _Call:
    """Options of a call, before it is known what is called."""

    def __init__(
        self,
        compute: Compute | None,
        concurrency: Concurrency,
        num_cpus: float | None,
        num_gpus: float | None,
        memory: float | str | None,
        resources: Mapping[str, float] | None,
        label_selector: Mapping[str, str] | str | None,
        engine: dict[str, Any],
    ) -> None:
        self._size = engine.pop("batch_size", None)
        self._options = functools.partial(
            call_options,
            compute=compute,
            concurrency=concurrency,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            memory=memory,
            resources=resources,
            label_selector=label_selector,
            engine=engine,
        )

    def sql(self, is_class: bool) -> dict[str, str]:
        made = self._options(is_class=is_class)
        if self._size is not None:
            made["batch_size"] = str(int(self._size))
        return made
