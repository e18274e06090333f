"""Before the first byte: the repository and the branch are made, and the Hub has looked at the card."""

from collections.abc import Generator
from contextlib import contextmanager

from tune_hub.client import Client, asked
from tune_hub.errors import AccessError, RefusedError
from tune_hub.listing import list_snapshot
from tune_hub.upload_plan import UploadPlan

CARD = "README.md"


def prepare(client: Client, plan: UploadPlan) -> str | None:
    """Make the repository and the branch if they are missing. Returns the commit to build on."""
    api, repository, commit = client.api, plan.repository, plan.commit
    _check_card(client, plan)
    if not plan.exists:
        asked(
            client,
            repository,
            lambda: api.create_repo(repository, private=plan.private or None, exist_ok=True),
        )
        commit = list_snapshot(client, repository).commit
    if plan.makes_branch:
        asked(
            client,
            repository,
            lambda: api.create_branch(repository, branch=plan.branch, revision=commit, exist_ok=True),
        )
    return commit


def _check_card(client: Client, plan: UploadPlan) -> None:
    """Have the Hub look at the model card, which it would refuse to take after all else was sent."""
    file = next((planned.file for planned in plan.to_send if planned.file.path == CARD), None)
    if file is None:
        return
    try:
        text = (file.source.read_bytes() if file.source else file.content).decode()
    except ValueError:
        raise RefusedError(f"{file.source or CARD}: not UTF-8 text\n  write it as UTF-8") from None
    if answer := asked(client, plan.repository, lambda: _card_answer(client, text)):
        raise RefusedError(
            f"{file.source or CARD}: the Hub does not take its header: {answer}\n"
            "  the header is the YAML between the two lines of `---` at its top"
        )


def _card_answer(client: Client, text: str) -> str:
    """Return what the Hub has against a model card."""
    from huggingface_hub.utils import hf_raise_for_status

    answer = client.session.post(
        f"{client.endpoint}/api/validate-yaml",
        json={"content": text, "repoType": "model"},
        headers=client.headers(),
    )
    if answer.status_code == 400:
        return "; ".join(str(error.get("message")) for error in answer.json().get("errors", ()))
    hf_raise_for_status(answer)
    return ""


@contextmanager
def rights_told(client: Client, plan: UploadPlan) -> Generator[None]:
    """Say who may not write, and what they need."""
    try:
        yield
    except AccessError as error:
        first = str(error).partition("\n")[0]
        raise AccessError(
            f"{first}\n"
            f"  it takes a token of the role `write` ({client.endpoint}/settings/tokens) "
            f"of a member of {plan.repository.partition('/')[0]};\n"
            f"  or name a repository of your own: {plan.user}/{plan.repository.rpartition('/')[2]}"
        ) from None
