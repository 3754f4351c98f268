"""Functions and actors that SQL calls by name: found, typed, sent, and told apart."""

import functools
import re

import pytest

import mobula

numpy = pytest.importorskip("numpy")
RATE = 3


@mobula.func
def times_rate(x: int) -> int:
    return x * RATE


@mobula.func(immutable=True)
def joined(a: "str | None", b: list[float], sep="-") -> "str | None":
    return [None if x is None else f"{x}{sep}{sum(y)}" for x, y in zip(a, b)]


def test_functions_of_the_module_and_of_here(con):
    offset = 7

    @mobula.func
    def plus(x: int, Other: float) -> float:
        return x + Other + offset

    found = con.sql("SELECT plus(id, 0.5) AS a, times_rate(id) AS b FROM numbers ORDER BY id", numbers=con.range(2))
    assert found.take() == [{"a": 7.5, "b": 0}, {"a": 8.5, "b": 3}]
    assert con.sql("SELECT f($n) AS v", f=times_rate, n=5).take() == [{"v": 15}]
    assert con.sql("SELECT joined('x', [1.0, 2.5]) AS a, joined(NULL, [1.0]) AS b").take() == [{"a": "x-3.5", "b": None}]
    # In Python it is what it was.
    assert plus(1, 2) == 10 and times_rate.__name__ == "times_rate"


def test_arrays_of_the_format_that_is_asked_for(con):
    @mobula.func(batch_format="pyarrow", batch_size=2)
    def kinds(x: int) -> str:
        return [f"{type(x).__name__} {len(x)}"] * len(x)

    @mobula.func(batch_format="rows")
    def plus(x: int) -> int:
        return [value + 1 for value in x]

    assert con.sql("SELECT kinds(id) AS k, plus(id) AS p FROM n ORDER BY id", n=con.range(2)).take() == [
        {"k": "Int64Array 2", "p": 1},
        {"k": "Int64Array 2", "p": 2},
    ]
    with pytest.raises(ValueError, match="batch_format is 'arrow'"):
        mobula.func(lambda x: x, batch_format="arrow")


def test_a_function_is_found_however_sql_writes_its_name(con):
    @mobula.func
    def größe(x: int) -> int:
        return x + 1

    @mobula.func
    def Net(x: int) -> int:
        return x * 10

    assert con.sql("SELECT größe(1) AS a, GRÖßE(1) AS b").take() == [{"a": 2, "b": 2}]
    found = con.sql('SELECT Net(1) AS a, "Net"(2) AS b, TIMES_RATE(1) AS c, "times_rate" (2) AS d')
    assert found.take() == [{"a": 10, "b": 20, "c": 3, "d": 6}]
    # Quoted it is that name and no other.
    with pytest.raises(mobula.QueryFailed, match="unknown function|Invalid function"):
        con.sql('SELECT "TIMES_RATE"(1) AS a').take()


def test_expressions_of_datasets(con):
    numbers = con.range(4)
    assert [row["id"] for row in numbers.filter(expr="times_rate(id) > 5").sort("id").take()] == [2, 3]
    assert numbers.with_column("t", "times_rate(id)").sum("t") == 18
    # Functions call each other, and a step of code calls them too.
    @mobula.func
    def twice(x: int) -> int:
        return times_rate(x) + times_rate(x)

    assert numbers.with_column("t", "twice(id)").max("t") == 18
    assert numbers.map(lambda row: {"v": twice(row["id"])}).max("v") == 18


def test_partials_objects_and_defaults(con):
    def scaled(x: float, by: float = 2.0, *, plus: float = 0.5) -> float:
        return x * by + plus

    class Adds:
        def __init__(self, n):
            self.n = n

        def __call__(self, x: int) -> int:
            return x + self.n

    half = mobula.func(functools.partial(scaled, by=0.5))
    from_three = mobula.func(functools.partial(scaled, 3.0))
    adds, both = mobula.func(Adds(5)), mobula.func(scaled)
    again = mobula.func(functools.partial(adds))
    found = con.sql("SELECT half(5) AS a, from_three(2) AS b, adds(1) AS c, again(2) AS d, both(3, 4) AS e")
    assert found.take() == [{"a": 3.0, "b": 6.5, "c": 6, "d": 7, "e": 12.5}]
    # SQL has no defaults.
    with pytest.raises(mobula.FunctionFailed, match="takes 2 arguments, not 1"):
        con.sql("SELECT both(3)").take()


def test_an_actor_is_built_once_and_keeps_its_state(con):
    @mobula.actor(fn_constructor_kwargs={"start": 100}, concurrency=1, batch_size=10)
    class Seen:
        def __init__(self, start):
            self.n = start

        def __call__(self, x: int) -> int:
            self.n += 1
            return numpy.full(len(x), self.n)

    counts = con.range(40).with_column("n", "Seen(id)").unique("n")
    assert sorted(counts) == [101, 102, 103, 104]


