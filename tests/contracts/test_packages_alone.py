"""Packages install and import by themselves; none of these needs PyTorch before it trains."""

import shutil
import subprocess
from pathlib import Path

import pytest

from small_llama import small_weights, write_folder

PACKAGES = Path(__file__).parents[2] / "packages"
PROBE = """
import importlib.metadata, sys
import {module}
for name in {module}.__all__:
    getattr({module}, name)
if "{module}" == "tune_launch":
    tune_launch.describe(tune_launch.LaunchSpec(script="s.py", processes=2), {{}}, 2)
    tune_launch.choose_devices(tune_launch.detect(), nproc=2)
assert "torch" not in sys.modules
assert not any(d.name == "torch" for d in importlib.metadata.distributions())
"""


# What tune-launch starts is PyTorch's; until then it must do without.
@pytest.mark.parametrize(
    ("package", "what"),
    [
        ("tune-checkpoint", [PACKAGES / "tune-checkpoint"]),
        ("tune-hub", [PACKAGES / "tune-hub"]),
        ("tune-launch", ["--no-deps", PACKAGES / "tune-launch", "msgspec"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_package_installs_and_imports_without_torch(package, what, tmp_path):
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: `pip install uv`")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", tmp_path / "venv"], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", python, *what], check=True, cwd=tmp_path)
    probe = PROBE.format(module=package.replace("-", "_"))
    done = subprocess.run([python, "-c", probe], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if package == "tune-checkpoint":
        _convert_alone(tmp_path)


def _convert_alone(folder: Path) -> None:
    """Use the package's command as somebody who installed nothing else."""
    write_folder(folder / "model", small_weights())
    command = [folder / "venv" / "bin" / "tune-checkpoint"]
    for words in (["convert", "model", "--dtype", "bf16"], ["verify", "model-hf"], ["inspect", "model-hf"]):
        done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
    assert (folder / "model-hf" / "model.safetensors").is_file()
