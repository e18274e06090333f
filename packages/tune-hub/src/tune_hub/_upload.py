"""`upload`: what a plan says, in commits that are whole. The module's name leaves `tune_hub.upload` to it."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from msgspec import Struct

from tune_hub.client import Client, asked, open_client, scrubbed, translated
from tune_hub.errors import DamagedError, HubError, RefusedError, TransferError
from tune_hub.listing import RepoFile, list_snapshot
from tune_hub.quiet import quiet_hub
from tune_hub.sending import Meter, operations, run_stoppable, uses_xet, waits_told
from tune_hub.upload_files import LocalFile, check_unchanged, is_same
from tune_hub.upload_groups import CONNECTIONS, batches_of, by_size, commits_of
from tune_hub.upload_plan import MAIN, PULL_REQUESTS, PlannedFile, Progress, UploadPlan
from tune_hub.upload_rights import prepare, rights_told, store_told

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd

MAX_TRIES_OF_A_COMMIT = 5


class UploadResult(Struct, frozen=True, kw_only=True):
    """What was done."""

    repository: str
    url: str
    """Page of the model, or of the pull request."""
    commit: str | None
    """The last one of the branch."""
    files: tuple[str, ...]
    """What was sent or is new there, by path in the repository."""
    bytes_sent: int
    """What the Hub's store had already is not in it."""
    no_op: bool
    """Whether all was there already, and no commit was made."""


class _MovedError(RefusedError):
    """Somebody else has made a commit since."""


def upload(
    plan: UploadPlan,
    *,
    client: Client | None = None,
    force: bool = False,
    message: str | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], object] | None = None,
) -> UploadResult:
    """Do what a plan says.

    After any interruption, plan and upload again: a file that had arrived whole is not sent again.

    Args:
        plan: from `plan_upload`.
        client: the way to the Hub; None is what the environment says.
        force: files of the repository may be overwritten.
        message: of the commit.
        progress: called with the bytes that are there, and the bytes to send.
        notice: called with what the user may want to know meanwhile, a line.

    Raises:
        HubError: it is not allowed, or it failed; what the repository holds is whole all the same.
    """
    if plan.overwritten and not force and not plan.create_pr:
        raise RefusedError(overwriting(plan))
    client = client or open_client()
    if plan.is_no_op or (plan.create_pr and plan.exists and not plan.to_send):
        return _result(plan, plan.commit, (), 0, no_op=True)
    message = message or f"Upload {plan.repository.rpartition('/')[2]} with tune"
    with quiet_hub(), rights_told(client, plan), waits_told(client, notice):
        parent = prepare(client, plan)
        meter = Meter(plan.total_bytes, progress)
        return _Upload(client, plan, message, meter, parent).run()


def overwriting(plan: UploadPlan) -> str:
    """Say which files would be overwritten, and how to do it."""
    shown = [f"  {path}" for path in plan.overwritten[:20]]
    if more := len(plan.overwritten) - len(shown):
        shown.append(f"  and {more} more")
    return "\n".join(
        [
            f"{plan.repository}: the upload would overwrite {len(plan.overwritten)} of its files:",
            *shown,
            "  -f overwrites them; their history stays. --create-pr proposes the changes instead",
        ]
    )


