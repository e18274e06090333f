"""Runs a command as a process of its own and reads from the system what it took."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What a finished process took."""

    cpu_s: float
    """User and system time, of the process and those it waited for."""
    wall_s: float
    peak_bytes: int
    """Largest resident set, mapped files included."""


def run(command: Sequence[str], *, cwd: Path | None = None, expect: int | None = 0) -> Cost:
    """Run a command, its output thrown away, and return its cost.

    Raises:
        RuntimeError: Its exit status is not `expect` (None: any will do).
    """
    # With bytecode, as an installed package has it: without, every start compiles the modules anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if expect is not None and process.returncode != expect:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss * unit)
