"""`tune upload`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from tune_cli.hub_token import HfToken, read_token
from tune_cli.output import print_json

if TYPE_CHECKING:
    from tune_hub._upload import UploadResult
    from tune_hub.client import Client
    from tune_hub.upload_plan import UploadPlan


class _Asked(NamedTuple):
    """What the command line says of what is published, and how."""

    path: Path
    repo: str | None
    force: bool
    private: bool
    revision: str | None
    create_pr: bool
    message: str | None
    include_optimizer: bool
    json: bool


def upload(
    path: Path,
    repo: str | None = None,
    /,
    *,
    hf_token: HfToken = None,
    force: Annotated[bool, Parameter(name=["--force", "-f"])] = False,
    private: bool = False,
    revision: Annotated[str | None, Parameter(metavar="BRANCH")] = None,
    create_pr: bool = False,
    message: Annotated[str | None, Parameter(metavar="TEXT")] = None,
    include_optimizer: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Upload a fine-tuned model to the Hugging Face Hub.

    Args:
        path: A run folder, a folder of a model or an adapter, or a file.
        repo: NAME or ORGANISATION/NAME; made if it does not exist. On a terminal one is proposed.
        hf_token: Token that may write. By default HF_TOKEN, or what `hf auth login` left; `-` reads
            standard input.
        force: Overwrite files of the repository.
        private: Make the repository visible to its members alone.
        revision: Branch to upload to; made if it does not exist. By default the main one.
        create_pr: Propose the changes as a pull request.
        message: Of the commit.
        include_optimizer: Upload what the training goes on from, too.
        dry_run: Print what would be uploaded, and stop.
        json: Print one JSON object.
    """
    from tune_checkpoint.interrupts import heeding_sigterm, status_of
    from tune_hub.client import open_client

    asked = _Asked(path, repo, force, private, revision, create_pr, message, include_optimizer, json)
    try:
        with heeding_sigterm():
            client = open_client(read_token(hf_token))
            plan = _prepare(asked, client)
            if dry_run:
                return _show_plan(asked, plan)
            return _send(asked, client, plan)
    except KeyboardInterrupt as stop:
        on = "the same command goes on; a file that had arrived whole is not sent again"
        on = next(iter(getattr(stop, "__notes__", ())), on)
        print(f"error: interrupted; {on}", file=sys.stderr)
        return _ended(status_of(stop))


def _ended(status: int) -> int:
    """Return the exit status, or end at once if threads of a pool wait for an answer.

    Python joins those when it ends, daemons too, and nothing wakes them before their time is out.
    """
    import os
    import threading

    if any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _prepare(asked: _Asked, client: "Client") -> "UploadPlan":
    """Look through everything before the first byte is sent."""
    from tune_checkpoint.progress import ProgressLine
    from tune_cli.commands import _upload_source as of
    from tune_cli.commands._upload_base import with_base_named
    from tune_hub.upload_files import with_contents
    from tune_hub.upload_plan import full_name, plan_upload, who
    from tune_hub.upload_rights import check_card

    source = of.find_source(asked.path, include_optimizer=asked.include_optimizer)
    user = who(client)
    _say(asked, f"Successfully authenticated! (as {user.name})")
    repository = full_name(asked.repo or of.asked_for_repository(source, user.name), user.name)
    of.refuse_secrets(source)
    source, base = with_base_named(source, client)
    files, makes_card = source.files, source.path.is_dir() and not source.has_card
    if makes_card:
        files = with_contents(files, {of.CARD: of.card_of(source, repository, base)})
    with ProgressLine("comparing") as progress:
        plan = plan_upload(
            files,
            repository,
            client=client,
            user=user,
            revision=asked.revision,
            create_pr=asked.create_pr,
            private=asked.private,
            progress=progress,
        )
    plan = _with_their_card(plan) if makes_card else plan
    check_card(client, plan)
    of.check_weights(source)  # last: it takes longest
    return plan


def _with_their_card(plan: "UploadPlan") -> "UploadPlan":
    """Leave the card that the repository has, which somebody may have written: none is ours to replace."""
    import msgspec

    from tune_cli.commands._upload_source import CARD

    files = tuple(
        msgspec.structs.replace(planned, state="kept")
        if planned.file.path == CARD and planned.state == "changed"
        else planned
        for planned in plan.files
    )
    return msgspec.structs.replace(plan, files=files)


def _send(asked: _Asked, client: "Client", plan: "UploadPlan") -> int:
    from tune_checkpoint.progress import ProgressLine
    from tune_hub._upload import upload as send

    with ProgressLine("uploading") as progress:
        result = send(
            plan,
            client=client,
            force=asked.force,
            message=asked.message,
            progress=progress,
            notice=lambda line: print(line, file=sys.stderr, flush=True),
        )
    if asked.json:
        print_json(result)
    else:
        print("\n".join(_result_lines(plan, result)))
    return 0


def _result_lines(plan: "UploadPlan", result: "UploadResult") -> list[str]:
    from tune_checkpoint.text import size_text

    if result.no_op:
        count = len(plan.files) - len(plan.kept)
        first = f"Nothing to upload: {plan.repository} holds all {count} files as they are here"
    elif not result.files:
        first = f"Made the branch {plan.branch}; {plan.repository} holds all files already"
    else:
        count = len(result.files)
        first = f"Uploaded {count} file{'' if count == 1 else 's'}, {size_text(result.bytes_sent)} sent"
    what = "pull request" if plan.create_pr and not result.no_op else "model"
    kept = [f"Kept the repository's own {path}" for path in plan.kept]
    return [first, *kept, f"You can find your {what} at {result.url}"]


def _show_plan(asked: _Asked, plan: "UploadPlan") -> int:
    from tune_checkpoint.text import size_text
    from tune_cli.commands._upload_source import plan_lines

    if asked.json:
        print_json(_plan_json(plan))
        return 0
    is_new = "" if plan.exists else "new, "
    where = f" at {plan.branch}{' (new)' if plan.makes_branch else ''}" if asked.revision else ""
    print(f"{plan.repository} ({is_new}{'private' if plan.private else 'public'}){where}")
    rows = [(planned.state, planned.file.path, planned.file.size) for planned in plan.files]
    print("\n".join(plan_lines(rows)))
    print(f"{len(plan.to_send)} of {len(plan.files)} files to upload, {size_text(plan.total_bytes)}")
    if plan.overwritten and not asked.create_pr and not asked.force:
        print(f"{len(plan.overwritten)} would be overwritten, which needs -f")
    return 0


def _plan_json(plan: "UploadPlan") -> dict[str, Any]:
    return {
        "repository": plan.repository,
        "exists": plan.exists,
        "private": plan.private,
        "branch": plan.branch,
        "makes_branch": plan.makes_branch,
        "create_pr": plan.create_pr,
        "commit": plan.commit,
        "total_bytes": plan.total_bytes,
        "overwritten": plan.overwritten,
        "no_op": plan.is_no_op,
        "files": [
            {"path": planned.file.path, "state": planned.state, "size": planned.file.size}
            for planned in plan.files
        ],
    }


def _say(asked: _Asked, line: str) -> None:
    if not asked.json:
        print(line, flush=True)
