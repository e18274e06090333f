"""Before the first byte: the repository and the branch are made, and the Hub has looked at the card."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tune_hub.addresses import origin
from tune_hub.client import Client, asked, scrubbed
from tune_hub.errors import AccessError, RefusedError, TransferError
from tune_hub.listing import list_snapshot
from tune_hub.upload_plan import UploadPlan, needed

if TYPE_CHECKING:
    import httpx2

CARD = "README.md"


def prepare(client: Client, plan: UploadPlan) -> str | None:
    """Make the repository and the branch if they are missing. Returns the commit to build on."""
    api, repository, commit = client.api, plan.repository, plan.commit
    check_card(client, plan)
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


def check_card(client: Client, plan: UploadPlan) -> None:
    """Have the Hub look at the model card, which it would refuse to take after all else was sent.

    Raises:
        RefusedError: the Hub would not take it.
    """
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
    if answer.status_code in (404, 405):  # another Hub, which has no opinion
        return ""
    hf_raise_for_status(answer)
    return ""


@contextmanager
def rights_told(client: Client, plan: UploadPlan) -> Generator[None]:
    """Say who may not write, and what they need."""
    try:
        yield
    except AccessError as error:
        first = str(error).partition("\n")[0]
        raise AccessError(f"{first}\n{needed(client, plan.repository, plan.user)}") from None


@contextmanager
def store_told(client: Client) -> Generator[None]:
    """Tell what goes wrong at the store of large files as that: there, no token of the Hub counts."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    again = "  run the same command again; it goes on where it stopped"
    hub = origin(client.endpoint)
    try:
        yield
    except HfHubHTTPError as error:
        url = error.response.request.url
        if origin(str(url)) == hub:
            raise
        said = scrubbed(error.server_message or error.response.reason_phrase, client)
        raise TransferError(
            f"{_host(url)}: the store of the Hub's large files answered {error.response.status_code}: "
            f"{said or 'no reason given'}\n{again}"
        ) from None
    except httpx2.TransportError as error:
        url = error.request.url
        if origin(str(url)) == hub:
            raise
        raise TransferError(
            f"{_host(url)}: the store of the Hub's large files cannot be reached, or hangs up: "
            f"{scrubbed(str(error) or type(error).__name__, client)}\n"
            f"  check the network (the proxy and firewall too), then run the same command again"
        ) from None


def _host(url: "httpx2.URL") -> str:
    return f"{url.scheme}://{url.netloc.decode()}"  # which holds no signature and no password
