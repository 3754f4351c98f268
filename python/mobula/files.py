"""Files that Python reads: text by lines, and whole files.

Their rows come of workers, which look for the files and open them, so that many files are read
at once, on every executor. What SQL has a format for is read by the engine instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Streams that files are dealt out to, over all executors.
STREAMS = 32
# Lines of a block.
_LINES = 16_384


# Functions are made where they are asked for, so that they travel by value: a server's Python need
# not have this package.


def finder() -> Callable[[dict[str, Any]], Iterator[dict[str, str]]]:
    """A function from a path, directory or pattern to the files that it names."""

    def find(row: dict[str, Any]) -> Iterator[dict[str, str]]:
        import glob
        import os

        asked = row["path"]
        if "://" in asked:
            raise ValueError(f"{asked} is no path. Text and binary files are read where workers have them")
        if os.path.isfile(asked):
            found = [asked]
        else:
            pattern = os.path.join(glob.escape(asked), "**") if os.path.isdir(asked) else asked
            found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
        if not found:
            raise FileNotFoundError(f"no file matches {asked}")
        for path in found:
            yield {"path": path}

    return find


def line_reader(encoding: str, drop_empty_lines: bool) -> Callable[[dict[str, np.ndarray]], Iterator[dict[str, list[str]]]]:
    """A function from paths to the lines of their files."""

    def read(batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[str]]]:
        import itertools

        for path in batch["path"]:
            with open(path, encoding=encoding) as file:
                lines = (line.rstrip("\r\n") for line in file)
                if drop_empty_lines:
                    lines = filter(None, lines)
                try:
                    while block := list(itertools.islice(lines, _LINES)):
                        yield {"text": block}
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path} is not {encoding}: {error}") from error

    return read


def file_reader(include_paths: bool) -> Callable[[dict[str, np.ndarray]], Iterator[dict[str, list[Any]]]]:
    """A function from paths to what is in their files."""

    def read(batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[Any]]]:
        for path in batch["path"]:
            with open(path, "rb") as file:
                whole = {"bytes": [file.read()]}
            yield {**whole, "path": [path]} if include_paths else whole

    return read
