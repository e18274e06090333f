"""Records of a JSON or JSONL file, each with the place it came from, so that an error can name it."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tune_recipes.errors import UserError


class Record(NamedTuple):
    """One object of a data file."""

    fields: dict[str, Any]
    """Column to value, as the file has them."""
    where: str
    """`facts.jsonl:3` (the line), or `facts.json: record 3`; both count from 1."""


class Fingerprint(NamedTuple):
    """What tells whether a data file is still the one that a run began with."""

    sha256: str
    """Of the file's bytes, in hexadecimal."""
    num_records: int
    """Objects in the file."""


def read_records(path: Path | str) -> list[Record]:
    """Read a file of objects: a JSON array of them, or JSONL, one on each line.

    Which of the two is told by the first character, not by the file's name. Blank lines and a byte order mark
    are skipped.

    Args:
        path: The file, in UTF-8.

    Returns:
        The records, at least one.

    Raises:
        UserError: The file is missing, unreadable, empty, not JSON (with line and column), or not of objects.
    """
    return parse_records(_read_bytes(Path(path)), Path(path))


def parse_records(content: bytes, path: Path) -> list[Record]:
    """Read the records in a file's bytes; see `read_records`."""
    text = _decode(content, path)
    if not text.strip():
        raise UserError(
            f"{path}: is empty; expected a JSON array of objects, or one object on each line (JSONL)"
        )
    records = list(_array(text, path) if text.lstrip()[0] == "[" else _lines(text, path))
    if not records:
        raise UserError(f"{path}: holds no records")
    return records


def read_with_fingerprint(path: Path | str) -> tuple[list[Record], Fingerprint]:
    """Read records as `read_records` does, and the fingerprint of the file that they were read from."""
    content = _read_bytes(Path(path))
    records = parse_records(content, Path(path))
    return records, Fingerprint(hashlib.sha256(content).hexdigest(), len(records))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file (data.path)") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; data.path names one JSON or JSONL file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: is not UTF-8 text ({error.reason}); convert the file to UTF-8"
        ) from error


def _array(text: str, path: Path) -> Iterator[Record]:
    for number, value in enumerate(_parse(text, path, first_line=1), start=1):
        where = f"{path}: record {number}"
        yield Record(_object(value, where), where)


def _lines(text: str, path: Path) -> Iterator[Record]:
    # Not `splitlines`: U+2028 and the like may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield Record(_object(_parse(line, path, first_line=number), where), where)


def _parse(text: str, path: Path, first_line: int) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{first_line + error.lineno - 1}:{error.colno}"
        raise UserError(f"{where}: {error.msg}; {_layout_hint(path, text)}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nested thousands deep
        raise UserError(f"{path}:{first_line}: cannot be read as JSON: {error}") from error
    if "\\ud" in text.lower():
        _refuse_half_characters(value, f"{path}:{first_line}")
    return value


def _refuse_half_characters(value: Any, where: str) -> None:
    """Half of a surrogate pair alone is legal JSON and yet no text: no tokenizer takes it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise UserError(
            f"{where}: {half} is half of a character (an unpaired surrogate); remove it"
        ) from error


def _layout_hint(path: Path, text: str) -> str:
    if path.suffix == ".json" and text.lstrip().startswith("{"):
        return "expected a JSON array of objects: [{...}, {...}]"
    return (
        "expected one JSON object on each line"
        if not text.lstrip().startswith("[")
        else "the array is malformed"
    )


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = {list: "an array", str: "a string", type(None): "null", bool: "a boolean"}.get(
            type(value), "a number"
        )
        raise UserError(
            f'{where}: is {kind}; expected an object such as {{"instruction": ..., "output": ...}}'
        )
    return value
