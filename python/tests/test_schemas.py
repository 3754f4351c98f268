"""What `schema=` takes, and that it says what it does not."""

import dataclasses
import datetime
import typing

import pyarrow as pa
import pytest

import mobula
from mobula.schemas import columns_of


@dataclasses.dataclass
class Point:
    x: int
    tags: typing.Optional[list[str]] = None
    made: typing.ClassVar[int] = 0


class Named(typing.NamedTuple):
    x: int
    y: typing.Annotated[float, "metres"]


class Typed(typing.TypedDict):
    x: int


class Late:
    x: "Nowhere"  # noqa: F821  # pyright: ignore


@pytest.mark.parametrize(
    ("schema", "columns"),
    [
        (Point, '"x" BIGINT, "tags" VARCHAR[]'),
        (Named, '"x" BIGINT, "y" DOUBLE'),
        (Typed, '"x" BIGINT'),
        (pa.schema([("x", pa.int8())]), '"x" TINYINT'),
        ({"x": typing.Literal["a", "b", None]}, '"x" VARCHAR'),
        ({"x": typing.Annotated[typing.Optional[int], "metres"]}, '"x" BIGINT'),
        ({"x": "STRUCT<a INT, b DECIMAL(3, 2)>[]", "y": 'STRUCT<"a,b" INT>'}, '"x" STRUCT<a INT, b DECIMAL(3, 2)>[], "y" STRUCT<"a,b" INT>'),
        ({"x": "TIMESTAMP(6) WITH TIME ZONE"}, '"x" TIMESTAMP(6) WITH TIME ZONE'),
    ],
)
def test_schemas(schema, columns):
    assert columns_of(schema) == columns


def test_times_of_numpy_and_pandas_have_nanoseconds():
    np = pytest.importorskip("numpy")
    pandas = pytest.importorskip("pandas")
    assert columns_of({"x": np.datetime64, "y": np.timedelta64}) == '"x" TIMESTAMP(9), "y" DURATION(9)'
    assert columns_of({"x": pandas.Timestamp, "y": pandas.Timedelta}) == '"x" TIMESTAMP(9), "y" DURATION(9)'
    assert columns_of({"x": np.dtype("M8[D]"), "y": np.str_}) == '"x" DATE, "y" VARCHAR'


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"x": [int]}, r'column "x" has the type \[.*list\[…\]'),
        ({"x": {"a": [int]}}, r'column "x" has the type \['),
        ({"x": list}, r"list\[…\]"),
        ({"x": typing.Literal[1, "a"]}, "no SQL type"),
        ({"x": typing.Union[int, str]}, "no SQL type"),
        ({"x": None}, 'column "x" has the type None'),
        ({"x": pa.int64}, 'column "x" has the type .*no SQL type'),
        ({"x": "BIGINT, y INT"}, 'column "x" has the type .*not one SQL type'),
        ({"x": "BIGINT) LANGUAGE python"}, "not one SQL type"),
        ({"x": "DECIMAL(3, 2"}, "not one SQL type"),
        ({"x": "INT -- more"}, "not one SQL type"),
        ({"x": ""}, "not one SQL type"),
        ({1: int}, "1 is no name of a column"),
        ({"a\0": int}, "no name of a column"),
        ([("x", int)], "is no schema. Give a dict"),
        (Point(1), "is no schema. Give a dict"),
        (int, "without columns"),
        (Late, "annotations of Late.*Nowhere"),
    ],
)
def test_what_is_none_says_what_to_do(schema, said):
    with pytest.raises(mobula.CodeRefused, match=said):
        columns_of(schema)


def test_classes_say_what_comes_back(con):
    def given(row):
        return {"x": row["id"], "tags": None}

    assert con.range(1).map(given, schema=Point).take() == [{"x": 0, "tags": None}]
    with pytest.raises(mobula.CodeRefused, match="not one SQL type"):
        con.range(1).map(given, schema={"x": "BIGINT, y INT"}).take()
    noon = datetime.datetime(2020, 1, 1, 12)
    np = pytest.importorskip("numpy")
    assert con.range(1).map(lambda row: {"x": noon}, schema={"x": np.datetime64}).take() == [{"x": noon}]
