"""What a repository holds at one commit, as the Hub tells it."""

import hashlib
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from tune_hub.client import Client, asked

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile as HubFile


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


def list_snapshot(client: Client, repository: str, revision: str | None = None) -> Snapshot:
    """Ask which files a repository holds, with sizes and checksums.

    Args:
        client: who asks.
        repository: `organisation/model`.
        revision: branch, tag or commit; None is the main branch.

    Raises:
        HubError: it cannot be seen, or the Hub cannot be reached.
    """
    from huggingface_hub.hf_api import RepoFile as HubFile

    api = client.api
    info = asked(client, repository, lambda: api.model_info(repository, revision=revision), revision=revision)
    commit = info.sha or ""
    tree = asked(
        client,
        repository,
        lambda: list(api.list_repo_tree(repository, recursive=True, revision=commit)),
        revision=revision,
    )
    return Snapshot(
        repository=info.id,
        commit=commit,
        files=tuple(_of_hub(entry) for entry in tree if isinstance(entry, HubFile)),
        gated=bool(info.gated),
        private=bool(info.private),
        license=_license(info.card_data, info.tags),
    )


def _of_hub(entry: "HubFile") -> RepoFile:
    return RepoFile(entry.path, entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)


def _license(card: object, tags: list[str] | None) -> str | None:
    stated = getattr(card, "license", None)
    if isinstance(stated, str):
        return stated
    return next((tag.removeprefix("license:") for tag in tags or () if tag.startswith("license:")), None)
