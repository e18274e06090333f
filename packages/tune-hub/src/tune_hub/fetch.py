"""One file of a repository: streamed, gone on with where it stopped, and checked."""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from msgspec import Struct

from tune_hub.addresses import origin
from tune_hub.client import CONNECT_TIMEOUT_S, RETRIED_STATUSES, Client, scrubbed, silence_s, translated
from tune_hub.errors import DamagedError, TransferError
from tune_hub.growing import GrowingFile, Stopped
from tune_hub.listing import RepoFile
from tune_hub.waiting import Waits

if TYPE_CHECKING:
    import httpx2

MAX_REDIRECTS = 5


class Wanted(Struct, frozen=True):
    """A file at a commit, where it never changes."""

    client: Client
    repository: str
    commit: str
    file: RepoFile

    @property
    def address(self) -> str:
        """Where the Hub has it."""
        return f"{self.client.endpoint}/{self.repository}/resolve/{self.commit}/{quote(self.file.path)}"


class Problem(Exception):
    """Why the bytes ended, in words, and how long the server asks us to wait."""

    def __init__(self, what: str, retry_after: str | None = None) -> None:
        super().__init__(what)
        self.retry_after = retry_after


def fetch_file(wanted: Wanted, partial: Path, moved: Callable[[int], None], stop: Event) -> None:
    """Fetch a file, as far as a process before this one has not.

    Args:
        wanted: which.
        partial: where it grows. It is whole and checked when this returns, and stays when this fails.
        moved: told how many more bytes are there, or (negative) how many were thrown away.
        stop: set when it should end.

    Raises:
        DamagedError: it arrived twice as something else than the Hub says it is.
        TransferError: the network failed several times in a row.
        HubError: the Hub refused.
        Stopped: `stop` was set.
    """
    with GrowingFile(partial, wanted.file, moved, stop) as growing:
        for _ in range(2):
            _complete(wanted, growing, stop)
            if growing.is_right:
                growing.flush()
                return
            growing.begin_anew()
    kind = "SHA-256" if wanted.file.sha256 else "git checksum"
    raise DamagedError(
        f"{wanted.file.path}: what arrived has not the {kind} that {wanted.repository} states, twice\n"
        "  something on the way changes it (a proxy?), or it is damaged there; try another network"
    )


def _complete(wanted: Wanted, growing: GrowingFile, stop: Event) -> None:
    """Fetch until all bytes are there, again after each failure, and give up where nothing moves any more."""
    waits = Waits(stop.wait)
    while not growing.is_complete:
        size, problem = growing.size, Problem("the connection was closed too early")
        try:
            _receive(wanted, growing)
        except Problem as what:
            problem = what
        if growing.size > size:
            waits.progress()
        if growing.is_complete:
            return
        if not waits.wait(problem.retry_after):
            raise TransferError(
                f"{wanted.file.path}: broke off at byte {growing.size:,} of {wanted.file.size:,}, several "
                f"times in a row: {problem}\n  run the same command again; it goes on where it stopped"
            )
        if stop.is_set():
            raise Stopped


def _receive(wanted: Wanted, growing: GrowingFile) -> None:
    import httpx2

    try:
        with _opened(wanted, growing.size) as response:
            if growing.size and not _goes_on(response, growing.size):
                growing.begin_anew()
                if response.status_code != 200:
                    raise Problem("the server did not go on where it stopped")
            if response.status_code not in (200, 206):
                what = f"{response.url.host} answered {response.status_code}"
                raise Problem(what, response.headers.get("Retry-After"))
            for chunk in response.iter_raw():  # as it comes: what is gathered is lost with the connection
                growing.add(chunk)
                if growing.size > wanted.file.size:
                    return
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise Problem(scrubbed(str(error) or type(error).__name__, wanted.client)) from None


def _goes_on(response: "httpx2.Response", offset: int) -> bool:
    """Whether an answer is what comes behind the offset. An error says nothing about that."""
    if response.status_code == 206:
        return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
    return response.status_code not in (200, 416)


@contextmanager
def _opened(wanted: Wanted, offset: int) -> Generator["httpx2.Response"]:
    """Ask for a file from an offset on, wherever the Hub sends us; the token goes to the Hub alone."""
    import httpx2
    from huggingface_hub.utils import hf_raise_for_status

    client, address = wanted.client, wanted.address
    timeout = httpx2.Timeout(silence_s(), connect=CONNECT_TIMEOUT_S)
    for _ in range(MAX_REDIRECTS):
        at_hub = origin(address) == origin(client.endpoint)
        headers = {**(client.headers() if at_hub else {}), "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        request = client.session.build_request("GET", address, headers=headers, timeout=timeout)
        response = client.session.send(request, stream=True, follow_redirects=False)
        try:
            if (
                at_hub
                and response.status_code >= 400
                and response.status_code not in (*RETRIED_STATUSES, 416)
            ):
                with translated(client, wanted.repository):
                    hf_raise_for_status(response)
            if at_hub and not _is_same(response, wanted.file):
                raise Problem("the Hub names another checksum now than before")
            if not response.has_redirect_location:
                yield response
                return
            address = _led_to(wanted, address, response.headers["Location"])
        finally:
            response.close()
    raise Problem(f"more than {MAX_REDIRECTS} redirections")


def _led_to(wanted: Wanted, address: str, location: str) -> str:
    try:
        following = urljoin(address, location)
        origin(following)
    except ValueError:
        raise TransferError(
            f"{wanted.file.path}: {urlsplit(address).hostname} leads to what is no address of HTTP\n"
            "  check HF_ENDPOINT and the proxy"
        ) from None
    return following


def _is_same(response: "httpx2.Response", file: RepoFile) -> bool:
    """Whether the Hub speaks of the file that we know, as far as it says.

    Source: https://huggingface.co/docs/huggingface_hub: `X-Linked-Etag` is the SHA-256 of an LFS file, the
    ETag git's SHA-1 of another.
    """
    etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag") or ""
    etag = etag.removeprefix("W/").strip('"')
    known = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag)
    return known is None or etag in (file.checksum, file.oid)
