"""What the tests of the shell share: a command line run in this process, and one whose input is bad."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from tune_cli import app


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


def snapshot(folder: Path) -> dict[str, object]:
    """Every path below a folder with what it holds."""
    return {
        str(path): path.read_bytes() if path.is_file() else path.lstat().st_mtime_ns
        for path in folder.rglob("*")
    }
