"""Values as literals, and where relations stand in a statement."""

import datetime
import decimal

import pytest

import mobula
from mobula import sql_text

VALUES = [
    None,
    True,
    0,
    -(2**63),
    2**63 - 1,
    1.5,
    -1e300,
    float("inf"),
    "",
    "it's -- not /* a comment $x",
    'quoted "name" \\ ; DROP TABLE t',
    "ä€😀\n\t",
    b"\x00\xff",
    datetime.date(2026, 2, 28),
    datetime.datetime(2026, 2, 28, 1, 2, 3, 456789),
    datetime.time(1, 2, 3),
    decimal.Decimal("-12.340"),
    decimal.Decimal("1E+5"),
    [1, 2, 3],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_went(con, value):
    found = con.sql("SELECT $value AS v", value=value).take()[0]["v"]
    assert found == value and (value is None or isinstance(found, type(value)))


def test_a_nan_stays_one(con):
    found = con.sql("SELECT $value AS v", value=float("nan")).take()[0]["v"]
    assert found != found


def test_numpy_values_are_values(con):
    numpy = pytest.importorskip("numpy")
    assert con.sql("SELECT $a + $b AS v", a=numpy.int64(2), b=numpy.float64(0.5)).take() == [{"v": 2.5}]


@pytest.mark.parametrize("value", [object(), {1: 2}, 2**70, "a\0b"], ids=repr)
def test_what_has_no_literal_is_refused(value):
    with pytest.raises(mobula.QueryFailed):
        sql_text.literal(value)


def test_parameters_stand_where_values_may():
    text = "SELECT '$a', \"$a\", $a -- $a\n, /* $a */ $a, $$ $a $$, $tag$ $a $tag$"
    made = sql_text.filled(text, {"a": 1})
    assert made == "SELECT '$a', \"$a\", 1 -- $a\n, /* $a */ 1, $$ $a $$, $tag$ $a $tag$"
    with pytest.raises(mobula.QueryFailed, match=r"\$b"):
        sql_text.filled("SELECT $b", {"a": 1})


def test_relations_are_found_behind_from_join_and_commas():
    text = "SELECT a, x.b FROM x JOIN \"y\" ON 'z' = 1, map(TABLE(w), f) WHERE c IN (SELECT d FROM v)"
    found = sql_text.read_names(text)
    # A function may have the name of a variable: it is looked for, and holds no rows.
    assert found == {"x", "w", "v", "map"}
    for text, names in [
        ("FROM x, y AS z, (u CROSS JOIN v) WHERE a IN (1, b)", {"x", "y", "u", "v"}),
        ("SELECT extract(year FROM d), trim(both 'a' FROM t), substring(s FROM 2), e FROM x ORDER BY f, g", {"x"}),
        ("SELECT a IS DISTINCT FROM b, c FROM x UNION ALL SELECT d, e FROM y", {"x", "y"}),
        # Those of WITH are the query's own.
        ("WITH w AS (SELECT a, b FROM x) SELECT * FROM w LEFT JOIN v ON f(a, b) = c, u", {"x", "v", "u"}),
        ("WITH RECURSIVE W(a) AS NOT MATERIALIZED (SELECT f(1) FROM x), \"y\" AS (VALUES (1)) SELECT * FROM w, y, v", {"x", "v"}),
        ("SELECT * FROM t, (WITH w AS (SELECT 1) SELECT * FROM w), map(TABLE(u), f, WITH (a => 1)), v AS (", {"t", "map", "u", "v"}),
        ("SELECT CAST(a AS TIMESTAMP WITH TIME ZONE) FROM t WINDOW w AS (ORDER BY a), v AS (w) UNION SELECT * FROM v WHERE a IN (WITH", {"t", "v"}),
    ]:
        assert sql_text.read_names(text) == names


def test_relations_go_before_those_of_the_query():
    relations = {"t": "SELECT 1"}
    assert sql_text.with_relations("SELECT * FROM t", relations) == "WITH t AS (SELECT 1) SELECT * FROM t"
    made = sql_text.with_relations("-- first\nWITH RECURSIVE u AS (SELECT * FROM t) SELECT * FROM u", relations)
    assert made == "WITH RECURSIVE t AS (SELECT 1), u AS (SELECT * FROM t) SELECT * FROM u"


@pytest.mark.parametrize(
    "text, is_query",
    [
        ("SELECT 1", True),
        (" -- c\n ((select 1))", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("VALUES (1)", True),
        ("CREATE TABLE t AS SELECT 1", False),
        ("SET a = 1", False),
        ("", False),
    ],
)
def test_what_a_query_is(text, is_query):
    assert sql_text.is_query(text) == is_query


@pytest.mark.parametrize("end", [";", " -- note", "; -- note", " ;\n-- note\n;", " /* note */", "\n--"], ids=repr)
def test_what_a_text_ends_in_is_no_part_of_it(con, end):
    @mobula.func
    def twice(x: int) -> int:
        return x * 2

    rows = con.sql(f"SELECT 1 AS x{end}")
    assert rows.to_arrow().to_pylist() == [{"x": 1}]
    assert rows.filter(expr=f"x > 0{end}").with_column("y", f"x + 1{end}").take() == [{"x": 1, "y": 2}]
    assert rows.map(lambda row: row).take() == rows.materialize().take() == [{"x": 1}]
    assert rows.groupby("x").agg(n=f"count(*){end}").take() == [{"x": 1, "n": 1}]
    assert con.sql(f"SELECT twice(x) FROM rows{end}").take() == [{"twice(rows.x)": 2}]


def test_only_the_end_is_left_out():
    assert sql_text.within("SELECT ';--' -- a\n, 1 /* b */ ; -- c") == "SELECT ';--' -- a\n, 1"
    assert sql_text.within("SELECT ';--'") == "SELECT ';--'"
