"""Files, commits and repositories as the Hub's API tells them."""

import hashlib
from typing import Any

from hub.cards import read_header, tags
from hub.refusal import Refusal
from hub.store import Commit, Entry, Repo, Store, pointer

Json = dict[str, Any]


def file_view(path: str, entry: Entry) -> Json:
    """A file in a tree."""
    view: Json = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.sha256:
        view["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": _pointer_size(entry)}
    return view


def folder_view(path: str) -> Json:
    """A folder in a tree."""
    oid = hashlib.sha1(path.encode()).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def tree_view(commit: Commit, folder: str, *, recursive: bool) -> list[Json]:
    """What a folder holds: `""` is the repository's top."""
    start = f"{folder}/" if folder else ""
    files: list[Json] = []
    folders: dict[str, Json] = {}
    for path, entry in sorted(commit.files.items()):
        if not path.startswith(start):
            continue
        parts = path[len(start) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = start + "/".join(parts[:depth])
            folders.setdefault(name, folder_view(name))
        if recursive or len(parts) == 1:
            files.append(file_view(path, entry))
    if folder and not files and not folders:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
    return [*folders.values(), *files]


def repo_view(store: Store, repo: Repo, commit: Commit, *, with_blobs: bool = False) -> Json:
    """A repository, as it is at a commit."""
    readme = commit.files.get("README.md")
    header = read_header(store.path(readme.key).read_text("utf-8", "replace")) if readme else {}
    return {
        "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit.sha,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags(header),
        "cardData": header,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "siblings": [_sibling(path, entry, with_blobs) for path, entry in sorted(commit.files.items())],
        "usedStorage": sum(entry.size for entry in commit.files.values()),
    }


def commit_view(commit: Commit) -> Json:
    """A commit in a history."""
    return {
        "id": commit.sha,
        "title": commit.title,
        "message": commit.description,
        "date": commit.date,
        "authors": [{"user": commit.user, "avatar": ""}],
    }


def refs_view(repo: Repo, *, with_proposals: bool) -> Json:
    """The branches and tags, and the pull requests if asked for."""
    proposals = {name: sha for name, sha in repo.branches.items() if name.startswith("refs/pr/")}
    branches = {name: sha for name, sha in repo.branches.items() if name not in proposals}
    view: Json = {
        "branches": [_ref(name, f"refs/heads/{name}", sha) for name, sha in branches.items()],
        "tags": [_ref(name, f"refs/tags/{name}", sha) for name, sha in repo.tags.items()],
        "converts": [],
    }
    if with_proposals:
        view["pullRequests"] = [_ref(name, name, sha) for name, sha in proposals.items()]
    return view


def _sibling(path: str, entry: Entry, with_blobs: bool) -> Json:
    view: Json = {"rfilename": path}
    if with_blobs:
        view |= {"size": entry.size, "blobId": entry.oid}
        if entry.sha256:
            size = _pointer_size(entry)
            view["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": size}
    return view


def _ref(name: str, ref: str, sha: str) -> Json:
    return {"name": name, "ref": ref, "targetCommit": sha}


def _pointer_size(entry: Entry) -> int:
    assert entry.sha256
    return len(pointer(entry.sha256, entry.size))
