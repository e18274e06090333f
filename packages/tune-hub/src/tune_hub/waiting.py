"""How long to wait before asking again, and when to give up."""

import time
from collections.abc import Callable

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 8.0
LONGEST_ASKED_WAIT_S = 300.0
"""A server that asks for more is taken at its word by the user, not by us."""
MAX_FAILURES = 6


class Waits:
    """Waits after failures, twice as long each time. Progress begins the count anew."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """Begin.

        Args:
            sleep: waits so many seconds.
        """
        self._sleep = sleep
        self._failures = 0

    def progress(self) -> None:
        """Say that something was reached since the last failure."""
        self._failures = 0

    def wait(self, retry_after: str | None = None) -> bool:
        """Wait after a failure, or return False at once where it is time to give up.

        Args:
            retry_after: what the server asks for, in seconds. The date that HTTP also allows is not sent by
                the Hub; it counts as nothing asked.

        Source: RFC 9110, 10.2.3.
        """
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            return False
        seconds = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (self._failures - 1))
        if retry_after and retry_after.strip().isdecimal():
            seconds = float(retry_after)
        if seconds > LONGEST_ASKED_WAIT_S:
            return False
        self._sleep(seconds)
        return True
