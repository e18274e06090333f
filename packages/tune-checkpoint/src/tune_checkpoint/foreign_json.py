"""JSON that others wrote: of bounded size, and of nothing but characters."""

import json
import re
from collections.abc import Callable
from typing import Any, cast

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError

MAX_ITEMS = 1 << 22
"""Values, which take more memory than they have bytes: those of 400,000 tensors."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""One half of a character beyond U+FFFF, which may stand without the other."""


def parsed_object(
    where: str, content: bytes | memoryview, hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> dict[str, Any]:
    """An object in JSON, of no more values than are counted by what separates them.

    Args:
        where: what it is, for messages: `config.json: this`, or `x.safetensors: the header`.
        content: the text.
        hook: makes an object of its pairs; a `ValueError` of it is told as an error of the text.

    Raises:
        CorruptFileError: it is no such object, or no character can be made of what is in a string.
        UnsupportedCheckpointError: it has too many values.
    """
    raw = bytes(content)
    num_items = sum(map(raw.count, (b",", b"[", b"{")))
    if num_items > MAX_ITEMS:
        raise UnsupportedCheckpointError(f"{where} has {num_items} values; at most {MAX_ITEMS} are read")
    try:
        text = raw.decode(json.detect_encoding(raw))  # json itself would let halves of characters pass
        value: Any = json.loads(text, object_pairs_hook=hook)
        is_of_characters = not _HALF.search(text) or _can_be_written(value)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{where} is not valid JSON: {error}") from error
    if not is_of_characters:
        raise CorruptFileError(
            f"{where} is not valid JSON: a string in it has an escape such as \\ud800, half a character"
        )
    if not isinstance(value, dict):
        raise CorruptFileError(f"{where} is not a JSON object")
    return cast("dict[str, Any]", value)


def _can_be_written(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
