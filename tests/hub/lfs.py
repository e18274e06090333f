"""Uploads into LFS, in one piece or in several.

Source: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md, and for several pieces the `multipart`
transfer of https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/lfs.py.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub.access import check_read, check_write, seen_repo
from hub.files import cdn_address
from hub.origins import Origins
from hub.refusal import Refusal
from hub.store import Store


async def batch(
    store: Store, origins: Origins, request: Request, kind: str, name: str, part_bytes: int | None
) -> Response:
    """Say for each object where it goes, or where it is. One that is here is not wanted again."""
    asked = await request.json()
    repo = seen_repo(store, request, kind, name)
    if asked["operation"] == "upload":
        check_write(request, repo, as_proposal=True)  # what may be done with it, the commit decides
    check_read(request, repo)
    transfer, objects = "basic", list[dict[str, Any]]()
    for wanted in asked["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"], "authenticated": True}
        if asked["operation"] == "download":
            answer["actions"] = {"download": {"href": cdn_address(origins, wanted["oid"])}}
        elif not store.path(wanted["oid"]).exists():
            in_parts = part_bytes and wanted["size"] > part_bytes and "multipart" in asked["transfers"]
            transfer = "multipart" if in_parts else transfer
            answer["actions"] = _upload_actions(origins, wanted, part_bytes if in_parts else None)
        objects.append(answer)
    content_type = {"Content-Type": "application/vnd.git-lfs+json"}
    return JSONResponse({"transfer": transfer, "objects": objects}, headers=content_type)


async def receive(store: Store, request: Request, parts: list[str]) -> Response:
    """Take an object, or a part of one: `verify`, `OID`, `OID/part/NUMBER`, `OID/complete`."""
    if parts == ["verify"]:
        told = await request.json()
        path = store.path(told["oid"])
        whole = path.exists() and path.stat().st_size == told["size"]
        return JSONResponse({}, 200 if whole else 404)
    oid, partial = parts[0], store.path(f"{'.'.join(parts)}.partial")
    if parts[1:] == ["complete"]:
        numbers = [part["partNumber"] for part in (await request.json())["parts"]]
        with partial.open("wb") as whole_file:
            for number in numbers:
                whole_file.write(store.path(f"{oid}.part.{number}.partial").read_bytes())
    else:
        await _save(request, partial)
    if parts[1:2] == ["part"]:
        return Response(headers={"ETag": f'"{_hash(partial, "md5")}"'})
    if _hash(partial, "sha256") != oid:
        raise Refusal(400, "sha256 mismatch")
    partial.replace(store.path(oid))
    return Response()


def _upload_actions(origins: Origins, wanted: dict[str, Any], part_bytes: int | None) -> dict[str, Any]:
    address = f"{origins.cdn}/_lfs/{wanted['oid']}"
    if part_bytes is None:
        return {"upload": {"href": address, "header": {}}, "verify": {"href": f"{origins.hub}/_lfs/verify"}}
    count = -(-wanted["size"] // part_bytes)
    addresses = {str(number): f"{address}/part/{number}" for number in range(1, count + 1)}
    header = {"chunk_size": str(part_bytes), **addresses}
    return {"upload": {"href": f"{origins.hub}/_lfs/{wanted['oid']}/complete", "header": header}}


async def _save(request: Request, path: Path) -> None:
    mine = path.with_suffix(f".{secrets.token_hex(4)}")  # the same may come from two clients at once
    with mine.open("wb") as file:
        async for piece in request.stream():
            file.write(piece)
    mine.replace(path)


def _hash(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()
