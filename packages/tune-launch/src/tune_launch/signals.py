"""Signals that reach the launcher, kept for its processes."""

import signal
import threading
from types import FrameType
from typing import Any

from tune_launch.notes import STOP_SIGNALS


class Signals:
    """Collects signals from `with` to its end instead of dying of them.

    Those that are ignored, as `nohup` has it for SIGHUP, stay so.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        """In the order of arrival."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # no other may have handlers
            for signum in STOP_SIGNALS:
                if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self.received.append(signum)

    @property
    def stop(self) -> int | None:
        """Exit status for the first signal that wants an end, if there is one."""
        return next((128 + signum for signum in self.received if signum != signal.SIGUSR1), None)

    @property
    def is_impatient(self) -> bool:
        """Ctrl-C came when an end had been asked for already."""
        return signal.SIGINT in self.received[1:]
