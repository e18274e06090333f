"""The few kinds of YAML lines that `model_config.yaml` has, without a YAML library.

Source: YAML 1.1 as PyYAML's `yaml.dump` writes a dict: one `key: value` a line, a nested dict indented below
its key, a list as lines that begin with `- `.
"""

import re
from pathlib import Path

from msgspec import Struct

from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError

MAX_BYTES = 1_000_000

Scalar = None | bool | int | float | str

_LINE = re.compile(r"( *)([A-Za-z_][A-Za-z0-9_]*):(?: +(.*))?")
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,17})")
# A number that begins with its point has no sign in YAML 1.1: `-.5` is a text.
_FLOAT = re.compile(r"([-+]?\d+\.\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+")
_WORDS: dict[str, Scalar] = {"": None, "null": None, "~": None, "true": True, "false": False}


class FlatYaml(Struct, frozen=True):
    """What a file says."""

    path: Path
    values: dict[str, Scalar]
    """Key -> value."""
    tables: dict[str, dict[str, Scalar]]
    """Key -> the keys and values below it."""
    lists: set[str]
    """Keys that have a list, which is not read."""

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None or key in self.tables or key in self.lists


def read_flat_yaml(path: Path) -> FlatYaml:
    """Read keys with a single value, and those one level below.

    Raises:
        CheckpointNotFoundError: the file is not there.
        CorruptFileError: a line is none of those that are understood, or a key stands there twice.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except OSError as error:
        raise CheckpointNotFoundError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{path}: byte {error.start} is not UTF-8") from error
    if len(text) > MAX_BYTES:
        raise CorruptFileError(f"{path}: longer than {MAX_BYTES} bytes; it is to be a few lines of YAML")
    parsed = FlatYaml(path, {}, {}, set())
    parent = ""
    for number, line in enumerate(text.splitlines(), 1):
        content = line.split(" #")[0].rstrip() if "'" not in line and '"' not in line else line.rstrip()
        if not content or content.startswith(("#", "---")):
            continue
        parent = _take_line(parsed, content, parent, f"{path}: line {number}")
    return parsed


def _take_line(parsed: FlatYaml, line: str, parent: str, where: str) -> str:
    """Add what a line says, and give the key that lines below may belong to."""
    if line.lstrip(" ").startswith("- ") and parent:
        parsed.values.pop(parent, None)
        parsed.lists.add(parent)
        return parent
    match = _LINE.fullmatch(line)
    if match is None or (match[1] and not parent):
        raise CorruptFileError(f"{where}: {line[:60]!r} is not of the form `key: value`")
    indent, key, value = len(match[1]), match[2], match[3] or ""
    if not indent:
        if key in parsed.values or key in parsed.tables or key in parsed.lists:
            raise CorruptFileError(f"{where}: {key} stands there twice")
        parsed.values[key] = _scalar(value, where)
        return key if not value else ""
    if parent not in parsed.lists:
        parsed.values.pop(parent, None)
        table = parsed.tables.setdefault(parent, {})
        if key in table:
            raise CorruptFileError(f"{where}: {parent}.{key} stands there twice")
        table[key] = _scalar(value, where)
    return parent


def _scalar(text: str, where: str) -> Scalar:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text in ("{}", "[]"):
        return None
    if text[0] in "'\"":
        inner = text[1:-1]
        if len(text) < 2 or text[-1] != text[0] or "\\" in inner:
            raise CorruptFileError(f"{where}: {text[:60]!r} is a text that is not understood")
        return inner.replace("''", "'") if text[0] == "'" else inner
    if text[0] in "[{&*!|>%@`":
        raise CorruptFileError(f"{where}: {text[:60]!r} is not a single value")
    return text
