"""Where the output of a process goes: the terminal, its log, or both.

That it cannot be written, to a terminal that was closed or to a disk that is full, is no reason to end a
process that trains, and may be about to save.
"""

import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""What moves a cursor or colours a text on a terminal."""


class Lines:
    """Passes text on line by line, each as a terminal shows it once it is finished."""

    def __init__(self, *takers: Callable[[str], object]):
        self._takers = takers
        self._unfinished = ""
        self._lock = threading.RLock()  # a signal handler may print in the midst of a print

    def write(self, text: str) -> None:
        """Take any piece of text."""
        with self._lock:
            *lines, rest = (self._unfinished + text).split("\n")
            # A live bar draws its line many times; only the last is of interest.
            self._unfinished = _last_drawn(rest) + ("\r" if rest.endswith("\r") else "")
            for line in lines:
                self._pass_on(line)

    def finish(self) -> None:
        """Pass on what has had no end of line."""
        with self._lock:
            if CONTROL.sub("", self._unfinished).strip():
                self._pass_on(self._unfinished)
            self._unfinished = ""

    def _pass_on(self, line: str) -> None:
        for taker in self._takers:
            taker(CONTROL.sub("", _last_drawn(line)) + "\n")


def _last_drawn(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


class Shown:
    """A stream whose lines go elsewhere as well; for everything but writing it is that stream."""

    def __init__(self, stream: TextIO, lines: Lines):
        self._stream = stream
        self._lines = lines

    def write(self, text: str) -> int:
        """Write to both."""
        self._lines.write(text)
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream; the log is never behind."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Marked(io.TextIOBase):
    """A stream whose lines go to the log, and behind `[rank N]` to the terminal."""

    def __init__(self, lines: Lines, log: TextIO):
        super().__init__()
        self._lines = lines
        self._log = log

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the log."""
        return "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str, /) -> int:
        """Take any piece of text; whole lines go on."""
        self._lines.write(text)
        return len(text)

    def fileno(self) -> int:
        """Where a child's output goes: into the log."""
        return self._log.fileno()


class Output:
    """Sends the output of this process where it belongs, from when it is made until `finish`."""

    def __init__(self, log: Path, rank: int, *, all_ranks: bool):
        self.log = log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        """The log of this process."""
        self._lines: list[Lines] = []
        if all_ranks:
            terminals = [os.dup(1), os.dup(2)]
            self._redirect()
            sys.stdout, sys.stderr = (self._marked(terminal, rank) for terminal in terminals)
        elif rank > 0:
            self._redirect()
            sys.stdout, sys.stderr = self._shown(sys.stdout), self._shown(sys.stderr)
        else:
            sys.stdout, sys.stderr = self._shown(sys.stdout, self.keep), self._shown(sys.stderr, self.keep)

    def _redirect(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(self.log.fileno(), stream.fileno())  # so that what is printed in C++ goes there as well
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # pyright: ignore

    def _marked(self, terminal: int, rank: int) -> TextIO:
        mark = f"[rank {rank}] "
        lines = Lines(self.keep, lambda line: _write_whole(terminal, mark + line))
        self._lines.append(lines)
        return cast(TextIO, Marked(lines, self.log))

    def _shown(self, stream: TextIO, *takers: Callable[[str], object]) -> TextIO:
        lines = Lines(*takers)
        self._lines.append(lines)
        return cast(TextIO, Shown(stream, lines))

    def keep(self, text: str) -> None:
        """Write to the log alone."""
        _write_whole(self.log.fileno(), text)

    def finish(self) -> None:
        """Write what is left."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for lines in self._lines:
            lines.finish()


def _write_whole(file: int, text: str) -> None:
    # One call for each line, past all buffers: several processes write here, and their lines must not mingle.
    data = text.encode(errors="backslashreplace")
    with suppress(OSError):
        while data:
            data = data[os.write(file, data) :]
