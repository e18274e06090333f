"""The two addresses of the Hub."""

import secrets
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Origins:
    """Two ports stand for two hosts, which must not be shown the same secrets."""

    hub: str
    """Without a slash at the end."""
    cdn: str
    """Holds the contents of LFS files, at signed addresses."""
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)
    """Signs them."""
