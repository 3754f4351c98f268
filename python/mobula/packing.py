"""User code by value: whatever it refers to, packed into the body of an SQL function.

cloudpickle, the library of the field, does the work (ADR 27). It travels along, compiled, so
that workers need no package for it and both ends have the same version. Modules that lie
beside the user's script travel by value too; installed ones are imported by the worker.
With the code go the lines of its source, for tracebacks, and the Python version, since
compiled code fits one minor version alone.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import io
import linecache
import marshal
import os
import pathlib
import pickle
import re
import sys
import sysconfig
import types
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import carried
from .errors import CodeRefused

# Of one function, packed. Each task of a query carries it, and a statement has an end
# (`sql_max_bytes`, 16 MiB).
BYTES_MAX = 8 << 20
_HIDDEN_FILE = "<dynamic-code>"
# The module's name, as a reference or in compiled code, and not a folder of the file's.
_IMPORTS = re.compile(rb"(?<![\w/])mobula(?![\w/])")
_HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Packed:
    """User code, ready to travel."""

    name: str
    """What it is called in Python, as an SQL name."""
    text: bytes
    """What `carried.load` reads."""
    is_class: bool
    asks: bool = False
    """Whether it may ask for `mobula.context()`."""
    is_async: bool = False

    def body(self, function: str, probe: tuple[Any, ...] | None = None) -> str:
        """The Python text that defines `function`. `probe`: arguments of `learning.Teacher`, where it
        is to find the schema of what the code gives."""
        texts = ["carried"] if probe is None else ["carried", "learning"]
        made = "_load(_packed)" if probe is None else f"_teacher(*{probe!r}).learner(_load(_packed))"
        lines = ["import base64, zlib", "_names = {'__name__': 'mobula_carried'}"]
        if self.asks:
            # Tells the engine, which counts rows then.
            lines.append("import mobula")
        for text in texts:
            lines.append(f"_text = zlib.decompress(base64.b64decode({_module_text(text)!r}))")
            lines.append(f"exec(compile(_text, '<mobula {text}>', 'exec'), _names)")
        lines.append(f"_packed = zlib.decompress(base64.b64decode({_shrunk(self.text)!r}))")
        lines.append(f"{function} = " + made.replace("_load", "_names['load']").replace("_teacher", "_names['Teacher']"))
        return "\n".join(lines)

    @functools.cached_property
    def digest(self) -> str:
        """Names the code: equal code has equal digests."""
        return hashlib.blake2b(self.text, digest_size=6).hexdigest()


def pack(
    code: Callable[..., Any],
    *,
    fn_args: Iterable[Any] | None = None,
    fn_kwargs: Mapping[str, Any] | None = None,
    fn_constructor_args: Iterable[Any] | None = None,
    fn_constructor_kwargs: Mapping[str, Any] | None = None,
) -> Packed:
    """Packs a function, a class, a bound method, a partial, or an object with `__call__`.

    Raises:
        CodeRefused: it is not callable, refers to what cannot be pickled, or is too large.
    """
    if not callable(code):
        raise CodeRefused(f"{code!r} cannot be called. Give a function, or a class with a method __call__")
    is_class = isinstance(code, type)
    called = _name_of(code)
    if is_class and not any("__call__" in vars(base) for base in code.__mro__[:-1]):
        raise CodeRefused(f"the class {called} has no method __call__. Add one that takes a batch or a row")
    construct = (tuple(fn_constructor_args or ()), dict(fn_constructor_kwargs or {}))
    if not is_class and any(construct):
        raise CodeRefused(f"{called} is no class, so fn_constructor_args say nothing. Give fn_args")
    call = (tuple(fn_args or ()), dict(fn_kwargs or {}))
    sources: dict[str, dict[int, str]] = collections.defaultdict(dict)
    pickled = _pickled((code, construct, call), called, sources)
    packed = {
        "python": sys.version_info[:2],
        "pickler": _compiled_pickler(),
        "sources": {file: sorted(blocks.items()) for file, blocks in sources.items()},
        "code": pickled,
        "wrapped": is_class or any(call),
    }
    asks = _IMPORTS.search(pickled) is not None
    return Packed(_sql_name(called), pickle.dumps(packed, protocol=4), is_class, asks, carried.is_async(code))


def _pickled(value: Any, called: str, sources: dict[str, dict[int, str]]) -> bytes:
    pickler = _pickler()
    _ship_local_modules(pickler)

    def reduced(code: types.CodeType):
        _note_source(code, sources)
        make, parts = pickler._code_reduce(code)
        # cloudpickle hides the file, which tracebacks are to name.
        return make, tuple(code.co_filename if part == _HIDDEN_FILE else part for part in parts)

    class Recording(pickler.Pickler):
        dispatch_table = collections.ChainMap({types.CodeType: reduced}, pickler.Pickler.dispatch_table)

    buffer = io.BytesIO()
    try:
        Recording(buffer, protocol=pickle.DEFAULT_PROTOCOL).dump(value)
    except RecursionError:
        raise CodeRefused(f"{called} refers to something that is nested too deeply to be sent") from None
    except Exception as error:
        text = " ".join(str(error).split())
        raise CodeRefused(
            f"{called} refers to something that cannot be sent: {text}. Make such things where they are used: in the"
            " constructor of a class, or in the function"
        ) from error
    made = buffer.getvalue()
    if len(made) > BYTES_MAX:
        size, most = len(made) / (1 << 20), BYTES_MAX >> 20
        raise CodeRefused(
            f"{called} with all that it refers to has {size:.1f} MiB, {most} MiB is the most. Load large data in the"
            " constructor of a class, or join it as a dataset"
        )
    return made


def _note_source(code: types.CodeType, sources: dict[str, dict[int, str]]) -> None:
    lines = linecache.getlines(code.co_filename)
    first = code.co_firstlineno
    if not lines or first > len(lines) or code.co_filename.startswith("<frozen"):
        return
    try:
        block = inspect.getblock(lines[first - 1 :])
    except Exception:  # Half a line of a lambda is no block.
        block = lines[first - 1 : first]
    last = max((line for _, _, line in code.co_lines() if line), default=first)
    block = lines[first - 1 : max(last, first - 1 + len(block))]
    sources[code.co_filename][first] = "".join(block)


def _ship_local_modules(pickler: Any) -> None:
    """Modules that no worker could import: those that no installer put here."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and _is_local(module) and name not in pickler.list_registry_pickle_by_value():
            pickler.register_pickle_by_value(module)


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths.update(part for part in sys.path if os.path.basename(part) in ("site-packages", "dist-packages"))
    return tuple(os.path.join(os.path.realpath(path), "") for path in paths if path)


