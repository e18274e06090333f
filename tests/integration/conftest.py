"""What the integration tests share: the real model as a folder, and recipes run in this process."""

import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from support import Finished, RunTune
from tune_checkpoint import convert


@pytest.fixture
def tune_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunTune:
    """Run `tune` in this process, in the test's empty folder: PyTorch is imported only once."""
    from tune_cli.app import run

    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path, env: dict[str, str] | None = None) -> Finished:
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["tune", *map(str, words)])
        with redirect_stdout(out), redirect_stderr(err):
            code = run([str(word) for word in words])
        return Finished(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SmolLM2-135M-Instruct as a Hugging Face folder in fp32."""
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    convert(smollm2_gguf, folder)
    yield folder
    (folder / "model.safetensors").unlink()  # half a gigabyte
