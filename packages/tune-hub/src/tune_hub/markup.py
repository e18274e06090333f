"""Writes YAML and Markdown so that no value, whatever it holds, is taken for markup."""

import json
import re
from collections.abc import Iterable, Sequence

# Read as text by every YAML reader; `no`, `null` and numbers are not.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def yaml_header(values: dict[str, str | Sequence[str] | None]) -> str:
    """Return the block of YAML at the head of a README.md; what is None or empty is left out."""
    lines = ["---"]
    for key, value in values.items():
        if isinstance(value, str):
            lines.append(f"{key}: {yaml_text(value)}")
        elif value:
            lines += [f"{key}:", *(f"- {yaml_text(item)}" for item in value)]
    return "\n".join([*lines, "---", ""])


def yaml_text(text: str) -> str:
    """Return a text as YAML spells it: plain where that is safe, else as JSON, which YAML reads alike."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    quoted = json.dumps(_LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text), ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)


def plain(text: str) -> str:
    """Return a text on one line of Markdown that shows as it is."""
    escaped = re.sub(r"([\\`*\[\]<>|#~]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))", r"\\\1", one_line(text))
    return re.sub(r"^([-+]|\d+[.)](?=\s))", r"\\\1", escaped)


def code(text: str) -> str:
    """Return a text as code within a line of Markdown, also in the cell of a table."""
    text = one_line(text).replace("|", "\\|")
    fence = _fence(text, shortest=1)
    space = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{space}{text}{space}{fence}"


def code_block(language: str, text: str) -> str:
    """Return lines of code as a block of Markdown."""
    fence = _fence(text, shortest=3)
    return f"{fence}{language}\n{text}\n{fence}"


def table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of two columns; the cells are Markdown."""
    return "\n".join(["| {} | {} |".format(*head), "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def one_line(text: str) -> str:
    """Return a text with each run of line breaks, tabs and signs that no one sees as one space."""
    return re.sub(r"\s+", " ", "".join(sign if sign.isprintable() else " " for sign in text)).strip()


def _fence(text: str, shortest: int) -> str:
    """Return more backticks than stand together anywhere in a text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(shortest, longest + 1)
