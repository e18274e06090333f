"""What the launcher does while its processes run: hands signals on, and ends what does not end by itself."""

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tune_launch.failure import brief, first_failure
from tune_launch.rank import End, Rank
from tune_launch.signals import Signals
from tune_launch.spec import LaunchSpec

POLL_S = 0.1
POLL_AT_START_S = 0.02
"""Until all have told who they are: of one that ends before, the agent alone knows how."""
ASLEEP_S = 1.0
"""When we have not looked for so long we were suspended, and know nothing of others."""
MERCY_S = 5.0
"""So long may a process live on after SIGTERM from the agent, because another failed; that would wait 30."""
LAST_CALL_S = 3.0
"""So long may a process live on after a second Ctrl-C."""
PATIENCE_S = 10.0
"""So long after an end was asked for it is said which processes have not stopped."""


class NoMoreStarts(Exception):
    """The agent wants to start processes that nobody needs any more."""


def say(text: str) -> None:
    """Tell the user."""
    with suppress(OSError):  # the terminal may have been closed, and the processes are saving
        print(text, file=sys.stderr, flush=True)


class Watch:
    """All processes of a launch on this machine, start by start."""

    def __init__(self, spec: LaunchSpec, folder: Path, signals: Signals):
        self.starts: list[list[Rank]] = []
        """The processes of each start."""
        self._spec = spec
        self._folder = folder
        self._signals = signals
        self._lock = threading.Lock()
        self._is_closed = False
        self._looked_s = time.monotonic()
        self._failed_s: float | None = None
        self._last_call_s: float | None = None
        self._stopped_s: float | None = None

    def open_round(self, ranks: Sequence[int]) -> Path:
        """Note that processes are about to start; in the agent's thread.

        Returns:
            A folder for their notes.

        Raises:
            NoMoreStarts: They shall not.
        """
        with self._lock:
            if self._is_closed or (self.starts and self._signals.stop is not None):
                raise NoMoreStarts
            if self.starts:
                self._say_restart(len(self.starts))
            elif 0 not in ranks and not self._spec.all_ranks:
                here = f"ranks {ranks[0]} to {ranks[-1]} run" if len(ranks) > 1 else f"rank {ranks[0]} runs"
                say(f"{here} here; rank 0, on another machine, tells how it goes")
            place = self._folder / f"start_{len(self.starts)}"
            place.mkdir()
            self._failed_s = self._stopped_s = None
            self.starts.append([Rank(number, place) for number in ranks])
            return place

    def _say_restart(self, number: int) -> None:
        failure = first_failure(self.ends({}), self.killed)
        if failure is not None and failure.code == 2:  # wrong input stays wrong
            raise NoMoreStarts
        lost = [f"rank {rank.number} is gone" for rank in self.ranks if rank.is_lost]
        why = brief(failure) if failure else (lost or ["other machines came or went"])[0]
        say(f"{why}: starting all again, restart {number} of {self._spec.max_restarts}")

    def run(self, agent: threading.Thread) -> None:
        """Watch until the agent has ended, or is not worth waiting for."""
        while agent.is_alive():
            is_complete = self.starts and all(rank.note for rank in self.ranks)
            agent.join(POLL_S if is_complete else POLL_AT_START_S)
            with self._lock:
                if not self.starts and self._signals.stop is not None:
                    self._is_closed = True
                    return
                now_s = time.monotonic()
                self._look(self.ranks, now_s)
                if self._last_call_s is not None and now_s > self._last_call_s + LAST_CALL_S:
                    return  # the agent waits for other machines, or for what not even SIGKILL ends

    @property
    def ranks(self) -> list[Rank]:
        """The processes of the last start."""
        return self.starts[-1] if self.starts else []

    @property
    def killed(self) -> set[int]:
        """Ranks that we have killed."""
        return {rank.number for rank in self.ranks if rank.killed}

    def ends(self, codes: dict[int, int]) -> list[End]:
        """How the processes of the last start have ended.

        Args:
            codes: What the agent says of those that failed.
        """
        return [rank.end(codes.get(rank.number)) for rank in self.ranks]

    def _look(self, ranks: list[Rank], now_s: float) -> None:
        was_asleep = now_s - self._looked_s > ASLEEP_S
        self._looked_s = now_s
        for rank in ranks:
            rank.look()
            if was_asleep:
                rank.reset_silence(now_s)
        self._hand_on_signals(ranks, now_s)
        self._end_the_others(ranks, now_s)
        self._check_signs_of_life(ranks, now_s)
        self._say_who_is_late(ranks, now_s)

    def _hand_on_signals(self, ranks: list[Rank], now_s: float) -> None:
        received = list(self._signals.received)
        for rank in ranks:
            while rank.is_running and rank.handed_on < len(received):
                rank.send(received[rank.handed_on])
                rank.handed_on += 1
        if self._signals.is_impatient:
            self._last_call_s = self._last_call_s or now_s + LAST_CALL_S
            if now_s > self._last_call_s:
                _kill(ranks)

    def _end_the_others(self, ranks: list[Rank], now_s: float) -> None:
        if any(rank.failed for rank in ranks):
            self._failed_s = self._failed_s or now_s
            if now_s > self._failed_s + MERCY_S:
                _kill(ranks)

    def _check_signs_of_life(self, ranks: list[Rank], now_s: float) -> None:
        limit_s = self._spec.hang_timeout_s
        for rank in (rank for rank in ranks if rank.is_running and not rank.killed):
            silence_s = rank.silence_s(now_s)
            if silence_s > limit_s:
                rank.hung = True
                rank.kill()
            elif silence_s > limit_s / 10 and not rank.warned:
                rank.warned = True
                say(_no_answer(rank, silence_s, limit_s))

    def _say_who_is_late(self, ranks: list[Rank], now_s: float) -> None:
        late = [rank for rank in ranks if rank.is_running]
        if self._signals.stop is None:
            return
        if self._stopped_s is None:
            self._stopped_s = now_s
        elif late and now_s > self._stopped_s + PATIENCE_S:
            self._stopped_s = float("inf")  # said once
            names = ", ".join(f"rank {rank.number} (process {rank.pid})" for rank in late)
            say(f"still waiting for {names} to stop; Ctrl-C ends it at once")


def _kill(ranks: list[Rank]) -> None:
    for rank in ranks:
        if not rank.killed:
            rank.kill()


def _no_answer(rank: Rank, silence_s: float, limit_s: float) -> str:
    told = f"rank {rank.number} (process {rank.pid}) has not answered for {silence_s:.0f} s"
    if _is_suspended(rank.pid):
        told = f"{told}: it is stopped\n  `kill -CONT {rank.pid}` lets it go on"
    return f"{told}; after {limit_s:g} s it is ended"


def _is_suspended(pid: int | None) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # macOS
        return False
    return stat.rpartition(")")[2].split()[0] in "Tt"
