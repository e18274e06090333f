"""What the cache that all programs share already holds: it is linked, not fetched again."""

import os
import re
import shutil
from pathlib import Path

from tune_hub.client import hub_cache
from tune_hub.errors import OfflineError
from tune_hub.folder import matches
from tune_hub.listing import RepoFile, Snapshot


def cached_file(repository: str, file: RepoFile) -> Path | None:
    """The file in the cache, if its name there and its size are right.

    Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache: `models--ORG--NAME/blobs/ETAG`,
    and the ETag is the SHA-256 of an LFS file, or git's SHA-1.
    """
    path = _folder(repository) / "blobs" / file.checksum
    try:
        return path.resolve(strict=True) if path.stat().st_size == file.size else None
    except OSError:
        return None


def link_cached(source: Path, target: Path, file: RepoFile) -> bool:
    """Link weights of the cache, checked, and say whether that could be done; copy what one may want to edit.

    A hard link stays whole when the cache is emptied; where the cache is on another disk, a link to its name.
    """
    try:
        if not matches(source, file):
            return False
    except OSError:
        return False
    beside = target.with_name(f".{target.name[:100]}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    if file.sha256 is None:
        shutil.copyfile(source, beside)
    else:
        try:
            beside.hardlink_to(source)
        except OSError:
            beside.symlink_to(source)
    beside.replace(target)
    return True


def cached_snapshot(repository: str, revision: str | None) -> Snapshot:
    """List what the cache holds of a repository, without asking anybody.

    Raises:
        OfflineError: it holds nothing of it, or not at this revision.
    """
    folder = _folder(repository)
    commit = _commit(folder, revision or "main")
    root = folder / "snapshots" / commit if commit else None
    if root is None or not root.is_dir():
        of = f" at {revision}" if revision else ""
        raise OfflineError(
            f"{repository}: HF_HUB_OFFLINE is set, and {hub_cache()} does not hold it{of}\n"
            "  unset HF_HUB_OFFLINE to download it"
        )
    files = tuple(
        _file(path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*")) if path.is_file()
    )
    return Snapshot(repository, root.name, files, gated=False, private=False)


def _folder(repository: str) -> Path:
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def _commit(folder: Path, revision: str) -> str | None:
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    if ".." in revision.split("/") or revision.startswith("/"):
        return None
    try:
        commit = (folder / "refs" / revision).read_text().strip()
    except OSError:
        return None
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None


def _file(path: Path, name: str) -> RepoFile:
    """A file as its link says: into `blobs`, by its checksum."""
    checksum = path.readlink().name if path.is_symlink() else ""
    size = path.stat().st_size
    if re.fullmatch(r"[0-9a-f]{64}", checksum):
        return RepoFile(name, size, checksum[:40], checksum)
    return RepoFile(name, size, checksum)
