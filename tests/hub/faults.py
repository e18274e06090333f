"""What goes wrong on demand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event


@dataclass
class Fault:
    """What happens to the requests that it matches.

    A request meets one fault at most: the first that matches and is left over.
    """

    match: str = ""
    """A regular expression, searched for in the path as it was sent."""
    method: str | None = None
    """None is any."""
    times: int = 1
    """How many requests meet it."""
    skip: int = 0
    """How many that match are spared before."""
    delay: float = 0.0
    """Seconds until anything happens."""
    status: int | None = None
    """Answer with this error, after the request's body has been read."""
    message: str = "Something went wrong on purpose"
    """Goes with `status`."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Go with `status`, or on top of an answer."""
    redirect: str | None = None
    """Send the client to this address."""
    hang_up: bool = False
    """Close the connection without an answer."""
    drop_after: int | None = None
    """Close the connection after so many bytes: of the answer's body, exactly; of the body of a PUT or
    POST, some hundred thousand later."""
    hold_after: int | None = None
    """Send no more after so many bytes (or take no more) until `Hub.release` is called."""
    truncate: int | None = None
    """End the answer's body after so many bytes, as if it had no more."""
    corrupt: int | None = None
    """Flip a bit of the byte at this offset of the file."""
    ignore_range: bool = False
    """Answer with the whole file, whatever was asked for."""
    bytes_per_second: int | None = None
    """Send, or take, no faster."""
    met: int = 0
    """How many requests have met it."""
    released: Event = field(default_factory=Event)

    def meets(self, method: str, path: str) -> bool:
        """Whether this request meets it, which is counted."""
        if self.met >= self.times or self.method not in (None, method) or not re.search(self.match, path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.met += 1
        return True


NO_FAULT = Fault(times=0)
