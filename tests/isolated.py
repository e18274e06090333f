"""Python with other packages than this environment has, for references that cannot be installed beside it."""

import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest


def run_with(packages: Sequence[str], code: str, *arguments: str) -> str:
    """Run code where packages lie over those of this environment, and give what it prints.

    The test is skipped where uv is missing or the packages cannot be had.

    Args:
        packages: what to install, into uv's cache alone (`transformers==4.45.2`).
        code: the program.
        arguments: its arguments.
    """
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    command = [uv, "run", "--no-project", "--python", sys.executable]
    command += [option for package in packages for option in ("--with", package)]
    ready = subprocess.run([*command, "python", "-c", ""], capture_output=True, text=True, timeout=900)
    if ready.returncode:
        pytest.skip(f"{', '.join(packages)} cannot be had: {ready.stderr.strip().splitlines()[-1:]}")
    done = subprocess.run(
        [*command, "python", "-W", "ignore", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
