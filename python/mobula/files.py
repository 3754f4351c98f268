"""Files that Python reads: text by lines, whole files, and images.

Their rows come of workers, which look for the files and open them, so that many files are read
at once, on every executor. What SQL has a format for is read by the engine instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Streams that files are dealt out to, over all executors.
STREAMS = 32
# Images that are read together.
IMAGES = 16
# Lines of a block, and bytes of the images of one.
_LINES, _IMAGES_BYTES = 16_384, 4 << 20
# What is taken of a directory of images, as by Ray Data.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
# Numbers of a pixel, each a byte.
_CHANNELS = {"L": 1, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3, "RGBA": 4, "CMYK": 4}


# Functions are made where they are asked for, so that they travel by value: a server's Python need
# not have this package. They get record batches of paths, for which only Arrow is to be there.


def finder(endings: tuple[str, ...] = ()) -> Callable[[dict[str, Any]], Iterator[dict[str, str]]]:
    """A function from a path, directory or pattern to the files that it names; of a directory to
    those with one of `endings`, if there are some."""

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
        if endings and os.path.isdir(asked):
            found = [path for path in found if path.lower().endswith(endings)]
        if not found:
            raise FileNotFoundError(f"no file matches {asked}" + (f" that ends in {', '.join(endings)}" if endings else ""))
        for path in found:
            yield {"path": path}

    return find


def line_reader(encoding: str, drop_empty_lines: bool) -> Callable[[Any], Iterator[dict[str, list[str]]]]:
    """A function from paths to the lines of their files."""

    def read(batch: Any) -> Iterator[dict[str, list[str]]]:
        import itertools

        for path in batch["path"].to_pylist():
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


def file_reader(include_paths: bool) -> Callable[[Any], Iterator[dict[str, list[Any]]]]:
    """A function from paths to what is in their files."""

    def read(batch: Any) -> Iterator[dict[str, list[Any]]]:
        for path in batch["path"].to_pylist():
            with open(path, "rb") as file:
                whole = {"bytes": [file.read()]}
            yield {**whole, "path": [path]} if include_paths else whole

    return read


def image_type(size: tuple[int, int], mode: str) -> str:
    """The SQL type of images of `size`, height and width, in a mode of Pillow's: lists in lists.

    Raises:
        ValueError: no such size, or a mode whose numbers are no bytes.
    """
    # Callers may not have their types checked.
    is_pair = isinstance(size, Sequence) and len(size) == 2  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_pair or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"size={size!r} is no height and width, in pixels")
    height, width = size
    if mode not in _CHANNELS:
        raise ValueError(f"mode={mode!r} is none of {', '.join(_CHANNELS)}. Read others with read_binary_files and map")
    channels = _CHANNELS[mode]
    return "TINYINT UNSIGNED" + (f"[{channels}]" if channels > 1 else "") + f"[{width}][{height}]"


def image_reader(size: tuple[int, int], mode: str, include_paths: bool) -> Callable[[Any], Iterator[dict[str, Any]]]:
    """A function from paths to the images in their files, by Pillow."""
    most = max(_IMAGES_BYTES // (size[0] * size[1] * _CHANNELS[mode]), 1)

    def read(batch: Any) -> Iterator[dict[str, Any]]:
        import importlib

        try:
            import numpy as np

            pillow: Any = importlib.import_module("PIL.Image")
        except ImportError as error:
            raise ImportError(f"read_images needs NumPy and Pillow where workers run: pip install numpy pillow ({error})") from error
        height, width = size

        def pixels(path: str) -> np.ndarray:
            try:
                with pillow.open(path) as image:
                    if image.size != (width, height):
                        image = image.resize((width, height), resample=pillow.Resampling.BILINEAR)
                    return np.asarray(image if image.mode == mode else image.convert(mode))
            except (OSError, ValueError, pillow.DecompressionBombError) as error:
                raise ValueError(f"{path} is no image that Pillow reads: {error}") from error

        asked = batch["path"].to_pylist()
        for start in range(0, len(asked), most):
            paths = asked[start : start + most]
            images = {"image": np.stack([pixels(path) for path in paths])}
            yield {**images, "path": paths} if include_paths else images

    return read
