"""Packages install and import by themselves; none of these needs PyTorch before it trains."""

import shutil
import subprocess
import sys
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


LIGHT_HUB = """
import sys
import tune_hub
assert tune_hub.resolve_alias("llama2") == "meta-llama/Llama-2-7b-hf"
assert not tune_hub.find_secrets(sys.argv[1])
assert tune_hub.model_card(tune_hub.CardFacts(name="mine", method="full"))
tune_hub.download, tune_hub.upload, tune_hub.plan_download, tune_hub.plan_upload
print(*sys.modules)
"""
NETWORK = {"huggingface_hub", "httpx2", "yaml", "requests", "ssl", "asyncio", "numpy", "torch"}


def test_tune_hub_loads_the_network_only_when_it_talks_to_it(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing secret\n")
    command = [sys.executable, "-c", LIGHT_HUB, tmp_path]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "tune_hub.secrets" in loaded
    assert not NETWORK & set(loaded)


def test_import_of_tune_hub_loads_the_short_names_alone():
    command = [sys.executable, "-c", "import sys, tune_hub; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("tune_")}
    assert ours == {"tune_hub", "tune_hub.aliases", "tune_hub.errors"}
    assert not NETWORK & set(loaded)


def _convert_alone(folder: Path) -> None:
    """Use the package's command as somebody who installed nothing else."""
    write_folder(folder / "model", small_weights())
    command = [folder / "venv" / "bin" / "tune-checkpoint"]
    for words in (["convert", "model", "--dtype", "bf16"], ["verify", "model-hf"], ["inspect", "model-hf"]):
        done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
    assert (folder / "model-hf" / "model.safetensors").is_file()
