"""Addresses that a user or a server gives us, which may be none at all."""

from urllib.parse import urlsplit

from tune_hub.errors import HubError

PORTS = {"http": 80, "https": 443}


def origin(address: str) -> tuple[str, str, int]:
    """Return scheme, host and port: what decides who is shown a token.

    Args:
        address: with its scheme.

    Raises:
        ValueError: it is no address of HTTP.

    Source: RFC 6454, 4.
    """
    parts = urlsplit(address)
    port = parts.port or PORTS.get(parts.scheme)
    if parts.hostname is None or parts.scheme not in PORTS or port is None:
        raise ValueError("it is not http:// or https:// and a host")
    return parts.scheme, parts.hostname, port


def checked_endpoint(address: str) -> str:
    """Return the address of a Hub without the slash at its end.

    Args:
        address: as HF_ENDPOINT has it.

    Raises:
        HubError: no Hub can be there. A password in it is not told.
    """
    try:
        origin(address)
        parts = urlsplit(address)
    except ValueError:
        shown = repr(address) if "@" not in address else "its value"
        raise HubError(
            f"HF_ENDPOINT: {shown} is not the address of a Hub, which looks like https://HOST or "
            "http://HOST:PORT\n  set it right, or unset it to use the public Hub"
        ) from None
    if "@" in parts.netloc:
        raise HubError(
            f"HF_ENDPOINT: holds a user's name or password before {parts.hostname}, which would be sent in "
            "place of the token\n  leave it out; a token goes into HF_TOKEN"
        )
    if parts.query or parts.fragment or any(sign.isspace() or not sign.isprintable() for sign in address):
        raise HubError(
            f"HF_ENDPOINT: {address!r} has more in it than the address of a Hub\n"
            "  leave out spaces, and what begins with ? or #"
        )
    return address.rstrip("/")
