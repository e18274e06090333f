"""A model's name and licence: in GGUF metadata, and in the block of YAML at the head of a README.md.

Source: "Model card metadata" in the documentation of the Hugging Face Hub; `Metadata` of the `gguf` package
for which of its keys become which of GGUF's.
"""

import json
import re
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


UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON leaves as it is, and YAML takes for the end of a line or refuses.

Source: YAML 1.1, sections 5.1 and 5.4; what is beyond U+FFFF it takes, and would not take JSON's two halves.
"""


def card_files(metadata: Metadata) -> list[SideFile]:
    """A model card, if the file says something that belongs there."""
    stated = {name: metadata.text(key) for key, name in CARD_KEYS.items()}
    lines = [f"{name}: {_quoted(value)}" for name, value in stated.items() if value]
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


def _quoted(value: str) -> str:
    """A text as both JSON and YAML spell it."""
    quoted = json.dumps(value, ensure_ascii=False)
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


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
