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
