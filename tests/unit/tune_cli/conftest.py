"""What the tests of the shell share: a command line run in this process, and one whose input is bad."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from tune_cli import app
from tune_recipes.catalog import ROOT


class Said(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


class TuneHere(Protocol):
    def __call__(self, *words: str | Path) -> Said: ...


@pytest.fixture
def tune_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> TuneHere:
    """Run a command of `tune` in this process, behind the entry point, in the test's empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Said:
        capsys.readouterr()
        code = app.run([str(word) for word in words])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def refused(tune_here: TuneHere) -> Callable[..., str]:
    """Run a command that is refused: exit status 2, one message, nothing printed, nothing written."""

    def refused_(*words: str | Path) -> str:
        before = snapshot(Path())
        said = tune_here(*words)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("error: ")
        assert "Traceback" not in said.err
        assert snapshot(Path()) == before
        return said.err.removeprefix("error: ").rstrip("\n")

    return refused_


@pytest.fixture
def trained(tmp_path: Path) -> str:
    """A folder that passes for a trained model where no weights are read."""
    folder = tmp_path / "trained"
    shutil.copytree(ROOT / "builtin" / "demo", folder)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **sizes, **heads}
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    (folder / "model.safetensors").touch()
    return str(folder)


def snapshot(folder: Path) -> dict[str, object]:
    """Every path below a folder with what it holds."""
    return {
        str(path): path.read_bytes() if path.is_file() else path.lstat().st_mtime_ns
        for path in folder.rglob("*")
    }
