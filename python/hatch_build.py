"""What a wheel has beside the package: the binary `mobula`, and the text of cloudpickle.

`MOBULA_BIN` names the binary, which must have been built before: `cargo xt wheel` does both.
The wheel is for every Python 3 and, of Linux, for machines whose glibc has what the binary asks
for: build it on the oldest one that is to run it. It links nothing else that wheels may not.
"""

import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sysconfig
import tempfile

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LICENSE = pathlib.Path(__file__).resolve().parent.parent / "LICENSE"


class CustomBuildHook(BuildHookInterface):
    """Called by hatchling, which finds it by its name."""

    def initialize(self, version: str, build_data: dict) -> None:
        if version == "editable":
            return
        binary = os.environ.get("MOBULA_BIN", "")
        if not os.access(binary, os.X_OK):
            raise RuntimeError(f"MOBULA_BIN is {binary!r}, which is no program. Build the wheel by: cargo xt wheel")
        self._scratch = tempfile.TemporaryDirectory()
        stripped = os.path.join(self._scratch.name, "mobula")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform(binary)}"
        build_data["shared_scripts"][_stripped(binary, stripped)] = "mobula"
        build_data["force_include"][str(LICENSE)] = "mobula/bundled/LICENSE"
        pickler = importlib.metadata.distribution("cloudpickle")
        for file in pickler.files or ():
            if file.name in ("cloudpickle.py", "LICENSE"):
                name = file.name if file.suffix else "LICENSE.cloudpickle"
                build_data["force_include"][str(file.locate())] = f"mobula/bundled/{name}"

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        if version != "editable":
            self._scratch.cleanup()


def _platform(binary: str) -> str:
    """The platform that a wheel with it is for, as wheels name platforms (PEP 600)."""
    asked = re.findall(rb"GLIBC_2\.(\d+)\0", pathlib.Path(binary).read_bytes())
    if not asked:
        return sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"manylinux_2_{max(map(int, asked))}_{platform.machine()}"


def _stripped(binary: str, to: str) -> str:
    """A copy without symbols, which are a third of it; with them where nothing takes them out."""
    strip = shutil.which("strip")
    if strip is None:
        shutil.copy(binary, to)
    else:
        subprocess.run([strip, "-o", to, binary], check=True)
    return to
