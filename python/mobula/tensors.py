"""Batches as tensors of torch, and batches that are made ahead.

torch is not needed for anything else, and imported only here.
"""

from __future__ import annotations

import collections
import concurrent.futures
import importlib
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from . import formats, local_rows
from .errors import NotSupported

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

S = TypeVar("S")
T = TypeVar("T")


def of_arrays(collate_fn: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[pa.Table], Any]:
    """What calls `collate_fn` with a dict of arrays, one a column."""
    return lambda table: collate_fn(formats.converted(table, "numpy"))


def to_tensors(dtypes: Any, device: Any, pin_memory: bool) -> Callable[[pa.Table], Any]:
    """What makes a dict of tensors, one a column.

    Args:
        dtypes: for all columns, or by name; those without one keep theirs.
        device: where they go; `"auto"` and `None` where torch makes tensors by default.

    Raises:
        NotSupported: torch is not there.
    """
    torch = _torch()
    target = torch.get_default_device() if device in (None, "auto") else torch.device(device)
    if target.type == "cuda" and target.index is None:
        # The one of this thread: another makes the tensors.
        target = torch.device("cuda", torch.cuda.current_device())

    by_name = dtypes if local_rows.is_mapping(dtypes) else None

    def tensor(name: str, column: pa.ChunkedArray[Any]) -> Any:
        _check_lists(name, column)
        values = formats.to_numpy(column)
        wanted = dtypes if by_name is None else by_name.get(name)
        made = torch.from_numpy(_own_numbers(name, values))
        made = made if wanted is None else made.to(wanted)
        if pin_memory and target.type != "cpu":
            return made.pin_memory().to(target, non_blocking=True)
        return made.pin_memory() if pin_memory else made.to(target)

    def tensors(table: pa.Table) -> dict[str, Any]:
        names = table.schema.names
        if by_name is not None and (unknown := by_name.keys() - set(names)):
            raise ValueError(f"dtypes has {sorted(unknown)[0]!r}, and there is no such column. There are {', '.join(names)}")
        return {name: tensor(name, column) for name, column in zip(names, table.columns)}

    return tensors


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise NotSupported(f"iter_torch_batches needs torch, and it cannot be imported: {error}. pip install torch") from error


def _check_lists(name: str, column: pa.ChunkedArray[Any]) -> None:
    """Raises ValueError where a list has a NULL, which would be NaN as an array."""
    import pyarrow.types as t

    inner: list[Any] = column.chunks
    while inner and (t.is_list(inner[0].type) or t.is_large_list(inner[0].type) or t.is_fixed_size_list(inner[0].type)):
        inner = [chunk.flatten() for chunk in inner]
        if any(chunk.null_count for chunk in inner):
            raise ValueError(f'column "{name}" has NULLs in its lists, which tensors have not. Fill or filter them')


def _own_numbers(name: str, values: np.ndarray) -> np.ndarray:
    """`values` where torch may write to them, lists as the rows of a matrix.

    Raises:
        ValueError: they have no tensor.
    """
    import numpy as np

    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f'column "{name}" has NULLs, which tensors have not. Fill them: coalesce({name}, 0), or filter them')
    if values.dtype == object:
        values = _stacked(name, values)
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f'column "{name}" has values of {values.dtype}, of which torch makes no tensors.'
            " Leave it out (select_columns), CAST it, or give a collate_fn"
        )
    return np.require(values, requirements=["C", "W"])


def _stacked(name: str, values: np.ndarray) -> np.ndarray:
    import numpy as np

    shapes = {getattr(value, "shape", None) for value in values}
    if len(shapes) == 1 and None not in shapes:
        return np.stack(list(values))
    if None in shapes:
        kinds = sorted({"NULL" if value is None else type(value).__name__ for value in values if not hasattr(value, "shape")})
        what = f"values of {' and '.join(kinds)}"
    else:
        what = "lists of several lengths"
    raise ValueError(
        f'column "{name}" has {what}, of which torch makes no tensors.'
        " Leave it out (select_columns), make it numbers or lists of one length, or give a collate_fn"
    )


def made_ahead(items: Iterator[S], make: Callable[[S], T], count: int) -> Generator[T, None, None]:
    """What `make` makes of each item, in their order: a thread makes up to `count` of them before
    they are asked for. Items are taken in this thread, where Ctrl-C ends what they come from; where
    they end with an error, so does this, after what was made of those before."""
    if count == 0:
        yield from map(make, items)
        return
    pool = concurrent.futures.ThreadPoolExecutor(1, "mobula-prefetch")
    try:
        waiting: collections.deque[concurrent.futures.Future[T]] = collections.deque()
        failure: Exception | None = None
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            waiting.append(pool.submit(make, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)
        close = getattr(items, "close", None)
        if close is not None:
            close()
