"""Scripts, and launches of them: in this process, or in one that may be sent signals."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from tune_launch import LaunchSpec, launch

# The launcher says so before it imports PyTorch; in these tests that has often happened before.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

HELPERS = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
rank = int(os.environ["RANK"])
def ready(what="ready"):
    (here / f"{what}_{rank}").write_text(str(os.getpid()))
def wait_for(name):
    while not (here / name).exists():
        time.sleep(0.01)
"""
"""Stand in front of each script."""

LAUNCHER = """
import os, signal, sys, tempfile
os.chdir(folder)
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where tests run in the background
tempfile.tempdir = str(folder)  # a launcher that is killed leaves its notes behind
for number, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
exec(before)
from tune_launch import LaunchSpec, launch
sys.exit(launch(LaunchSpec(**spec)))
"""


class Launched(NamedTuple):
    """A launch that has ended."""

    status: int
    """Below 0 the signal that killed the launcher."""
    out: str
    err: str
    seconds: float


class Launch(Protocol):
    """Launches a script given as text."""

    def __call__(self, text: str, /, **fields: Any) -> Launched: ...


class Launcher:
    """A launch in a process of its own, which has PyTorch from the start: to import it takes seconds."""

    def __init__(self, number: int, folder: Path, spec: dict[str, Any], before: str):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed.launcher.api", "tune_launch.launcher"])
        self.folder = folder
        self._output = folder / f"launcher_{number}"
        names = {"folder": folder, "before": before, "output": str(self._output), "spec": spec}
        self.process = context.Process(target=exec, args=(LAUNCHER, names))
        self._start = time.monotonic()
        self.process.start()

    def wait_for(self, *names: str) -> list[int]:
        """Wait until these files are in the folder, and return the numbers in them."""
        deadline = time.monotonic() + 60
        while True:
            found = [path.read_text() for name in names if (path := self.folder / name).exists()]
            if len(found) == len(names) and all(found):
                return [int(text) for text in found]
            assert self.process.is_alive(), self.end()
            assert time.monotonic() < deadline, names
            time.sleep(0.01)

    def send(self, signum: int) -> None:
        """Send the launcher a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signum)

    @property
    def err(self) -> str:
        """What it has told so far."""
        path = Path(f"{self._output}.err")
        return path.read_text() if path.exists() else ""

    @property
    def has_begun(self) -> bool:
        """The process is about to launch."""
        return Path(f"{self._output}.err").exists()

    def end(self) -> Launched:
        """Wait for the end."""
        self.process.join(60)
        assert self.process.exitcode is not None
        seconds = time.monotonic() - self._start
        return Launched(self.process.exitcode, Path(f"{self._output}.out").read_text(), self.err, seconds)

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.join()
        self.process.close()


class Start(Protocol):
    """Starts a launch of a script given as text."""

    def __call__(self, text: str, /, before: str = "", **fields: Any) -> Launcher: ...


@pytest.fixture
def as_script(tmp_path: Path) -> Callable[[str], str]:
    """Write a script."""

    def write(text: str) -> str:
        path = tmp_path / "a script.py"
        path.write_text(HELPERS + text)
        return str(path)

    return write


@pytest.fixture
def launched(as_script: Callable[[str], str], capfd: pytest.CaptureFixture[str]) -> Launch:
    """Launch in this process, with 2 processes if nothing else is said."""

    def run(text: str, /, **fields: Any) -> Launched:
        start = time.monotonic()
        status = launch(LaunchSpec(script=as_script(text), **{"processes": 2, **fields}))
        seconds = time.monotonic() - start
        told = capfd.readouterr()
        return Launched(status, told.out, told.err, seconds)

    return run


@pytest.fixture
def start(as_script: Callable[[str], str], tmp_path: Path) -> Iterator[Start]:
    """Launch in another process, behind some code, with 2 processes if nothing else is said."""
    launchers: list[Launcher] = []

    def run(text: str, /, before: str = "", **fields: Any) -> Launcher:
        spec = {"script": as_script(text), "processes": 2, **fields}
        launchers.append(Launcher(len(launchers), tmp_path, spec, before))
        return launchers[-1]

    yield run
    for launcher in launchers:
        launcher.close()