def _is_local(module: Any) -> bool:
    if not isinstance(module, types.ModuleType) or module.__name__.partition(".")[0] in ("mobula", carried.PICKLER):
        return False
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return False
    # Most modules are told by their text; to resolve links asks the file system for each folder.
    return not file.startswith(_installed()) and not os.path.realpath(file).startswith(_installed())


@functools.cache
def _pickler_text() -> str:
    bundled = _HERE / "bundled" / "cloudpickle.py"
    if bundled.exists():
        return bundled.read_text(encoding="utf-8")
    found = importlib.util.find_spec("cloudpickle")
    if found is None or not found.submodule_search_locations:
        raise CodeRefused("this copy of mobula came without cloudpickle, which sends functions. pip install cloudpickle")
    return (pathlib.Path(found.submodule_search_locations[0]) / "cloudpickle.py").read_text(encoding="utf-8")


@functools.cache
def _compiled_pickler() -> bytes:
    """For this minor version alone, as all that is sent: no worker has to compile it again."""
    return marshal.dumps(compile(_pickler_text(), f"<mobula {carried.PICKLER}>", "exec"))


@functools.cache
def _pickler() -> Any:
    carried.install_pickler(_compiled_pickler())
    return sys.modules[carried.PICKLER]


@functools.cache
def _module_text(name: str) -> str:
    return _shrunk((_HERE / f"{name}.py").read_bytes())


def _shrunk(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode()


def _name_of(code: Any) -> str:
    while isinstance(code, functools.partial):
        code = code.func
    return getattr(code, "__name__", None) or type(code).__name__


def _sql_name(name: str) -> str:
    """Letters, digits and underscores, in lower case, as SQL reads names."""
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lower()).strip("_")
    return f"f_{kept}" if not kept or kept[0].isdigit() else kept[:40]
