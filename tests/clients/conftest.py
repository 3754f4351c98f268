"""Servers and data for the client tests.

A test asks for a `start` fixture and gets `Server` objects.
"""

import os
import pathlib
import subprocess
import sys

import pytest

# What the tests share with the benchmarks: servers, and what equal answers are.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks/clients"))

from servers import MOBULA, Server  # noqa: E402


@pytest.fixture
def start(tmp_path):
    """Starts servers that end with the test."""
    servers = []

    def start_server(executors=0, args=(), data_dir=None, env=None):
        server = Server(data_dir or tmp_path / "data", executors, args, env)
        servers.append(server)
        return server

    yield start_server
    for server in reversed(servers):
        server.stop()


@pytest.fixture(scope="session")
def scale_factor():
    return float(os.environ.get("MOBULA_TEST_SF", "0.1"))


@pytest.fixture(scope="session")
def tpch(tmp_path_factory, scale_factor):
    """A directory with the TPC-H tables, four files each."""
    cached = os.environ.get("MOBULA_TEST_TPCH")
    out = pathlib.Path(cached) if cached else tmp_path_factory.mktemp("tpch") / "data"
    command = [MOBULA, "tpch-data", "--sf", str(scale_factor), "--parts", "4", "--out", str(out)]
    subprocess.run(command, check=True)
    return out
