"""What an upload would change: asked of the Hub, and compared, before the first byte is sent."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct, field

from tune_hub.client import Client, asked, open_client
from tune_hub.errors import AccessError, RefusedError, RepositoryNotFoundError
from tune_hub.listing import RepoFile, Snapshot, list_snapshot
from tune_hub.quiet import quiet_hub
from tune_hub.upload_files import LocalFile, files_of, is_same

Progress = Callable[[int, int], object]
"""Called with the bytes done and the bytes in all."""
MAIN = "main"
PULL_REQUESTS = "refs/pr/"


class PlannedFile(Struct, frozen=True):
    """A file, and how the repository's differs."""

    file: LocalFile
    state: Literal["new", "changed", "same", "kept"]
    """`kept` is the repository's own, which stays though ours differs."""
    checksum: str | None = None
    """What the repository's content hashes to, if it has the file."""


class UploadPlan(Struct, frozen=True, kw_only=True):
    """What is sent where."""

    repository: str
    """`organisation/model`."""
    user: str
    """Whose token it is."""
    endpoint: str
    exists: bool
    """Whether the repository is there, or will be made."""
    private: bool
    """Whether it is, or will be, seen by its members alone."""
    branch: str
    makes_branch: bool
    """Whether the branch is still to be made, from the main one."""
    create_pr: bool
    """Whether the changes are proposed, and not made."""
    commit: str | None
    """Of the branch, with which the files were compared."""
    files: tuple[PlannedFile, ...]

    @property
    def to_send(self) -> tuple[PlannedFile, ...]:
        """Files that the repository has not, or has with another content."""
        return tuple(planned for planned in self.files if planned.state in ("new", "changed"))

    @property
    def total_bytes(self) -> int:
        """Bytes to send at most: what the Hub's store has already is not sent again."""
        return sum(planned.file.size for planned in self.to_send)

    @property
    def overwritten(self) -> tuple[str, ...]:
        """Files of the repository that the upload would replace."""
        return tuple(planned.file.path for planned in self.files if planned.state == "changed")

    @property
    def kept(self) -> tuple[str, ...]:
        """Files of the repository that stay though ours differ."""
        return tuple(planned.file.path for planned in self.files if planned.state == "kept")

    @property
    def is_no_op(self) -> bool:
        """Whether the repository holds all this already."""
        return self.exists and not self.makes_branch and not self.to_send


class _Named(Struct):
    name: str = ""


class _Scope(Struct):
    entity: _Named = field(default_factory=_Named)


class _FineGrained(Struct):
    scoped: tuple[_Scope, ...] = ()


class _AccessToken(Struct, rename="camel"):
    role: str | None = None
    fine_grained: _FineGrained = field(default_factory=_FineGrained)


class _Auth(Struct, rename="camel"):
    access_token: _AccessToken = field(default_factory=_AccessToken)


class _User(Struct):
    """What the Hub says of who asks."""

    name: str
    orgs: tuple[_Named, ...] | None = None
    auth: _Auth = field(default_factory=_Auth)


class Account(Struct, frozen=True):
    """Whose token it is."""

    name: str
    namespaces: frozenset[str] | None
    """In lower case, where it may have repositories; None if the Hub does not say."""


def plan_upload(
    source: Path | str | Sequence[LocalFile],
    repository: str,
    *,
    client: Client | None = None,
    user: Account | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    private: bool = False,
    include_optimizer: bool = False,
    progress: Progress | None = None,
) -> UploadPlan:
    """Ask the Hub what it has of a folder, and what may be done there.

    Args:
        source: a folder or a file; or files, as `files_of` and `with_contents` return them.
        repository: `organisation/model`, or `model` alone, which is the token's own.
        client: the way to the Hub; None is what the environment says.
        user: what `who` returned, if it was asked.
        revision: branch to write to; it is made if it is missing.
        create_pr: propose the changes as a pull request.
        private: a new repository is to be seen by its members alone.
        include_optimizer: with a folder, take what a training goes on from, too.
        progress: called with the bytes compared, and the bytes to compare.

    Raises:
        HubError: it is not allowed, or cannot be asked.
    """
    client = client or open_client()
    is_path = isinstance(source, Path | str)
    files = files_of(source, include_optimizer=include_optimizer) if is_path else source
    with quiet_hub():
        user = user or who(client)
        repository = full_name(repository, user.name)
        found = _snapshot(client, repository)
        if create_pr and found is None:
            raise RefusedError(
                f"{repository}: does not exist, or is not seen: there is nothing to propose changes to\n"
                "  leave --create-pr out to make it"
            )
        if not create_pr:
            _check_owner(client, found.repository if found else repository, user)
        if found is not None and private and not found.private:
            raise RefusedError(
                f"{found.repository} is public, and --private is for a repository that is made\n"
                f"  hide it at {client.endpoint}/{found.repository}/settings, or choose another name"
            )
        makes_branch = False
        if revision and revision != MAIN:
            makes_branch = not _is_branch(client, repository, revision, exists=found is not None)
            if found is not None and not makes_branch:
                found = list_snapshot(client, repository, revision)
        return UploadPlan(
            repository=found.repository if found else repository,
            user=user.name,
            endpoint=client.endpoint,
            exists=found is not None,
            private=found.private if found else private,
            branch=revision or MAIN,
            makes_branch=makes_branch,
            create_pr=create_pr,
            commit=found.commit if found else None,
            files=_compared(files, found.files if found else (), progress),
        )


