"""The way to the Hub: its address, who we are there, and its errors in our words."""

import math
import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from tune_hub.addresses import checked_endpoint
from tune_hub.errors import AccessError, HubError, OfflineError, RepositoryNotFoundError, TransferError
from tune_hub.waiting import Waits

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

T = TypeVar("T")

ANSWER_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 10.0
"""Seconds without a byte after which a connection is given up, if HF_HUB_DOWNLOAD_TIMEOUT says no other."""
LONGEST_TIMEOUT_S = 3600.0
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Client:
    """An address and a token. What is printed of it holds no token."""

    def __init__(self, endpoint: str, token: str | None, token_name: str) -> None:
        if token and not (token.isascii() and token.isprintable()):  # no header could carry it
            raise AccessError(
                f"the token from {token_name} has a sign in it that none has\n  copy it again, alone"
            )
        self.endpoint = endpoint
        self.token = token
        self.token_name = token_name
        """Which token it is, in the user's words."""

    def __repr__(self) -> str:
        return f"Client({self.endpoint!r}, {self.token_name})"

    @property
    def api(self) -> "HfApi":
        """The Hub's own client. With no token it sends none, wherever one may lie."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token or False, library_name="tune")

    @property
    def session(self) -> "httpx2.Client":
        """The connections that huggingface_hub keeps, with its rules for proxies and certificates.

        Raises:
            TransferError: there can be none, as the environment names a proxy that is none.
        """
        import httpx2
        from huggingface_hub import get_session

        try:
            session = get_session()
        except (ValueError, ImportError, OSError, httpx2.InvalidURL) as error:
            raise TransferError(
                f"no connection can be made: {scrubbed(str(error), self)}\n"
                "  check the proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) and SSL_CERT_FILE"
            ) from None
        if session.timeout == httpx2.Timeout(None):  # a server that never answers is an error, not a rest
            session.timeout = httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        return session

    def headers(self) -> dict[str, str]:
        """What a request to the Hub carries: who asks, and the token. For the endpoint alone."""
        from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]

        return build_hf_headers(token=self.token or False, library_name="tune")


def open_client(token: str | None = None) -> Client:
    """Return the way to the Hub, as the environment has it: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`.

    Args:
        token: used before `HF_TOKEN` and the token that `hf auth login` left.

    Raises:
        OfflineError: `HF_HUB_OFFLINE` is set.
        HubError: the environment is not what it may be.
    """
    if is_offline():
        raise OfflineError("HF_HUB_OFFLINE is set: the Hub may not be asked\n  unset it to go on")
    given = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    endpoint = checked_endpoint(given) if given else ""  # before huggingface_hub reads it, which then raises
    try:
        from huggingface_hub import constants, get_token
    except ValueError as error:
        raise HubError(
            f"a variable of huggingface_hub is not what it may be: {error}\n"
            "  HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT are whole seconds"
        ) from None
    endpoint = endpoint or constants.ENDPOINT
    if token:
        return Client(endpoint, token, "the token that was given")
    if not _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") and (token := get_token()):
        name = "the token in HF_TOKEN" if os.environ.get("HF_TOKEN") else "the token of `hf auth login`"
        return Client(endpoint, token, name)
    return Client(endpoint, None, "no token")


def is_offline() -> bool:
    """Whether the user has forbidden the network, as huggingface_hub reads it."""
    return _is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE")


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def silence_s() -> float:
    """Seconds without a byte after which a connection is given up: those of the user, if they are some."""
    try:
        seconds = float(os.environ["HF_HUB_DOWNLOAD_TIMEOUT"])
    except (KeyError, ValueError):
        return SILENCE_TIMEOUT_S
    return min(seconds, LONGEST_TIMEOUT_S) if seconds > 0 and math.isfinite(seconds) else SILENCE_TIMEOUT_S


def hub_cache() -> Path:
    """The folder of files that huggingface_hub shares between all programs.

    Source: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables.
    """
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(os.path.expandvars(cache)).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = f"{base}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def asked(client: Client, repository: str, question: Callable[[], T], *, revision: str | None = None) -> T:
    """Ask the Hub, again where it is busy or out of order for a moment.

    Args:
        client: who asks.
        repository: what is asked about, for the messages.
        question: does it; it may be called several times.
        revision: what is asked about of it, for the messages.

    Raises:
        HubError: it did not answer, or not what was wanted; without the token.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    client.session  # noqa: B018 - with a timeout from here on
    waits = Waits()
    while True:
        with translated(client, repository, revision=revision):
            try:
                return question()
            except HfHubHTTPError as error:
                if error.response.status_code not in RETRIED_STATUSES:
                    raise
                if not waits.wait(error.response.headers.get("Retry-After")):
                    raise
            except httpx2.UnsupportedProtocol:
                raise
            except httpx2.TransportError:
                if not waits.wait():
                    raise


@contextmanager
def translated(client: Client, repository: str, *, revision: str | None = None) -> Generator[None]:
    """Turn what huggingface_hub raises in the block into our errors, which hold no token."""
    import json

    import httpx2
    from huggingface_hub import errors

    page = f"{client.endpoint}/{repository}"
    try:
        yield
    except HubError:
        raise
    except errors.GatedRepoError as error:
        raise AccessError(_gated(client, repository, page, error.response.status_code)) from None
    except errors.RevisionNotFoundError:
        raise RepositoryNotFoundError(
            f"{repository}: has no branch, tag or commit {revision!r}\n  see {page}/tree/main"
        ) from None
    except errors.RepositoryNotFoundError as error:
        refused = error.response.status_code in (401, 403) and client.token is not None
        raise (_wrong_token(client) if refused else _not_found(client, repository, page)) from None
    except errors.HFValidationError:
        raise RepositoryNotFoundError(
            f"{repository}: not the name of a repository, which looks like `organisation/model`\n"
            "  `tune download --list` lists the short names"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise OfflineError("HF_HUB_OFFLINE is set: the Hub may not be asked\n  unset it to go on") from None
    except errors.HfHubHTTPError as error:
        raise _of_status(client, repository, error) from None
    except (msgspec.DecodeError, json.JSONDecodeError) as error:
        raise TransferError(
            f"{client.endpoint}: answers, but not as a Hub does: {scrubbed(str(error), client)}\n"
            "  check HF_ENDPOINT, and whether a proxy or a login page answers in its place"
        ) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise TransferError(
            f"{client.endpoint}: cannot be reached: {scrubbed(str(error) or type(error).__name__, client)}\n"
            "  check the network (HF_ENDPOINT and the proxy too), then run the same command again"
        ) from None


def scrubbed(text: str, client: Client) -> str:
    """A text without the token, and without passwords and signatures in addresses."""
    text = text.replace(client.token, "<token>") if client.token else text
    text = re.sub(r"://[^/\s'\"]*@", "://", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)


def _gated(client: Client, repository: str, page: str, status: int) -> str:
    terms = f"open {page}, log in and accept the terms"
    if client.token is None:
        return (
            f"{repository}: its makers ask who you are before they give it out\n"
            f"  {terms}, then `hf auth login`, or set HF_TOKEN"
        )
    return (
        f"{repository}: access has not been granted to {client.token_name} ({status})\n"
        f"  {terms}; some makers answer after hours or days"
    )


def _not_found(client: Client, repository: str, page: str) -> HubError:
    if client.token is None:
        return RepositoryNotFoundError(
            f"{repository}: no such repository on {client.endpoint}, or it is private\n"
            f"  look for it at {page}; if it is private: `hf auth login`, or set HF_TOKEN"
        )
    return RepositoryNotFoundError(
        f"{repository}: no such repository on {client.endpoint}, or {client.token_name} "
        f"may not see it\n  look for it at {page}"
    )


def _wrong_token(client: Client) -> HubError:
    return AccessError(
        f"{client.token_name} is not valid at {client.endpoint}\n"
        f"  make one at {client.endpoint}/settings/tokens, then `hf auth login`, or set HF_TOKEN"
    )


def _of_status(client: Client, repository: str, error: "httpx2.HTTPError") -> HubError:
    from huggingface_hub.errors import HfHubHTTPError

    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    said = scrubbed(error.server_message or "", client)
    if status == 401:
        return _wrong_token(client) if client.token else _not_found(client, repository, client.endpoint)
    if status == 403 and client.token is None:
        return AccessError(
            f"{repository}: the Hub allows it to nobody without a token: {said or 'forbidden'}\n"
            "  `hf auth login`, or set HF_TOKEN"
        )
    if status == 403:
        return AccessError(
            f"{repository}: {client.token_name} may not do this: {said or 'forbidden'}\n"
            f"  give it the rights at {client.endpoint}/settings/tokens, or use another"
        )
    if status in RETRIED_STATUSES:
        why = "asks us to wait" if status == 429 else "is out of order"
        return TransferError(
            f"{client.endpoint} {why} ({status}{f': {said}' if said else ''}), several times\n"
            "  run the same command again later; it goes on where it stopped"
        )
    return TransferError(f"{repository}: the Hub answered {status}: {said or 'no reason given'}")
