"""What asks a command to stop."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GOES_ON = "the same command goes on with the files that are finished"
"""Of a conversion that was interrupted."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is to be heeded as Ctrl-C is."""


@contextmanager
def heeding_sigterm() -> Generator[None]:
    """Raise `Terminated` at SIGTERM, so that what is under way is left as it is at Ctrl-C."""

    def stop(_signum: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status of a command that was stopped."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
