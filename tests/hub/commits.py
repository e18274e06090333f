"""Commits over HTTP: which files go where, and the commit itself.

Source: `_commit_api.py` and `HfApi.create_commit` of huggingface_hub.
"""

import base64
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub.access import check_write
from hub.cards import judge
from hub.origins import Origins
from hub.refusal import Refusal
from hub.store import Commit, Entry, Repo, Store, is_lfs


async def preupload(request: Request, repo: Repo, revision: str) -> Response:
    """Say which files go into LFS, and which of them are here already under the same name."""
    check_write(request, repo, as_proposal=_proposes(request))
    here = repo.at(revision).files
    asked = (await request.json())["files"]
    return JSONResponse({"files": [_mode(file["path"], file["size"], here) for file in asked]})


def _mode(path: str, size: int, here: Any) -> dict[str, Any]:
    mode = "lfs" if is_lfs(path, size) else "regular"
    oid = here[path].key if path in here else None
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


async def commit(store: Store, origins: Origins, request: Request, repo: Repo, revision: str) -> Response:
    """Make a commit on a branch, or a pull request of it."""
    user = check_write(request, repo, as_proposal=_proposes(request))
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    parent = repo.at(revision)
    if header.get("parentCommit") not in (None, parent.sha):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = _changed(store, parent, lines)
    proposal = None
    if _proposes(request):
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        revision, proposal = f"refs/pr/{number}", f"{origins.hub}/{repo.address}/discussions/{number}"
        repo.branches[revision] = parent.sha
    elif revision not in repo.branches:
        raise Refusal(400, f"Not a branch: {revision}")
    made = repo.add_commit(revision, files, header["summary"], user.name, header.get("description", ""))
    return JSONResponse(
        {
            "success": True,
            "commitOid": made.sha,
            "commitUrl": f"{origins.hub}/{repo.address}/commit/{made.sha}",
            "hookOutput": "",
            "pullRequestUrl": proposal,
        }
    )


def _changed(store: Store, parent: Commit, lines: list[dict[str, Any]]) -> dict[str, Entry]:
    files = dict(parent.files)
    for line in lines:
        key, value = line["key"], line["value"]
        match key:
            case "file":
                content = base64.b64decode(value["content"])
                if value["path"] == "README.md" and (errors := judge(content.decode()).errors):
                    raise Refusal(400, f"Invalid metadata in README.md: {errors[0]}")
                files[value["path"]] = store.put_regular(content)
            case "lfsFile":
                files[value["path"]] = store.lfs_entry(value["oid"])
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            case "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {path: entry for path, entry in files.items() if not path.startswith(folder)}
            case _:
                assert key == "header", key
    return files


def _proposes(request: Request) -> bool:
    return request.query_params.get("create_pr") == "1"
