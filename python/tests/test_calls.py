"""Which words of a query call functions, and which are SQL's own, types or names of relations."""

import re

import pytest

import mobula
from mobula import calls


@mobula.func(batch_format="rows")
def plus(x: int) -> int:
    return [one + 100 for one in x]


def test_calls_are_found_in_text():
    text = "SELECT a(1), b (2), s.c(3), \"d\"(4), 'e(5)', e FROM f(TABLE(g), i(2)) /* h(1) */"
    assert calls.called_names(text) == {"a", "b", "d", "i"}
    assert calls.with_calls("SELECT a(a) + b.a(1) + a /* */ (2)", {"a": "x"}) == "SELECT x(a) + b.a(1) + x /* */ (2)"
    assert calls.with_calls('Net(1) + "Net"(2) + "net"(3)', {"net": "n"}) == 'n(1) + "Net"(2) + n(3)'


# A text, and the names that it calls: each `f` is called, and nothing else.
TEXTS = [
    "SELECT sum(x) FILTER (WHERE f(y)), sum(x) OVER (PARTITION BY f(y) ORDER BY f(z)), sum(f(x)) OVER w FROM t WINDOW w AS (ORDER BY f(x))",
    "SELECT percentile(0.5) WITHIN GROUP (ORDER BY f(x)), first_value(x) IGNORE NULLS OVER (ORDER BY x)",
    "SELECT count(*), count(DISTINCT f(x)), array_agg(x ORDER BY f(x))",
    "VALUES (1), (f(2))",
    "SELECT CAST(f(x) AS t(1, 2)), TRY_CAST(x AS DECIMAL(10, 2)), x::DECIMAL(10, 2) + f(x), f(x)::varchar (3)",
    "SELECT CAST(x AS STRUCT<a DECIMAL(10, 2), b ARRAY<DECIMAL(3, 1)>>), f(x)",
    "SELECT EXTRACT(year FROM f(d)), trim(BOTH 'x' FROM f(x)), substring(x FROM f(1) FOR f(2)), position('a' IN f(x)), f(x)",
    "SELECT f(x) IS DISTINCT FROM f(y), x IN (f(1), 2), x NOT IN (1), EXISTS (SELECT 1), x = ANY (SELECT f(1)), NOT (f(x))",
    "SELECT CASE WHEN (a) THEN (f(b)) ELSE (c) END, x BETWEEN (1) AND (f(2)), x LIKE (f(y)), INTERVAL (1) day",
    "SELECT a FROM x AS t(a), y t(b), (SELECT f(1)) u(c), (VALUES (f(1))) AS v(d) WHERE f(a) AND (f(b) OR (c))",
    "SELECT a FROM x JOIN y t(b) ON (f(a) = b) JOIN z USING (a) JOIN w ON f(a) = f(b) LEFT JOIN r s(c) ON true, q o(d) GROUP BY f(x), f(y)",
    "SELECT a FROM (x JOIN y t(b) ON f(a)), LATERAL (SELECT f(1)), UNNEST(f(x)) AS u(a), series(1, f(2)) TABLESAMPLE bernoulli (10)",
    "WITH t(a) AS (SELECT f(1)), u (b, c) AS (VALUES (f(1), 2)) SELECT f(a) FROM t",
    "WITH RECURSIVE t(a) AS (SELECT 1 UNION ALL SELECT f(a) FROM t) SELECT (WITH u(b) AS (SELECT 1) SELECT f(b) FROM u) FROM t",
    "SELECT DISTINCT ON (f(a)) f(b), * EXCEPT (c) REPLACE (f(d) AS d), t.* EXCLUDE (e) FROM t",
    "SELECT a * f(b) FROM t GROUP BY CUBE (a, f(b)), ROLLUP (c), GROUPING SETS ((f(a))) HAVING (f(a)) ORDER BY f(a) LIMIT (1)",
    "SELECT 1 UNION (SELECT f(1)) EXCEPT (SELECT 2) INTERSECT (SELECT 3) UNION ALL (SELECT f(4))",
    "SELECT * FROM map_batches(TABLE(SELECT f(x) AS y FROM t), f(scale => 2), batch_size => 3) AS m(a)",
    "FROM t u(a) SELECT f(a)",
    "f(x) > 5 AND f(y) IS NOT DISTINCT FROM f(z)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call(text):
    names = calls.called_names(text)
    own = {"sum", "percentile", "first_value", "count", "array_agg", "trim", "substring", "series"}
    assert names - own == {"f"}
    assert calls.with_calls(text, {"f": "g"}) == re.sub(r"\bf\(", "g(", text)
    if "OVER" in text:
        assert "sum" not in names and "first_value" not in names
    shown = {word: "wrong" for word in "filter over group values cast try_cast extract decimal t u v s o r varchar in using on and".split()}
    assert calls.with_calls(text, shown) == text


def test_words_of_syntax_call_what_has_their_names_elsewhere():
    for text in ['"filter"(x)', '"cast"(x)', "extract(x, 'year')", "cast(x, 1)", "cube(x)", "trim(x)", "decimal(x)", "replace(a, b)"]:
        name = text.partition("(")[0].strip('"')
        assert calls.with_calls(f"SELECT {text} FROM t", {name: "f"}) == f"SELECT f({text.partition('(')[2]} FROM t"


def test_variables_that_are_called_as_syntax_is_break_no_query(con):
    t = filter = over = values = cast = extract = decimal = count = varchar = exists = plus  # noqa: F841
    query = """
        WITH t(a) AS (VALUES (1), (2)), u(b) AS (SELECT CAST(a AS DECIMAL(10, 2)) FROM t)
        SELECT sum(b) FILTER (WHERE b > 1) AS s, count(*) AS n, sum(sum(b)) OVER () AS w, EXTRACT(year FROM DATE '2026-01-01') AS y,
            "filter"(1) AS f, extract(1) AS e
        FROM u AS t(b) WHERE EXISTS (SELECT 1) AND b IN (1, 2) GROUP BY b ORDER BY b
    """
    assert [(int(row["s"] or 0), row["n"], int(row["w"]), row["y"], row["f"], row["e"]) for row in con.sql(query).take()] == [
        (0, 1, 3, 2026, 101, 101),
        (2, 1, 3, 2026, 101, 101),
    ]
