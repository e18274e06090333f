"""What is known of the model that is trained: which repository it came from, and under which licence.

Imports no torch. Nothing here raises: a run does not fail because a folder says little of itself.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, cast

from msgspec import Struct

from tune_recipes.catalog import local_path
from tune_recipes.errors import UserError

DOWNLOADED = ".tune-download.json"
"""What `tune download` leaves in a folder: the repository and the commit that the files are of."""
CARD = "README.md"
RUN_INFO = "run.json"
RESULTS = ("final", "merged")
"""Folders that a run leaves beside its run.json."""
_LONGEST_CARD_BYTES = 1 << 20


class BaseModel(Struct, frozen=True, kw_only=True):
    """Where a model came from. What nobody wrote down is None."""

    path: str
    """The folder, as the config has it."""
    repository: str | None = None
    """On the Hub, as `organisation/name`."""
    commit: str | None = None
    """The repository's, of which the files are."""
    license: str | None = None
    """As the model card has it: `apache-2.0`, `llama3.2`, `other`."""
    license_name: str | None = None
    """With `other`: which."""
    license_link: str | None = None
    """With `other`: its text, an address or a file of the repository."""
    language: tuple[str, ...] = ()
    """Languages that the model card names."""

    @property
    def name(self) -> str:
        """What the model is called: its repository, or its folder without the way there, which is private."""
        if self.repository:
            return self.repository
        folder = PurePosixPath(self.path)
        of_run = folder.name in RESULTS and folder.parent.name  # what a run made is called as the run is
        return of_run or folder.name or self.path


def read_base_model(path: str) -> BaseModel:
    """Look up what a folder says of itself.

    Args:
        path: The folder as a config has it: `models/llama`, `builtin:demo`.
    """
    try:
        folder = local_path(path)
    except UserError:
        return BaseModel(path=path)
    repository, commit = _downloaded(folder) or cached_repository(folder, "models") or (None, None)
    card = _card_header(folder / CARD) or _run_header(folder)
    stated: Any = card.get("language")
    languages = cast("list[Any]", stated) if isinstance(stated, list) else [stated]
    return BaseModel(
        path=path,
        repository=repository,
        commit=commit,
        license=_text(card.get("license")),
        license_name=_text(card.get("license_name")),
        license_link=_text(card.get("license_link")),
        language=tuple(text for language in languages if (text := _text(language))),
    )


def cached_repository(path: Path, kind: str) -> tuple[str, str] | None:
    """Return repository and commit of what lies in the Hub's cache on this machine, else None.

    Args:
        path: A file or a folder.
        kind: `models` or `datasets`.

    Source: "Understand caching" in the manual of huggingface_hub: `models--ORG--NAME/snapshots/COMMIT/`.
    """
    found = re.search(
        rf"(?:^|/){kind}--([^/]+)/snapshots/([0-9a-f]{{40}})(?:/|$)", path.absolute().as_posix()
    )
    return (found[1].replace("--", "/"), found[2]) if found else None


def _downloaded(folder: Path) -> tuple[str, str | None] | None:
    try:
        record: Any = json.loads((folder / DOWNLOADED).read_bytes())
        repository = _text(record["repository"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (repository, _text(record.get("commit"))) if repository else None


def _card_header(path: Path) -> dict[str, Any]:
    """Return what the block of YAML at the head of a model card says."""
    import yaml

    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_CARD_BYTES).decode(errors="replace")
        found = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(?:\n|$)", text, re.DOTALL)
        header: Any = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return cast("dict[str, Any]", header) if isinstance(header, dict) else {}


def _run_header(folder: Path) -> dict[str, Any]:
    """Return what a run that made the folder noted of its own base: the licence goes on."""
    try:
        base: Any = json.loads((folder.resolve().parent / RUN_INFO).read_bytes())["base_model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return cast("dict[str, Any]", base) if folder.name in RESULTS and isinstance(base, dict) else {}


def _text(value: Any) -> str | None:
    """A text that says something; of a list of one, its item."""
    if isinstance(value, list) and len(items := cast("list[Any]", value)) == 1:
        value = items[0]
    return value if isinstance(value, str) and value else None
