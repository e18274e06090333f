"""What a repository holds at one commit, as the Hub tells it."""

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, cast
from urllib.parse import quote, urljoin

import msgspec
from msgspec import Meta, Struct, field

from tune_hub.addresses import origin
from tune_hub.client import CONNECT_TIMEOUT_S, Client, asked, silence_s, translated
from tune_hub.errors import RepositoryNotFoundError, TransferError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")


class Digest(Protocol):
    """A hash that is fed in pieces."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Go on with more bytes."""
        ...

    def hexdigest(self) -> str:
        """The hash of all so far."""
        ...


class RepoFile(Struct, frozen=True):
    """A file of a repository."""

    path: str
    """As the repository spells it, `/` between folders."""
    size: int
    """Bytes."""
    oid: str
    """SHA-1 that git gives the file, or its LFS pointer."""
    sha256: str | None = None
    """Of a file that is kept in LFS."""

    @property
    def checksum(self) -> str:
        """What the content must hash to: the SHA-256 of LFS, or else git's SHA-1."""
        return self.sha256 or self.oid

    def new_digest(self) -> Digest:
        """Begin the hash whose end is compared with `checksum`.

        Source: git's blob object, https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
        """
        if self.sha256 is not None:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


class Snapshot(Struct, frozen=True):
    """A repository at one commit."""

    repository: str
    """`organisation/model`, as the Hub spells it."""
    commit: str
    files: tuple[RepoFile, ...]
    gated: bool
    private: bool
    license: str | None = None


class _Lfs(Struct):
    """What git does not hold itself."""

    oid: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _Entry(Struct):
    """A file or folder, as the Hub lists it."""

    type: str
    path: str
    oid: Annotated[str, Meta(pattern="^[0-9a-f]{40}$")] = ""
    size: Annotated[int, Meta(ge=0)] = 0
    lfs: _Lfs | None = None


class _Info(Struct):
    """A repository at a revision, as the Hub tells it."""

    id: str
    sha: Annotated[str, Meta(pattern="^[0-9a-f]{40}$")]
    private: bool = False
    gated: bool | str | None = False
    tags: list[str] | None = None
    card: Any = field(default=None, name="cardData")


def list_snapshot(client: Client, repository: str, revision: str | None = None) -> Snapshot:
    """Ask which files a repository holds, with sizes and checksums.

    Args:
        client: who asks.
        repository: `organisation/model`.
        revision: branch, tag or commit; None is the main branch.

    Raises:
        HubError: it cannot be seen, or the Hub cannot be reached.

    Source: https://huggingface.co/docs/hub/api.
    """
    if revision is not None and not revision.strip():
        raise RepositoryNotFoundError(
            f"{repository}: the revision is empty\n  name a branch, tag or commit, or leave it out"
        )
    home = f"{client.endpoint}/api/models/{repository}"
    at = f"{home}/revision/{quote(revision, safe='')}" if revision else home
    info = asked(client, repository, lambda: _read(_got(client, at), _Info), revision=revision)
    entries = _tree(client, repository, f"{home}/tree/{info.sha}?recursive=true")
    return Snapshot(
        repository=info.id,
        commit=info.sha,
        files=tuple(_of_hub(entry) for entry in entries if entry.type == "file"),
        gated=bool(info.gated),
        private=info.private,
        license=_license(info.card, info.tags),
    )


def check_access(client: Client, repository: str) -> None:
    """Make sure that the files may be read too, where the list may be.

    Raises:
        HubError: they may not.
    """
    asked(client, repository, lambda: _got(client, f"{client.endpoint}/api/models/{repository}/auth-check"))


def _tree(client: Client, repository: str, address: str) -> list[_Entry]:
    """List all files, page after page. The token goes with each request, and so to the endpoint alone."""
    entries: list[_Entry] = []
    known: set[str] = set()
    while address not in known:
        known.add(address)
        response = asked(client, repository, partial(_got, client, address))
        with translated(client, repository):
            entries += _read(response, list[_Entry])
        following = response.links.get("next", {}).get("url")
        if following is None:
            return entries
        address = _following(client, repository, address, following)
    raise TransferError(f"{repository}: the Hub's list of its files has no end\n  tell those who run it")


def _following(client: Client, repository: str, address: str, following: str) -> str:
    try:
        following = urljoin(address, following)
        if origin(following) == origin(client.endpoint):
            return following
    except ValueError:
        pass
    raise TransferError(
        f"{repository}: {client.endpoint} sends us elsewhere for the rest of the list of files, where the "
        "token must not go\n  check HF_ENDPOINT; a mirror has to list all files itself"
    )


def _got(client: Client, address: str) -> "httpx2.Response":
    import httpx2
    from huggingface_hub.utils import hf_raise_for_status

    timeout = httpx2.Timeout(silence_s(), connect=CONNECT_TIMEOUT_S)
    response = client.session.get(address, headers=client.headers(), timeout=timeout)
    hf_raise_for_status(response)
    return response


def _read(response: "httpx2.Response", kind: type[T]) -> T:
    return msgspec.json.decode(response.content, type=kind)


def _of_hub(entry: _Entry) -> RepoFile:
    return RepoFile(entry.path, entry.size, entry.oid, entry.lfs.oid if entry.lfs else None)


def _license(card: object, tags: list[str] | None) -> str | None:
    stated = cast("dict[object, object]", card).get("license") if isinstance(card, dict) else None
    if isinstance(stated, str):
        return stated
    return next((tag.removeprefix("license:") for tag in tags or () if tag.startswith("license:")), None)
