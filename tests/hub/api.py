"""The routes under `/api`.

Source: https://huggingface.co/docs/hub/api, and the requests that huggingface_hub makes.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub import cards, commits, views
from hub.access import check_read, check_write, known_user, seen_repo, who_asks
from hub.origins import Origins
from hub.refusal import Refusal
from hub.store import GIT_ATTRIBUTES, Repo, Store

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


async def answer(
    store: Store, origins: Origins, request: Request, parts: list[str], page_size: int
) -> Response:
    """Answer a request for what comes after `/api`."""
    match parts:
        case ["whoami-v2"]:
            return _who_am_i(request)
        case ["validate-yaml"]:
            verdict = cards.judge((await request.json())["content"])
            return JSONResponse(verdict.as_json(), 400 if verdict.errors else 200)
        case ["repos", "create"]:
            return await _create(store, origins, request)
        case ["repos", "delete"]:
            asked, user = await request.json(), known_user(request)
            kind, name = (
                asked.get("type") or "model",
                f"{asked.get('organization') or user.name}/{asked['name']}",
            )
            check_write(request, seen_repo(store, request, kind, name))
            del store.repos[kind, name]
            return JSONResponse({})
        case [kinds] if kinds in KINDS:
            return _search(store, request, KINDS[kinds])
        case [kinds, namespace, name, *rest] if kinds in KINDS:
            repo = seen_repo(store, request, KINDS[kinds], f"{namespace}/{name}")
            return await _of_repo(store, origins, request, repo, rest, page_size)
    raise Refusal(404, "Sorry, we can't find the page you are looking for.")


async def _of_repo(
    store: Store, origins: Origins, request: Request, repo: Repo, rest: list[str], page_size: int
) -> Response:
    query = request.query_params
    match rest:
        case [] | ["revision", _]:
            commit = repo.at(rest[1] if rest else "main")
            return JSONResponse(views.repo_view(store, repo, commit, with_blobs="blobs" in query))
        case ["auth-check"]:
            check_read(request, repo)
            return JSONResponse({})
        case ["settings"]:
            check_write(request, repo)
            return _set(repo, await request.json())
        case ["refs"]:
            return JSONResponse(views.refs_view(repo, with_proposals=bool(query.get("include_prs"))))
        case ["commits", revision]:
            listed = [views.commit_view(commit) for commit in repo.history(revision)]
            return _page(origins, request, listed, page_size)
        case ["branch" | "tag" as kind, name]:
            check_write(request, repo)
            return await _change_ref(request, repo, kind, name)
        case ["tree", revision, *folder]:
            recursive = query.get("recursive", "").lower() in ("1", "true")
            listed = views.tree_view(repo.at(revision), "/".join(folder), recursive=recursive)
            return _page(origins, request, listed, page_size)
        case ["paths-info", revision]:
            return JSONResponse(await _paths_info(request, repo, revision))
        case ["preupload", revision]:
            return await commits.preupload(request, repo, revision)
        case ["commit", revision]:
            return await commits.commit(store, origins, request, repo, revision)
    raise Refusal(404, f"No such route: {'/'.join(rest)}")


def _who_am_i(request: Request) -> Response:
    user = known_user(request)
    role = "write" if user.may_write else "read"
    return JSONResponse(
        {
            "type": "user",
            "id": user.name,
            "name": user.name,
            "fullname": user.name,
            "email": None,
            "isPro": False,
            "orgs": [{"type": "org", "name": name} for name in user.orgs],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        }
    )


async def _create(store: Store, origins: Origins, request: Request) -> Response:
    user, asked = known_user(request), await request.json()
    namespace, kind = asked.get("organization") or user.name, asked.get("type") or "model"
    private = asked.get("visibility") == "private" or asked.get("private") is True
    repo = Repo(f"{namespace}/{asked['name']}", kind, private)
    if not user.owns(namespace) or not user.may_write:
        what = f'create a {kind} under the namespace "{namespace}"'
        raise Refusal(403, f"You don't have the rights to {what}")
    url = f"{origins.hub}/{repo.address}"
    if (kind, repo.id) in store.repos:
        return JSONResponse({"error": f"You already created this {kind} repo: {repo.id}", "url": url}, 409)
    store.repos[kind, repo.id] = repo
    attributes = store.put_regular(GIT_ATTRIBUTES)
    repo.add_commit("main", {".gitattributes": attributes}, "initial commit", user.name)
    return JSONResponse({"url": url, "name": repo.id, "id": repo.id})


def _search(store: Store, request: Request, kind: str) -> Response:
    user, query = who_asks(request), request.query_params
    found = [
        repo
        for repo in store.repos.values()
        if repo.kind == kind
        and (not repo.private or (user and user.owns(repo.namespace)))
        and query.get("search", "") in repo.id
        and query.get("author", repo.namespace) == repo.namespace
    ]
    return JSONResponse([views.repo_view(store, repo, repo.at("main")) for repo in found])


def _set(repo: Repo, asked: dict[str, Any]) -> Response:
    if "visibility" in asked or "private" in asked:
        repo.private = asked.get("visibility") == "private" or asked.get("private") is True
    if "gated" in asked:
        repo.gated = asked["gated"]
    return JSONResponse({})


async def _change_ref(request: Request, repo: Repo, kind: str, name: str) -> Response:
    refs = repo.branches if kind == "branch" else repo.tags
    if request.method == "DELETE":
        if refs.pop(name, None) is None:
            raise Refusal(404, "Reference does not exist", "RevisionNotFound")
        return JSONResponse({})
    asked = await request.json()
    # A branch is named in the address, a tag in the body: there the address names what it stands for.
    new, start = (name, asked.get("startingPoint") or "main") if kind == "branch" else (asked["tag"], name)
    if new in refs:
        raise Refusal(409, f"Reference already exists: {new}")
    refs[new] = repo.at(start).sha
    return JSONResponse({})


async def _paths_info(request: Request, repo: Repo, revision: str) -> list[dict[str, Any]]:
    files = repo.at(revision).files
    if request.headers.get("content-type", "").startswith("application/json"):
        paths = (await request.json())["paths"]
    else:
        paths = parse_qs((await request.body()).decode()).get("paths", [])
    found = [views.file_view(path, files[path]) for path in paths if path in files]
    folders = [path for path in paths if any(name.startswith(f"{path}/") for name in files)]
    return found + [views.folder_view(path) for path in folders]


def _page(origins: Origins, request: Request, listed: Sequence[Any], page_size: int) -> Response:
    start = int(request.query_params.get("cursor", 0))
    stop = start + page_size
    headers = {"X-Total-Count": str(len(listed))}
    if stop < len(listed):
        query = {**request.query_params, "cursor": str(stop)}
        written = "&".join(f"{quote(name)}={quote(value)}" for name, value in query.items())
        path = request.scope["raw_path"].decode().partition("?")[0]
        headers["Link"] = f'<{origins.hub}{path}?{written}>; rel="next"'
    return JSONResponse(listed[start:stop], headers=headers)
