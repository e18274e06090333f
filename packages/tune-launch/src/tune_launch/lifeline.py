"""A process that ends when its launcher does, and shows that it is alive until then."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1


def end_with(launcher: int) -> None:
    """Have this process killed when the launcher dies, however it dies.

    Args:
        launcher: Its process id, which is that of our parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(launcher,), daemon=True).start()
    _end_without(launcher)  # it may have died before the kernel knew


def _watch(launcher: int) -> None:
    while True:
        time.sleep(1)
        _end_without(launcher)


def _end_without(launcher: int) -> None:
    if os.getppid() != launcher:
        os.kill(os.getpid(), signal.SIGKILL)


def start_beating(path: Path, interval_s: float) -> None:
    """Touch a file from now on, as long as Python runs in this process."""
    path.touch()
    threading.Thread(target=_beat, args=(path, interval_s), daemon=True, name="heartbeat").start()


def _beat(path: Path, interval_s: float) -> None:
    while True:
        time.sleep(interval_s)
        try:
            os.utime(path)
        except OSError:
            return  # the launcher has cleared up
