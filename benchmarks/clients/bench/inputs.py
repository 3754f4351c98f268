"""The files that every system reads in m1 to m3, written once next to the data. Called by `run`.

Fixed files, no LIMIT: so all systems see the same rows, and their sums have to be
equal. Several row groups, so that both processes of the floor have work. No Arrow
schema inside: Daft reads no file whose schema has view types.
"""

import json
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

# Case: table, and its first rows cut into groups; None keeps all rows and groups.
CUTS = {
    "m1": ("lineitem", None, None),
    "m2": ("orders", 400_000, 50_000),
    "m3": ("orders", 1_000_000, 125_000),
}


class Missing(Exception):
    """Data that a case needs is not there."""


def directory(data):
    data = data.resolve()
    return data.parent / f"{data.name}-suite"


def check(data, cases):
    """Whether DATA has what the cases read.

    Raises:
        Missing: it has not.
    """
    for case in cases:
        table, rows, _ = CUTS[case]
        source = data / f"{table}.parquet"
        if not source.is_file():
            raise Missing(
                f"{case} needs {source}, a single file: mobula tpch-data --sf 1 --out {data} makes it"
            )
        try:
            found = pq.read_metadata(source).num_rows
        except pa.ArrowInvalid as error:
            raise Missing(f"{source} is no Parquet file: {error}") from error
        if rows and found < rows:
            raise Missing(f"{case} needs {rows:,} rows, {source} has {found:,}: make data with --sf 1 or more")


def file(data, case):
    """The file of a case; made when it is not there, or was made of another source."""
    table, rows, group_rows = CUTS[case]
    source = data / f"{table}.parquet"
    target = directory(data) / (f"{table}-{rows}.parquet" if rows else f"{table}.parquet")
    note = target.with_suffix(".json")
    stat = source.stat()
    made_of = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "rows": rows, "group_rows": group_rows}
    try:
        if target.is_file() and json.loads(note.read_text()) == made_of:
            return target
    except (OSError, ValueError):
        pass
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    try:
        write(pq.ParquetFile(source), part, rows, group_rows)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    note.write_text(json.dumps(made_of))
    return target


def write(source, path, rows, group_rows):
    schema = source.schema_arrow.remove_metadata()
    schema = pa.schema([f.with_type(pa.string()) if f.type == pa.string_view() else f for f in schema])
    left = rows or source.metadata.num_rows
    with pq.ParquetWriter(path, schema, store_schema=False) as writer:
        for group in range(source.num_row_groups):
            table = source.read_row_group(group).cast(schema).slice(0, left)
            left -= table.num_rows
            for at in range(0, table.num_rows, group_rows or table.num_rows or 1):
                writer.write_table(table.slice(at, group_rows))
            if left == 0:
                break


def facts(path):
    """What a record keeps of a file."""
    metadata = pq.read_metadata(path)
    return {
        "bytes": pathlib.Path(path).stat().st_size,
        "rows": metadata.num_rows,
        "row_groups": metadata.num_row_groups,
    }
