"""How many workers a call gets, and what each asks for: Ray Data's names, checked at once.

A function runs in as many workers as its tasks have cores, a class in one actor, unless
`compute` or `concurrency` says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Union

from . import sql_text

if TYPE_CHECKING:
    from typing import Concatenate

    UserCode = Callable[Concatenate[Any, ...], Any] | type[Any]
    """Called with a row or a batch, and what `fn_args` say; a class is built first. Written so, a
    checker knows what the first parameter of a lambda is."""

# As many workers as a call may have.
WORKERS_MAX = 1024
# Options of the engine's operators that calls take beside Ray Data's, and what they are for:
# docs/operators/map_batches.md.
ENGINE_OPTIONS = {
    "timeout",
    "init_timeout",
    "max_in_flight",
    "rate_limit",
    "retry_exceptions",
    "max_retries",
    "on_error",
    "max_errors",
    "max_error_ratio",
    "preserve_order",
    "passthrough",
    "row_preserving",
    "reads",
}


@dataclasses.dataclass(frozen=True)
class TaskPoolStrategy:
    """Calls of a function: at most `size` workers at a time, over the whole cluster."""

    size: int | None = None


@dataclasses.dataclass(frozen=True)
class ActorPoolStrategy:
    """Actors of a class: `size` of them, or from `min_size` to `max_size`, following the load.

    Without any of these there is one actor. With `min_size` alone there may be as many as
    there is room for.
    """

    size: int | None = None
    min_size: int | None = None
    max_size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and (self.min_size is not None or self.max_size is not None):
            raise ValueError("ActorPoolStrategy takes size, or min_size and max_size, not both")


Compute = Union[TaskPoolStrategy, ActorPoolStrategy]
Concurrency = Union[int, "tuple[int, int]", None]


def call_options(
    *,
    is_class: bool,
    compute: Compute | None = None,
    concurrency: Concurrency = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | str | None = None,
    resources: Mapping[str, float] | None = None,
    label_selector: Mapping[str, str] | str | None = None,
    engine: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Options of a call as SQL has them.

    Raises:
        TypeError: an option that there is not.
        ValueError: a pool that does not fit the code, or numbers that make no sense.
    """
    made: dict[str, str] = {}
    workers = _workers(is_class, compute, concurrency)
    if workers is not None:
        made["concurrency"] = workers
    for key, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus), ("memory", memory)):
        if value is not None:
            made[key] = sql_text.string(value) if isinstance(value, str) else _number(value)
    if resources:
        made["resources"] = sql_text.string(", ".join(f"{key}={_number(value)}" for key, value in resources.items()))
    if isinstance(label_selector, Mapping):
        label_selector = ",".join(f"{key}={value}" for key, value in label_selector.items())
    if label_selector:
        made["label_selector"] = sql_text.string(label_selector)
    for key, value in (engine or {}).items():
        if key not in ENGINE_OPTIONS:
            raise TypeError(f"{key} is no option of a call. There are {', '.join(sorted(ENGINE_OPTIONS))}")
        if sql_text.is_list(value):
            value = ", ".join(map(_named, value))
        elif isinstance(value, type):
            value = _named(value)
        made[key] = _number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else sql_text.literal(value)
    return made


def _workers(is_class: bool, compute: Compute | None, concurrency: Concurrency) -> str | None:
    if compute is not None and concurrency is not None:
        raise ValueError("compute and concurrency say the same thing. Give one of them")
    if isinstance(compute, TaskPoolStrategy):
        if is_class:
            raise ValueError("a class needs actors. Give compute=ActorPoolStrategy(…), or concurrency=n")
        return None if compute.size is None else _range(compute.size, compute.size)
    if isinstance(compute, ActorPoolStrategy):
        if not is_class:
            raise ValueError("ActorPoolStrategy is for classes, and this is a function. Give compute=TaskPoolStrategy(n), or concurrency=n")
        if compute.size is not None:
            return _range(compute.size, compute.size)
        if compute.min_size is None and compute.max_size is None:
            return None
        low = 1 if compute.min_size is None else compute.min_size
        return _range(low, WORKERS_MAX if compute.max_size is None else compute.max_size)
    if compute is not None:
        raise TypeError(f"compute is {compute!r}. Give ActorPoolStrategy(…) or TaskPoolStrategy(…)")
    if concurrency is None:
        return None
    if isinstance(concurrency, tuple):
        if len(concurrency) != 2:
            raise ValueError(f"concurrency is {concurrency}. Give a number, or (least, most)")
        return _range(*concurrency)
    return _range(concurrency, concurrency)


def _range(low: int, high: int) -> str:
    if not 1 <= low <= high <= WORKERS_MAX:
        raise ValueError(f"a pool of {low} to {high} workers makes no sense. Sizes are from 1 to {WORKERS_MAX}")
    return str(low) if low == high else sql_text.string(f"{low}..{high}")


def _named(value: Any) -> str:
    """An exception as workers know it, and other names as they are."""
    if not isinstance(value, type):
        return str(value)
    if not issubclass(value, Exception):
        raise TypeError(f"{value.__qualname__} is no exception that a call may be made again for")
    if value.__module__ == "builtins" or "<" in value.__qualname__:
        # One that a function makes has no name to be found by, and is told by its own.
        return value.__name__
    return f"{value.__module__}.{value.__qualname__}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else format(value, ".6f").rstrip("0")
