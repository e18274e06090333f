"""Downloads: where a file is, and its bytes, from the Hub or from the second origin that holds LFS.

Source: https://huggingface.co/docs/huggingface_hub/package_reference/file_download, and RFC 9110, section 14.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from hub.access import check_read, seen_repo
from hub.origins import Origins
from hub.refusal import Refusal
from hub.store import Store

PIECE_BYTES = 1 << 18


class FileAnswer(Response):
    """A part of a file."""

    def __init__(self, path: Path, start: int, stop: int, status: int, headers: Mapping[str, str]) -> None:
        self.path = path
        self.start = start
        self.stop = stop
        length = {"Content-Length": str(stop - start), "Content-Type": "application/octet-stream"}
        super().__init__(None, status, {**headers, **length})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, piece by piece."""
        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(head)
        left = 0 if scope["method"] == "HEAD" else self.stop - self.start
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left and (piece := file.read(min(PIECE_BYTES, left))):
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def resolve(store: Store, origins: Origins, request: Request, kind: str, parts: list[str]) -> Response:
    """Answer `/ORG/NAME/resolve/REVISION/PATH`: with the file, or where it is."""
    repo = seen_repo(store, request, kind, "/".join(parts[:2]))
    check_read(request, repo)
    commit, name = repo.at(parts[3]), "/".join(parts[4:])
    entry = commit.files.get(name)
    headers = {"X-Repo-Commit": commit.sha}
    if entry is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", headers)
    if entry.sha256 is None:
        return part_of(request, store.path(entry.oid), entry.oid, headers)
    headers |= {
        "X-Linked-Size": str(entry.size),
        "X-Linked-Etag": f'"{entry.sha256}"',
        "Accept-Ranges": "bytes",
    }
    return RedirectResponse(cdn_address(origins, entry.sha256), 302, headers)


def cdn_address(origins: Origins, sha256: str) -> str:
    """Return where an LFS object may be fetched, by whoever holds the address."""
    return f"{origins.cdn}/_cdn/{sha256}?Expires=4102444800&Signature={_signature(origins, sha256)}"


def from_cdn(store: Store, origins: Origins, request: Request, sha256: str) -> Response:
    """Answer a signed address."""
    given = request.query_params.get("Signature", "")
    if not hmac.compare_digest(given, _signature(origins, sha256)):
        raise Refusal(403, "SignatureDoesNotMatch")
    if not store.path(sha256).exists():
        raise Refusal(404, "NoSuchKey")
    return part_of(request, store.path(sha256), sha256, {})


def part_of(request: Request, path: Path, etag: str, headers: Mapping[str, str]) -> Response:
    """Answer with the part of a file that is asked for."""
    headers = {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
    size = path.stat().st_size
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        return FileAnswer(path, 0, size, 200, headers)
    start, stop = _bounds(asked[1], asked[2], size)
    if start >= stop:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    return FileAnswer(
        path, start, stop, 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    )


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last or 0)), size
    return int(first), min(int(last) + 1, size) if last else size


def _signature(origins: Origins, sha256: str) -> str:
    return hmac.new(origins.secret, sha256.encode(), hashlib.sha256).hexdigest()
