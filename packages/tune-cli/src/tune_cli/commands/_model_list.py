"""The short names of models, and what the Hub says of each."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from tune_hub.client import Client

PARALLEL = 8


class Model(Struct, frozen=True, omit_defaults=True):
    """A model that has a short name."""

    alias: str
    repository: str
    size: int | None = None
    """Bytes that would be downloaded."""
    license: str | None = None
    gated: bool | None = None
    """Access must be asked for."""
    missing: bool = False
    """The Hub has it no more, or does not show it."""


def list_models() -> list[Model]:
    """Return all, in the order of their families."""
    from tune_hub import ALIASES

    return [Model(alias, repository) for alias, repository in ALIASES.items()]


def online_models(token: str | None) -> list[Model]:
    """Return all, with what the Hub says of each now.

    Raises:
        HubError: the Hub cannot be reached.
    """
    from tune_hub.client import open_client

    client = open_client(token)
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(partial(_asked, client), list_models()))


def model_lines(models: Sequence[Model]) -> list[str]:
    """Return a table."""
    from tune_checkpoint.text import size_text

    rows = [("MODEL", "REPOSITORY", "SIZE", "LICENSE", "ACCESS")]
    for model in models:
        size = "" if model.size is None else size_text(model.size)
        access = (
            "not found" if model.missing else {None: "", True: "to be asked for", False: "free"}[model.gated]
        )
        rows.append((model.alias, model.repository, size, model.license or "", access))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    shown = 5 if any(model.gated is not None or model.missing for model in models) else 2
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row[:shown], widths, strict=False)).rstrip()
        for row in rows
    ]


def _asked(client: "Client", model: Model) -> Model:
    from tune_hub.choose import choose_files
    from tune_hub.errors import RepositoryNotFoundError
    from tune_hub.listing import list_snapshot

    try:
        snapshot = list_snapshot(client, model.repository)
        files = choose_files(model.repository, snapshot.files)
    except RepositoryNotFoundError:
        return Model(model.alias, model.repository, missing=True)
    size = sum(file.size for file in files)
    return Model(model.alias, model.repository, size, snapshot.license, snapshot.gated)
