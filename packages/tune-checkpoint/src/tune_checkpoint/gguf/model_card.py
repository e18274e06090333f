"""A model's name and licence: in GGUF metadata, and in the block of YAML at the head of a README.md.

Source: "Model card metadata" in the documentation of the Hugging Face Hub; `Metadata` of the `gguf` package
for which of its keys become which of GGUF's.
"""

import json
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.plan import SideFile

CARD = "README.md"
FENCE = "---"

CARD_KEYS = {
    "general.name": "model_name",
    "general.license": "license",
    "general.license.name": "license_name",
    "general.license.link": "license_link",
}
"""Key in GGUF -> in the model card."""


def card_files(metadata: Metadata) -> list[SideFile]:
    """A model card, if the file says something that belongs there."""
    stated = {name: metadata.text(key) for key, name in CARD_KEYS.items()}
    # What JSON makes of a text, YAML reads as the same.
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in stated.items() if value]
    return [SideFile(CARD, "\n".join([FENCE, *lines, FENCE, ""]).encode())] if lines else []


def card_values(files: Iterable[SideFile]) -> dict[str, str]:
    """Key in GGUF -> what the model card among the files says, where that is a single line of text."""
    # What is of interest stands at the start, and the rest may be long.
    content = next((next(file.chunks(), b"") for file in files if file.name == CARD), b"")
    lines = content.decode(errors="replace").split("\n")
    if lines[0].rstrip() != FENCE:
        return {}
    head = takewhile(lambda line: line.rstrip() != FENCE, lines[1:])
    stated = {name: _text(value.strip()) for name, _, value in (line.partition(":") for line in head)}
    return {key: value for key, name in CARD_KEYS.items() if (value := stated.get(name))}


def _text(value: str) -> str | None:
    """A text as YAML spells it; None of a list, of several lines, and of nothing."""
    if value.startswith('"'):
        try:
            text: Any = json.loads(value)
            return text if isinstance(text, str) and text.encode() else None
        except (ValueError, RecursionError):  # also of an escape such as \ud800, half a character
            return None
    if value.startswith("'") and value.endswith("'"):
        return value[1:-1].replace("''", "'")
    if value.startswith(tuple("[]{}|>&*!%@`#'")) or value in ("null", "~"):
        return None
    return value.split(" #")[0].rstrip()