class _Upload:
    """The state of one upload: which branch is written to, and what its last commit is."""

    def __init__(
        self, client: Client, plan: UploadPlan, message: str, meter: Meter, parent: str | None
    ) -> None:
        self._client = client
        self._plan = plan
        self._message = message
        self._meter = meter
        self._parent = parent
        self._branch = plan.branch
        self._opens_pr = plan.create_pr
        self._pr_url: str | None = None

    def run(self) -> UploadResult:
        """Send and commit, a group of files at a time."""
        plan, groups = self._plan, commits_of(self._plan.to_send)
        with self._open_proposal_told():
            for number, group in enumerate(groups, 1):
                files = [planned.file for planned in group]
                added = operations(files, self._meter)
                self._send(files, added)
                part = f" ({number} of {len(groups)})" if len(groups) > 1 else ""
                self._commit(group, added, self._message + part)
                self._check_arrived(files, added)
                self._meter.finish(files)
        sent = tuple(planned.file.path for planned in plan.to_send)
        return _result(plan, self._parent, sent, self._meter.sent, url=self._pr_url, no_op=plan.is_no_op)

    @contextmanager
    def _open_proposal_told(self) -> Generator[None]:
        """Say how to go on once a pull request is open; the same command would open another one."""
        try:
            yield
        except (HubError, KeyboardInterrupt) as error:
            if self._pr_url is None:
                raise
            on = f"the pull request is open: go on with --revision {self._branch} in place of --create-pr"
            if isinstance(error, HubError):
                raise type(error)(f"{error}\n  {on}") from None
            error.add_note(on)
            raise

    def _send(self, files: Sequence[LocalFile], added: "dict[str, CommitOperationAdd]") -> None:
        """Bring large files to the Hub's store, which says which of them it has."""

        def send(operations: "Sequence[CommitOperationAdd]", at_once: int = CONNECTIONS) -> None:
            self._client.api.preupload_lfs_files(
                self._plan.repository,
                operations,
                revision=self._branch,
                create_pr=self._opens_pr,
                num_threads=at_once,
                free_memory=False,
            )

        with self._failures_told(files):
            if uses_xet():  # which reads files by itself, so that progress is told after each batch
                for batch in batches_of(files):
                    send([added[file.path] for file in batch])
                    for file in batch:
                        self._meter.reach(file, file.size)
            else:
                for some, at_once in by_size(files):
                    batch = [added[file.path] for file in some]
                    run_stoppable(partial(send, batch, at_once), self._meter)

    @contextmanager
    def _failures_told(self, files: Sequence[LocalFile]) -> Generator[None]:
        client, repository = self._client, self._plan.repository
        try:
            with translated(client, repository), store_told(client):
                yield
        except TransferError:
            check_unchanged(files)  # then the hash does not fit, which the store tells less clearly
            raise
        except HubError:
            raise
        except Exception as error:  # of whatever library notices that a file is shorter than was said
            check_unchanged(files)
            reason = scrubbed(str(error) or type(error).__name__, client)
            raise TransferError(f"{repository}: the upload failed: {reason}") from None

    def _commit(
        self, group: Sequence[PlannedFile], added: "dict[str, CommitOperationAdd]", message: str
    ) -> None:
        """Make a commit of a group on top of the last one; a commit in between is looked at first."""
        for _ in range(MAX_TRIES_OF_A_COMMIT):
            check_unchanged([planned.file for planned in group])
            try:
                info = asked(
                    self._client,
                    self._plan.repository,
                    lambda group=group: self._create(
                        [added[planned.file.path] for planned in group], message
                    ),
                )
            except _MovedError:
                group = self._after_another(group)
                if not group:
                    return
                continue
            self._parent = info.oid
            if info.pr_revision is not None:
                self._pr_url, self._branch, self._opens_pr = info.pr_url, info.pr_revision, False
            return
        raise TransferError(
            f"{self._plan.repository}: others make commits faster than we can\n"
            "  run the same command again later"
        )

    def _create(self, added: "list[CommitOperationAdd]", message: str) -> "CommitInfo":
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return self._client.api.create_commit(
                self._plan.repository,
                added,
                commit_message=message,
                revision=self._branch,
                parent_commit=self._parent,
                create_pr=self._opens_pr,
            )
        except HfHubHTTPError as error:
            if error.response.status_code == 412:
                raise _MovedError from None
            raise
        except ValueError as error:
            repository, client = self._plan.repository, self._client
            raise TransferError(f"{repository}: {scrubbed(str(error), client)}") from None
        except (httpx2.ReadError, httpx2.ReadTimeout, httpx2.RemoteProtocolError):
            if not self._opens_pr:  # an old parent tells whether the commit was made; a pull request has none
                raise
            raise TransferError(
                f"{self._plan.repository}: the connection broke while a pull request was opened\n"
                f"  look whether it is there before you try again: {_page(self._plan)}/discussions"
            ) from None

    def _after_another(self, group: Sequence[PlannedFile]) -> list[PlannedFile]:
        """Go on from a commit in between, or from our own whose answer was lost. Returns what is left."""
        snapshot = list_snapshot(self._client, self._plan.repository, self._branch)
        theirs = {file.path: file for file in snapshot.files}
        left = [planned for planned in group if not _is_there(planned.file, theirs)]
        now = {path: remote.checksum for path, remote in theirs.items()}
        touched = [planned.file.path for planned in left if now.get(planned.file.path) != planned.checksum]
        if touched:
            raise RefusedError(
                f"{self._plan.repository}: {', '.join(touched[:5])} changed there during the upload\n"
                "  run the same command again; it shows what would be overwritten"
            )
        self._parent = snapshot.commit
        return left

    def _check_arrived(self, files: Sequence[LocalFile], added: "dict[str, CommitOperationAdd]") -> None:
        """Compare what the repository lists with what was sent."""
        revision = self._branch if self._pr_url else self._parent
        theirs = {
            file.path: file for file in list_snapshot(self._client, self._plan.repository, revision).files
        }
        for file in files:
            remote = theirs.get(file.path)
            if remote is None:
                raise RefusedError(
                    f"{self._plan.repository}: {file.path} was left out by the Hub\n"
                    "  the repository's .gitignore names it; change that, or the file's name"
                )
            if remote.sha256 is not None:
                fits = remote.sha256 == added[file.path].upload_info.sha256.hex()
            else:
                fits = is_same(file, remote)
            if not fits:
                check_unchanged([file])
                raise DamagedError(
                    f"{self._plan.repository}: {file.path} arrived as something else\n"
                    "  run the same command again with -f"
                )


def _is_there(file: LocalFile, theirs: dict[str, RepoFile]) -> bool:
    return file.path in theirs and is_same(file, theirs[file.path])


def _page(plan: UploadPlan, branch: str = MAIN) -> str:
    page = f"{plan.endpoint}/{plan.repository}"
    if branch.startswith(PULL_REQUESTS):
        return f"{page}/discussions/{branch.removeprefix(PULL_REQUESTS)}"
    return page if branch == MAIN else f"{page}/tree/{quote(branch, safe='')}"


def _result(
    plan: UploadPlan,
    commit: str | None,
    files: tuple[str, ...],
    sent: int,
    *,
    no_op: bool,
    url: str | None = None,
) -> UploadResult:
    return UploadResult(
        repository=plan.repository,
        url=url or _page(plan, plan.branch),
        commit=commit,
        files=files,
        bytes_sent=sent,
        no_op=no_op,
    )