def test_names_are_those_of_the_code_that_asks(con):
    def of(number):
        @mobula.func
        def f(x: int) -> int:
            return x + number

        return con.sql("SELECT f(1) AS v, abs(-2) AS a, 'f(1)' AS t")

    first, second = of(10), of(20)
    assert [row["v"] for row in (*first.take(), *second.take())] == [11, 21]
    both = con.sql("SELECT a.v + b.v AS v FROM first AS a CROSS JOIN second AS b")
    assert both.take() == [{"v": 32}]
    # A variable that is no function of ours hides nothing of SQL's.
    abs = None
    assert first.take()[0]["a"] == 2 and abs is None and first.take()[0]["t"] == "f(1)"


def test_names_of_the_function_around_lambdas_and_comprehensions(con):
    @mobula.func
    def f(x: int) -> int:
        return x + 10

    rows = con.range(2)

    def total(query):
        return con.sql(query).take()[0]["v"]

    queries = ["SELECT sum(f(id)) AS v FROM rows"] * 2
    assert [con.sql(query).take()[0]["v"] for query in queries] == [21, 21]
    assert {n: con.sql(f"SELECT f({n}) AS v").take()[0]["v"] for n in {one for one in (1, 2)}} == {1: 11, 2: 12}
    assert list(con.sql(f"SELECT f({n}) AS v").take()[0]["v"] for n in range(2)) == [10, 11]
    # Called by other code, in the middle of another function, and inside of each other.
    assert list(map(lambda n: [con.sql(f"SELECT f({n}) AS v").take()[0]["v"] for _ in range(1)], range(2))) == [[10], [11]]
    assert [row["id"] for row in (lambda: rows.filter(expr="f(id) > 10"))().take()] == [1]
    # A function with a name sees its own variables, and those that it mentions.
    with pytest.raises(mobula.QueryFailed, match="unknown function|Invalid function"):
        total("SELECT f(1) AS v")


def test_strict_and_failures(con):
    @mobula.func(strict=True)
    def inverse(x: int) -> float:
        return [1 / int(one) for one in x]

    rows = con.from_items([{"x": 2}, {"x": None}])
    assert [row["y"] for row in rows.with_column("y", "inverse(x)").sort("x").take()] == [0.5, None]
    with pytest.raises(mobula.FunctionFailed, match="ZeroDivisionError.*test_declared.py, line"):
        con.sql("SELECT inverse(0)").take()
    with pytest.raises(mobula.QueryFailed, match="inverse"):
        con.sql("SELECT inverse('a', 2)").take()


def test_what_cannot_be_declared_is_said():
    def refused(match, make):
        with pytest.raises(mobula.CodeRefused, match=match):
            make()

    refused("no type hint for x", lambda: mobula.func(lambda x: x))

    def untold(x: int):
        return x

    def odd(x: numpy.ndarray) -> int:
        return x

    def many(*x) -> int:
        return x

    def between(x: int, base=2, y: int = 3) -> int:
        return x

    def named(x: int, *, base: int) -> int:
        return x

    class Silent:
        pass

    refused("untold has no type hint for what it returns", lambda: mobula.func(untold))
    refused('odd, "x" has the type.*ndarray', lambda: mobula.func(odd))
    refused("many has no type hint for x", lambda: mobula.func(many))
    refused("between has no type hint for base, which stands before y", lambda: mobula.func(between))
    refused("named needs base by its name", lambda: mobula.func(named))
    refused("named needs base by its name", lambda: mobula.func(functools.partial(named, 1)))
    refused("Silent cannot be called", lambda: mobula.actor(Silent))
    refused("Silent is a class. Write @mobula.actor", lambda: mobula.func(Silent))
    refused("untold is no class. Write @mobula.func", lambda: mobula.actor(untold))
    with pytest.raises(TypeError, match="no option of a call"):
        mobula.func(size=3)(times_rate._code)


def test_it_shows_its_types():
    assert repr(joined) == '<mobula function joined("a" VARCHAR, "b" DOUBLE[]) RETURNS VARCHAR>'


def test_errors_of_the_planner_call_functions_as_the_user_does(con):
    @mobula.func
    def net(price: float) -> float:
        return price * 2

    for made, match in [
        (lambda: con.sql("SELECT net([1])"), r'argument 1 \("price"\) of function "net" must be'),
        (lambda: con.sql("SELECT net(1) AS v, net(1) AS v"), r'"net\(.*\) AS v" at position 0'),
        (lambda: con.range(3).filter(expr="net(id)"), r"predicate 'net\("),
    ]:
        with pytest.raises(mobula.QueryFailed, match=match) as found:
            made().take()
        assert not re.search("net_[0-9a-f]{8}", str(found.value))


def test_columns_that_are_called_after_expressions_can_be_named(con):
    @mobula.func
    def more(x: int) -> int:
        return x + 1

    rows = con.sql("SELECT more(value) FROM range(3)")
    [name] = rows.columns()
    assert name == "more(range().value)"
    assert con.sql(f'SELECT sum("{name}") AS s FROM rows').take() == [{"s": 6}]
    assert rows.filter(expr=f'"{name}" > 2').with_column("y", f'"{name}" * 2').select_columns([name, "y"]).take() == [{name: 3, "y": 6}]
