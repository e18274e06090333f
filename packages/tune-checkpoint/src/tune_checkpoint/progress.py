"""A line on a terminal that says how far a work is."""

import os
import shutil
import sys
import time
from types import TracebackType

from tune_checkpoint.text import seconds_text, size_text

REDRAWN_EACH_S = 0.1


class ProgressLine:
    """Shows bytes, rate and time left on standard error, if that is a terminal that can be redrawn.

    Called with the bytes done and the bytes in all; as a context manager, it clears its line at the end.

    Source: https://no-color.org: a NO_COLOR that is set and not empty asks for plain text.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_shown = can_redraw()
        self._started = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._draw("")

    def __call__(self, done: int, total: int) -> None:
        """Redraw the line, ten times a second at most."""
        now = time.monotonic()
        if self._is_shown and now - self._drawn >= REDRAWN_EACH_S:
            self._drawn = now
            self._draw(progress_text(self._what, done, total, now - self._started))

    def _draw(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns
        sys.stderr.write(f"\r{text[: columns - 1]:{columns - 1}}\r")
        sys.stderr.flush()


def can_redraw() -> bool:
    """Whether standard error is a terminal on which a line can be drawn over, and the user wants that."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    return is_terminal and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def progress_text(what: str, done: int, total: int, seconds: float) -> str:
    """Say how far it is: `converting  42%  1.1 of 2.7 GB  310.2 MB/s  5.2 s left`."""
    rate = done / seconds if seconds > 0 else 0.0
    share = 100 * done // total if total else 100
    left = f"  {seconds_text((total - done) / rate)} left" if rate else ""
    return f"{what}  {share:3}%  {size_text(done)} of {size_text(total)}  {size_text(rate)}/s{left}"
