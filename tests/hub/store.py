"""What the Hub keeps: repositories of commits, and the contents of their files by hash.

Source: git's blob object, https://git-scm.com/book/en/v2/Git-Internals-Git-Objects, and the pointer of git
LFS, https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from hub.refusal import Refusal

LFS_BYTES = 10 * 1024 * 1024
"""From this size on a file is kept in LFS, whatever its name."""
LFS_ENDINGS = ("bin", "gguf", "gz", "h5", "npz", "onnx", "parquet", "pt", "pth", "safetensors", "zip")
_LFS_NAME = re.compile(rf"\.({'|'.join(LFS_ENDINGS)})$")
GIT_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS)

Content = bytes | str | Path
"""Of a file: itself, as UTF-8, or where it lies."""


@dataclass(frozen=True)
class Entry:
    """A file of a commit."""

    oid: str
    """SHA-1 that git gives the file, or its LFS pointer."""
    size: int
    sha256: str | None = None
    """Of a file in LFS."""

    @property
    def key(self) -> str:
        """Under which the store holds the content."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one time."""

    sha: str
    files: Mapping[str, Entry]
    title: str
    description: str
    user: str
    parent: str | None
    date: str


@dataclass
class Repo:
    """A repository and its history."""

    id: str
    kind: str = "model"
    """Or `dataset`, `space`."""
    private: bool = False
    gated: bool | str = False
    """Or `auto`, `manual`."""
    granted: set[str] = field(default_factory=set[str])
    """Users who may read it though it is gated."""
    branches: dict[str, str] = field(default_factory=dict[str, str])
    """The commit of each; pull requests stand among them as `refs/pr/1`."""
    tags: dict[str, str] = field(default_factory=dict[str, str])
    commits: dict[str, Commit] = field(default_factory=dict[str, Commit])
    """In the order in which they were made."""
    created: str = field(default_factory=lambda: now())

    @property
    def namespace(self) -> str:
        """The user or organisation it belongs to."""
        return self.id.split("/")[0]

    @property
    def address(self) -> str:
        """Where its page is, below the Hub."""
        return ("" if self.kind == "model" else f"{self.kind}s/") + quote(self.id)

    def at(self, revision: str) -> Commit:
        """Return the commit that a branch, tag or hash names."""
        branch = "main" if revision == "HEAD" else revision.removeprefix("refs/heads/")
        sha = self.branches.get(branch) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, revision: str) -> list[Commit]:
        """Return the commits that led there, the newest first."""
        commits = [self.at(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def add_commit(
        self, branch: str, files: Mapping[str, Entry], title: str, user: str, description: str = ""
    ) -> Commit:
        """Let a branch go on, or begin, with these files and no others."""
        parent = self.branches.get(branch)
        what = [self.id, parent, len(self.commits), title, sorted((name, e.oid) for name, e in files.items())]
        sha = hashlib.sha1(json.dumps(what).encode()).hexdigest()
        commit = Commit(sha, dict(files), title, description, user, parent, now())
        self.commits[sha] = commit
        self.branches[branch] = sha
        return commit


class Store:
    """The repositories, and a folder of contents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repos: dict[tuple[str, str], Repo] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where a content lies, if it is there."""
        return self.folder / key

    def put(self, name: str, content: Content) -> Entry:
        """Keep a file, in LFS if the name or the size ask for it."""
        size = content.stat().st_size if isinstance(content, Path) else len(_data(content))
        return self.put_lfs(content) if size and is_lfs(name, size) else self.put_regular(content)

    def put_regular(self, content: Content) -> Entry:
        """Keep a file in git."""
        data = _data(content)
        oid = git_oid(data)
        self.path(oid).write_bytes(data)
        return Entry(oid, len(data))

    def put_lfs(self, content: Content) -> Entry:
        """Keep a file in LFS."""
        if isinstance(content, Path):
            with content.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            shutil.copyfile(content, self.path(sha256))
        else:
            sha256 = hashlib.sha256(_data(content)).hexdigest()
            self.path(sha256).write_bytes(_data(content))
        return self.lfs_entry(sha256)

    def lfs_entry(self, sha256: str) -> Entry:
        """Return the file that an LFS object makes, which must be here."""
        if not self.path(sha256).exists():
            raise Refusal(400, f"LFS object not found: {sha256}")
        size = self.path(sha256).stat().st_size
        return Entry(git_oid(pointer(sha256, size)), size, sha256)

    def clear(self) -> None:
        """Forget everything."""
        self.repos.clear()
        for path in self.folder.iterdir():
            path.unlink()


def is_lfs(name: str, size: int) -> bool:
    """Whether the Hub wants this file in LFS."""
    return size >= LFS_BYTES or _LFS_NAME.search(name) is not None


def git_oid(data: bytes) -> str:
    """Return the hash that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """Return what stands in git for a file in LFS."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def now() -> str:
    """The time, as the Hub writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _data(content: Content) -> bytes:
    if isinstance(content, Path):
        return content.read_bytes()
    return content.encode() if isinstance(content, str) else content
