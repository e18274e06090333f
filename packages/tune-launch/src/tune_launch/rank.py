"""One process as its launcher knows it."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from tune_launch import notes


class End(msgspec.Struct, frozen=True):
    """How a process has ended."""

    rank: int
    code: int
    """Exit status of the script; below 0 the signal that killed the process."""
    message: str | None = None
    """Its error, if it is known."""
    was_told: bool = False
    """The script ended by itself, so it has told its error where its output goes."""
    time_ns: int = 0
    is_general: bool = False
    """The error is no matter of this process: all have it."""
    hung: bool = False
    """It was ended because it did not answer."""

    @property
    def failed(self) -> bool:
        """It ended neither well nor because a signal asked for it."""
        return self.code != 0 and self.code not in notes.STOPPED


class Rank:
    """A process from its start to its end."""

    def __init__(self, number: int, place: Path):
        self.number = number
        """Its rank among all processes."""
        self.note: notes.Note | None = None
        """The last it said of itself."""
        self.death_ns: int | None = None
        """When it was gone."""
        self.handed_on = 0
        """How many signals it was given."""
        self.killed = False
        """We have killed it."""
        self.hung = False
        """That was because it did not answer."""
        self.warned = False
        """It was said that it does not answer."""
        self._place = place
        self._status: int | None = None
        self._beat_ns = 0
        self._alive_s = 0.0

    @property
    def pid(self) -> int | None:
        """Its process id, once it has said so."""
        return self.note.pid if self.note else None

    @property
    def is_running(self) -> bool:
        """Its script runs, or is about to."""
        return self.note is not None and self.note.code is None and self.death_ns is None

    @property
    def is_lost(self) -> bool:
        """It has ended, and has not said how."""
        return self.note is None or self.note.code is None

    @property
    def failed(self) -> bool:
        """It is known to have failed."""
        if self.note and self.note.code is not None:
            return not self._is_well
        return self.death_ns is not None and self._status != 0

    def look(self) -> None:
        """Read what it says."""
        if self.note is None or self.note.code is None:
            was_unknown = self.note is None
            self.note = notes.load(notes.Note, notes.note_path(self._place, self.number)) or self.note
            if was_unknown and self.note:
                threading.Thread(target=self._await_death, args=(self.note.pid,), daemon=True).start()

    def _await_death(self, pid: int) -> None:
        """Learn at once of the end, and what ended it, and leave the rest of the process to the agent."""
        status = None
        try:
            if hasattr(os, "waitid"):
                end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                assert end is not None
                status = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
            else:  # macOS before Python 3.13
                while True:
                    os.kill(pid, 0)
                    time.sleep(0.1)
        except (ChildProcessError, ProcessLookupError):
            pass  # the agent was faster
        self._status, self.death_ns = status, time.time_ns()

    def silence_s(self, now_s: float) -> float:
        """Return for how long it has given no sign of life.

        Args:
            now_s: As `time.monotonic` has it.
        """
        try:
            beat_ns = notes.beat_path(self._place, self.number).stat().st_mtime_ns
        except OSError:
            beat_ns = 0
        if beat_ns != self._beat_ns:
            self._beat_ns = beat_ns
            self.reset_silence(now_s)
        return now_s - self._alive_s

    def reset_silence(self, now_s: float) -> None:
        """Count from now."""
        self._alive_s, self.warned = now_s, False

    def send(self, signum: int) -> None:
        """Send it a signal, if it is still there."""
        if self.pid is not None and self.death_ns is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill it and the processes that it has started."""
        if self.pid is not None and self.death_ns is None:
            self.killed = True
            with suppress(ProcessLookupError, PermissionError):  # macOS forbids it for one that is ending
                os.killpg(self.pid, signal.SIGKILL)

    def end(self, code: int | None) -> End:
        """Say how it ended.

        Args:
            code: What the agent says if it failed.
        """
        self.look()
        note = self.note or notes.Note(0)
        status = code if self._status is None else self._status
        error = notes.read_error(notes.error_path(self._place, self.number))
        if note.code is not None and (self.killed or status in (None, 0 if self._is_well else note.code)):
            return End(
                self.number,
                note.code,
                error[0] if error else note.message,
                was_told=note.message is None,
                time_ns=min(note.time_ns, error[1]) if error else note.time_ns,
                is_general=note.is_general,
            )
        return End(  # it ended without a word, or otherwise than it said
            self.number,
            status or 0,
            error[0] if error and (status or 0) > 0 else None,
            was_told=(status or 0) >= 0,
            time_ns=self.death_ns or time.time_ns(),
            hung=self.hung,
        )

    @property
    def _is_well(self) -> bool:
        return self.note is not None and self.note.code in {0, *notes.STOPPED}
