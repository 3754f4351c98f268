"""The package and its workers in a Python that has pyarrow and no numpy, as the wheel alone gives one."""

import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).with_name("without_numpy.py")


@pytest.mark.parametrize("executors", [0, 2])
def test_rows_and_arrow_need_no_numpy(tmp_path, executors):
    # Found before the installed one, here and in workers.
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "MOBULA_PYTHON": sys.executable}
    command = [sys.executable, str(PROGRAM), str(executors), str(tmp_path / "out")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "all well\n"), ended.stderr