def who(client: Client) -> Account:
    """Return whose token it is.

    Raises:
        AccessError: there is none, it is not valid, or it may only read.
    """
    if client.token is None:
        raise AccessError(
            "no token: only who is logged in can upload\n"
            f"  make one of the role `write` at {client.endpoint}/settings/tokens, then `hf auth login`, "
            "or set HF_TOKEN"
        )
    user = msgspec.convert(asked(client, "whoami", lambda: cast("Any", client.api).whoami()), _User)
    if user.auth.access_token.role == "read":
        raise AccessError(
            f"{client.token_name} ({user.name}) may only read\n"
            f"  make one of the role `write` at {client.endpoint}/settings/tokens, then `hf auth login`, "
            "or set HF_TOKEN"
        )
    scopes = user.auth.access_token.fine_grained.scoped
    names = [user.name, *(org.name for org in user.orgs or ()), *(scope.entity.name for scope in scopes)]
    namespaces = frozenset(name.partition("/")[0].casefold() for name in names)
    return Account(user.name, namespaces if user.orgs is not None else None)


def _check_owner(client: Client, repository: str, user: Account) -> None:
    owner = repository.partition("/")[0]
    if user.namespaces is not None and owner.casefold() not in user.namespaces:
        raise AccessError(
            f"{repository}: {client.token_name} ({user.name}) may not write there: it is not of {owner}\n"
            f"{needed(client, repository, user.name)}\n"
            "  or propose the changes with --create-pr, if the repository is there"
        )


def needed(client: Client, repository: str, user: str) -> str:
    """Say what it takes to write to a repository."""
    owner, _, name = repository.partition("/")
    token = f"  it takes a token of the role `write` ({client.endpoint}/settings/tokens)"
    if owner.casefold() == user.casefold():
        return f"{token} that reaches {repository}"
    return f"{token} of a member of {owner};\n  or name a repository of your own: {user}/{name}"


def full_name(repository: str, user: str) -> str:
    """Return `organisation/model`; a name alone is the user's.

    Raises:
        RefusedError: the Hub takes no such name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    full = repository if "/" in repository else f"{user}/{repository}"
    try:
        validate_repo_id(full)
        if not repository:
            raise HFValidationError
    except HFValidationError:
        raise RefusedError(
            f"{repository or repr(repository)}: not the name of a repository\n"
            "  write NAME or ORGANISATION/NAME: letters, digits, `-`, `_` and `.`, at most 96 of them"
        ) from None
    return full


def _snapshot(client: Client, repository: str) -> Snapshot | None:
    try:
        return list_snapshot(client, repository)
    except RepositoryNotFoundError:
        return None


def _is_branch(client: Client, repository: str, revision: str, *, exists: bool) -> bool:
    """Whether a branch is there.

    Raises:
        RefusedError: it is a commit or a tag, which nothing is written to.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        raise RefusedError(f"{revision}: a commit stays as it is\n  name a branch with --revision")
    if revision.startswith(PULL_REQUESTS):
        if not exists:
            raise RefusedError(f"{revision}: {repository} does not exist\n  leave --revision out to make it")
        return True  # or it is not found, which is told as that
    if not exists:
        return False
    refs = asked(client, repository, lambda: client.api.list_repo_refs(repository))
    if any(tag.name == revision for tag in refs.tags):
        raise RefusedError(f"{revision}: a tag stays as it is\n  name a branch with --revision")
    return any(branch.name == revision for branch in refs.branches)


def _compared(
    files: Sequence[LocalFile], theirs: Sequence[RepoFile], progress: Progress | None
) -> tuple[PlannedFile, ...]:
    by_path = {file.path: file for file in theirs}
    total = sum(file.size for file in files if file.path in by_path and file.size == by_path[file.path].size)
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    planned: list[PlannedFile] = []
    for file in files:
        remote = by_path.get(file.path)
        if remote is None:
            planned.append(PlannedFile(file, "new"))
        else:
            state = "same" if is_same(file, remote, read) else "changed"
            planned.append(PlannedFile(file, state, remote.checksum))
    return tuple(planned)
