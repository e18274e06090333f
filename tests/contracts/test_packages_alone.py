"""tune-checkpoint and tune-hub install and import by themselves, and bring no PyTorch along."""

import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / "packages"
PROBE = """
import importlib.metadata, sys
import {module}
for name in {module}.__all__:
    getattr({module}, name)
assert "torch" not in sys.modules
assert not any(d.name == "torch" for d in importlib.metadata.distributions())
"""


@pytest.mark.parametrize("package", ["tune-checkpoint", "tune-hub"])
def test_package_installs_and_imports_without_torch(package, tmp_path):
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: `pip install uv`")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", tmp_path / "venv"], check=True)
    subprocess.run(
        [uv, "pip", "install", "-q", "--python", python, PACKAGES / package], check=True, cwd=tmp_path
    )
    probe = PROBE.format(module=package.replace("-", "_"))
    done = subprocess.run([python, "-c", probe], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
