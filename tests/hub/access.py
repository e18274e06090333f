"""Who asks, and what they may do."""

from dataclasses import dataclass

from starlette.requests import Request

from hub.refusal import Refusal
from hub.store import Repo, Store


@dataclass(frozen=True)
class User:
    """Who a token belongs to."""

    name: str
    orgs: tuple[str, ...] = ()
    may_write: bool = True
    """False for a token that can only read."""

    def owns(self, namespace: str) -> bool:
        """Whether the user is a member there."""
        return namespace == self.name or namespace in self.orgs


TOKENS = {
    "hf_alice": User("alice", ("acme",)),
    "hf_alice_reads": User("alice", ("acme",), may_write=False),
    "hf_bob": User("bob"),
}


def who_asks(request: Request) -> User | None:
    """Return whose token the request carries; None if it carries none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind != "Bearer":
        return None
    if token not in TOKENS:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return TOKENS[token]


def known_user(request: Request) -> User:
    """Return whose token the request carries; it must carry one."""
    user = who_asks(request)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    return user


def seen_repo(store: Store, request: Request, kind: str, name: str) -> Repo:
    """Return a repository that whoever asks may know of."""
    user, repo = who_asks(request), store.repos.get((kind, name))
    if repo is None or (repo.private and not (user and user.owns(repo.namespace))):
        # Someone unknown is not told whether it is there.
        if user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")
    return repo


def check_read(request: Request, repo: Repo) -> None:
    """Refuse the files of a gated repository to whom they have not been granted."""
    user = who_asks(request)
    if not repo.gated or (user and (user.owns(repo.namespace) or user.name in repo.granted)):
        return
    if user is None:
        why = "You must have access to it and be authenticated to access it. Please log in."
    else:
        why = "Visit its page to ask for access."
    where = f"Access to {repo.kind} {repo.id} is restricted"
    raise Refusal(403 if user else 401, f"{where}. {why}", "GatedRepo")


def check_write(request: Request, repo: Repo, *, as_proposal: bool = False) -> User:
    """Return the user, who must be a member; a proposal anyone may make who is known."""
    user = who_asks(request)
    if user is None:
        raise Refusal(401, "Invalid username or password.", "RepoNotFound")
    if not user.may_write or not (as_proposal or user.owns(repo.namespace)):
        raise Refusal(403, "You don't have the required permissions to perform this action")
    return user
