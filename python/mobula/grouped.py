"""`Dataset.groupby(…)`: aggregates, and functions of whole groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import arguments, formats, sql_text
from .compute import Compute, Concurrency, call_options
from .declared import functions_of
from .functions import Code
from .packing import pack
from .schemas import Schema
from .steps import Apply, Wrapped

if TYPE_CHECKING:
    from .compute import UserCode
    from .dataset import Dataset
    from .declared import Func


_ONE_GROUP = "ds.with_column('all', '1').groupby('all')"


class GroupedData:
    """Rows by the values of their keys. Made by `Dataset.groupby`."""

    def __init__(self, dataset: Dataset, keys: Sequence[str] | None) -> None:
        self._dataset = dataset
        self._keys = list(keys or [])
        if not self._keys and keys is not None:
            raise ValueError("groupby without a key. For all rows together there is groupby(None)")

    def agg(self, **aggregates: str) -> Dataset:
        """A row for each group: its keys, and an SQL aggregate for each name.

        >>> rows = mobula.range(6).with_column("k", "id % 2")
        >>> rows.groupby("k").agg(n="count(*)", most="max(id)").sort("k").take()
        [{'k': 0, 'n': 3, 'most': 4}, {'k': 1, 'n': 3, 'most': 5}]
        """
        if not aggregates:
            raise ValueError("agg without an aggregate. Write agg(total='sum(price)')")
        items = [f"{sql_text.within(text)} AS {sql_text.name(name)}" for name, text in aggregates.items()]
        return self._with(items, functions_of(", ".join(items)))

    def count(self) -> Dataset:
        """How many rows each group has, as `count()`."""
        return self._with([f"count(*) AS {sql_text.name('count()')}"])

    def sum(self, on: str | Sequence[str]) -> Dataset:
        """Sums of columns, as `sum(column)`."""
        return self._each("sum", "sum", on)

    def min(self, on: str | Sequence[str]) -> Dataset:
        """Least values of columns, as `min(column)`."""
        return self._each("min", "min", on)

    def max(self, on: str | Sequence[str]) -> Dataset:
        """Greatest values of columns, as `max(column)`."""
        return self._each("max", "max", on)

    def mean(self, on: str | Sequence[str]) -> Dataset:
        """Means of columns, as `mean(column)`."""
        return self._each("mean", "avg", on)

    def std(self, on: str | Sequence[str], ddof: int = 1) -> Dataset:
        """Standard deviations of columns, as `std(column)`: of a sample, or by `ddof=0` of all there is."""
        return self._each("std", arguments.deviation(ddof), on)

    def map_groups(
        self,
        fn: UserCode,
        *,
        zero_copy_batch: bool = True,
        compute: Compute | None = None,
        batch_format: str | None = "default",
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
        order_by: str | None = None,
        **options: Any,
    ) -> Dataset:
        """Calls `fn` with all rows of a group at once; what it returns are rows of the result.

        A group must fit one message to a worker (`udf_max_frame_bytes`, 256 MiB).

        Args:
            order_by: columns that the rows of a group are sorted by: `"day, price DESC"`.
            schema: the columns that come back; otherwise the first groups say it.

        The other arguments are those of `Dataset.map_batches`, but for `batch_size`.

        >>> rows = mobula.range(6).with_column("k", "id % 2")
        >>> def spread(group):
        ...     return {"k": group["k"][:1], "spread": [group["id"].max() - group["id"].min()]}
        >>> rows.groupby("k").map_groups(spread).sort("k").take()
        [{'k': 0, 'spread': 4}, {'k': 1, 'spread': 4}]
        """
        if not self._keys:
            raise ValueError(f"map_groups needs a key. For all rows as one group, make one: {_ONE_GROUP}")
        made = {
            "partition_by": f"({sql_text.names(self._keys)})",
            "batch_format": sql_text.string(formats.check(batch_format, of_workers=True)),
        }
        if order_by is not None:
            made["order_by"] = sql_text.string(order_by)
        if not zero_copy_batch:
            made["zero_copy_batch"] = "FALSE"
        packed = pack(
            fn,
            fn_args=fn_args,
            fn_kwargs=fn_kwargs,
            fn_constructor_args=fn_constructor_args,
            fn_constructor_kwargs=fn_constructor_kwargs,
        )
        made |= call_options(
            is_class=packed.is_class,
            compute=compute,
            concurrency=concurrency,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            memory=memory,
            resources=resources,
            label_selector=label_selector,
            engine=options,
        )
        return self._dataset._then(Apply(self._dataset._step, Code(packed, "map_groups", made, schema)))

    def _each(self, shown: str, function: str, on: str | Sequence[str]) -> Dataset:
        columns = arguments.column_names(f"on of {shown}", on)
        made = [f"{function}({sql_text.name(c)}) AS {sql_text.name(f'{shown}({c})')}" for c in columns]
        return self._with(made)

    def _with(self, items: list[str], functions: Mapping[str, Func[..., Any]] = {}) -> Dataset:
        keys = sql_text.names(self._keys)
        chosen = ", ".join([keys, *items] if keys else items)
        grouped, title = f" GROUP BY {keys}" if keys else "", f"groupby {', '.join(self._keys) or None}"
        return self._dataset._then(Wrapped(f"SELECT {chosen}", self._dataset._step, grouped, title, functions))
