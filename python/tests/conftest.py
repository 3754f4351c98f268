"""Connections for the tests of the package: each test runs embedded and on three executors.

The package is the installed wheel; `MOBULA_BIN` names another binary. `MOBULA_TEST_ENGINES`
chooses among `embedded` and `executors`.
"""

import os

import pytest

import mobula

ENGINES = os.environ.get("MOBULA_TEST_ENGINES", "embedded,executors").split(",")


@pytest.fixture(scope="session", params=ENGINES)
def engine(request):
    with mobula.connect(executors=3 if request.param == "executors" else 0) as connection:
        yield connection


@pytest.fixture
def con(engine):
    """A connection to an engine that others have used before."""
    assert engine.sql("SELECT 1 AS one").take() == [{"one": 1}]
    return engine


@pytest.fixture
def no_splits_left(con):
    """Splits whose readers went elsewhere stay with the session, which others use next."""
    yield
    for name in {row["name"] for row in con.sql("SELECT name FROM system.splits").take_all()}:
        con.execute(f"DROP SPLIT IF EXISTS {name}")
