"""Which process failed first, and how that is told."""

import math
import signal
from collections.abc import Collection, Iterable
from pathlib import Path

from tune_launch.notes import log_path
from tune_launch.rank import End
from tune_launch.spec import LaunchSpec

TAIL = 20
"""So many lines are shown of a log that is not kept."""
ALMOST_AT_ONCE_NS = 50_000_000
"""So much later may a crash be noticed than what followed from it."""


def first_failure(ends: Iterable[End], killed: Collection[int] = ()) -> End | None:
    """Return the failure that the others followed from; None if there is none.

    Args:
        ends: How each process ended.
        killed: Ranks that the launcher has killed, whose end says nothing.
    """
    failed = [end for end in ends if end.failed and (end.code > 0 or end.hung or end.rank not in killed)]
    if not failed:
        return None
    first = min(failed, key=_when)
    if first.code < 0:
        return first
    # What is wrong for all is told once, by the process that all look at.
    alike = [end for end in failed if (end.code, _headline(end)) == (first.code, _headline(first))]
    return min(alike, key=lambda end: end.rank)


def _headline(end: End) -> str | None:
    # Below it may stand what differs, such as the place of a log.
    return end.message and end.message.partition("\n")[0]


def _when(end: End) -> float:
    if end.hung or end.code == -signal.SIGKILL:  # by nothing that another process has done
        return -math.inf
    has_crashed = end.code < 0 and end.code != -signal.SIGTERM  # that comes from the agent, after a failure
    return end.time_ns - (ALMOST_AT_ONCE_NS if has_crashed else 0)


def brief(end: End) -> str:
    """Describe a failure in one line, e.g. for a restart."""
    if end.hung:
        return f"rank {end.rank} did not answer"
    if end.code < 0:
        return f"rank {end.rank} was killed ({signal_name(-end.code)})"
    return f"rank {end.rank} failed ({_headline(end) or f'exit status {end.code}'})"


def explain(end: End, spec: LaunchSpec, log_dir: str) -> str:
    """Describe the failure that ends a launch.

    Args:
        end: The first failure.
        spec: What was launched.
        log_dir: Where the logs are, also if they are not kept.
    """
    if end.is_general:
        return str(end.message)
    is_shown = end.rank == 0 or spec.all_ranks
    where = _where(end, spec, log_dir, has_output=not (is_shown and end.was_told))
    if end.hung:
        return f"rank {end.rank} did not answer for {spec.hang_timeout_s:g} s and was ended{where}"
    if end.code == -signal.SIGKILL:
        hint = "the system may have run out of memory: `dmesg | tail` tells"
        return f"rank {end.rank} was killed (SIGKILL){where}\n  {hint}"
    if end.code < 0:
        return f"rank {end.rank} was killed ({signal_name(-end.code)}){where}"
    if end.message is None or (is_shown and end.was_told):
        return f"rank {end.rank} failed (exit status {end.code}){where}"
    return f"rank {end.rank} failed: {end.message}\n  exit status {end.code}{where}"


def _where(end: End, spec: LaunchSpec, log_dir: str, *, has_output: bool) -> str:
    if spec.log_dir is not None:
        return f"; its log: {log_path(spec.log_dir, end.rank)}"
    tail = _tail(log_path(log_dir, end.rank)) if has_output else []
    return "".join(f"\n  {line}" for line in ["the last that it printed:", *tail]) if tail else ""


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    except OSError:
        return []


def signal_name(signum: int) -> str:
    """Return the name of a signal."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
