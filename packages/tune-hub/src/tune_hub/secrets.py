"""Looks for tokens, keys and passwords in files, before they are published.

Source: "pickletools" in Python's library, for how a pickle holds texts.
"""

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from tune_hub.errors import DiskError
from tune_hub.secret_kinds import DISTINCT_KINDS, SECRET_KINDS, SecretKind

_BLOCK_BYTES = 1 << 20
_LOOK_BYTES = 8192
"""Weights and images have a NUL in so many bytes; text has none."""
_LONGEST = 8192
"""Characters of the longest secret that is sure to be found across the end of a block."""
_CONTEXT = 512
"""Characters before a secret that tell what it is, as `api_key: `."""
_WEIGHTS = (".safetensors", ".gguf")
"""Suffixes of files that hold numbers and no text that a person typed."""
_MAX_BINARY_BYTES = 8 << 20
"""Of a file that is no text and is looked through: arguments of a training, not the weights."""
_MAX_PICKLED = 8192
_PICKLED = re.compile(rb"X(?=(?P<long>.{4}))|[\x8cU](?=(?P<short>.))", re.DOTALL)
"""Where a pickle may hold a text: a letter, and its length in four bytes or one."""


class Secret(msgspec.Struct, frozen=True):
    """Something that must not be published."""

    path: str
    """The file."""
    line: int
    """Line in it, from 1."""
    kind: str
    """What it looks like, as `Hugging Face token`."""
    shown: str
    """Its first four characters, to be recognised by."""


def find_secrets(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> tuple[Secret, ...]:
    """Look for tokens, keys and passwords in text files, whatever their names; in bounded memory.

    Small files that are no text, as a pickle of arguments, are looked through for what its own letters give
    away.

    Args:
        paths: A folder, of which all files are read; or a file; or several of them. Weights are passed over.

    Returns:
        What was found, by file and line.

    Raises:
        DiskError: A file cannot be read.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    return tuple(secret for path in given for file in _files(Path(path)) for secret in _in_file(file))


def redacted(text: str) -> str:
    """Return a text with `<redacted: kind>` in place of each secret."""
    parts: list[str] = []
    done = 0
    for start, end, kind in _spans(text):
        parts += [text[done:start], f"<redacted: {kind}>"]
        done = end
    return "".join([*parts, text[done:]])


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file():  # no pipe, which would be waited for, and no link to nowhere
                yield file


def _in_file(path: Path) -> Iterator[Secret]:
    try:
        with path.open("rb") as file:
            encoding = _encoding(file.read(_LOOK_BYTES))
            file.seek(0)
            if encoding is not None:
                yield from _in_text(file, encoding, str(path))
            elif path.suffix.lower() not in _WEIGHTS and os.fstat(file.fileno()).st_size <= _MAX_BINARY_BYTES:
                yield from _in_binary(file.read(), str(path))
    except OSError as error:
        raise DiskError(f"{path}: cannot be read to look for secrets: {error.strerror}") from None


def _encoding(head: bytes) -> str | None:
    """Return how a file's text is encoded, or None if it is no text."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the one begins as UTF-16 does
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what PowerShell writes
        return "utf-16"
    # What is not UTF-8 may be an older encoding, in which a token is spelled the same.
    if b"\0" not in head:
        return "utf-8"
    for low, high, encoding in ((head[::2], head[1::2], "utf-16-le"), (head[1::2], head[::2], "utf-16-be")):
        if b"\0" not in low and 2 * high.count(0) > len(high):  # without a mark, in Latin letters
            return encoding
    return None


def _in_binary(data: bytes, path: str) -> Iterator[Secret]:
    """Yield each secret once; also from texts whose letters have NULs between them, as UTF-16 and UTF-32."""
    seen: set[str] = set()
    for text in (data.decode("latin-1"), data.replace(b"\0", b"").decode("latin-1"), _pickled(data)):
        for start, end, kind in _spans(text, DISTINCT_KINDS):
            # What follows a text in a pickle may be a letter, so one secret has several ends.
            if (begin := text[start : min(end, start + 20)]) not in seen:
                seen.add(begin)
                yield Secret(path, 1, kind, f"{begin[:4]}...")


def _pickled(data: bytes) -> str:
    """Return what may be the texts of a pickle: letters beside them belong to them for no one else."""
    texts: list[bytes] = []
    for match in _PICKLED.finditer(data):
        size = int.from_bytes(match["long"] or match["short"] or b"", "little")
        if 16 <= size <= _MAX_PICKLED:
            start = match.end() + len(match["long"] or match["short"])
            texts.append(data[start : start + size])
    return b"\0".join(texts).decode("latin-1")


def _in_text(file: BinaryIO, encoding: str, path: str) -> Iterator[Secret]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    text, fresh, line, is_last = "", 0, 1, False
    while not is_last:
        data = file.read(_BLOCK_BYTES)
        is_last = not data
        text += decoder.decode(data, final=is_last)
        # A secret that begins in the last part is left to the next round, whose text has all of it.
        limit = done = len(text) if is_last else max(len(text) - _LONGEST, fresh)
        for start, end, kind in _spans(text):
            if fresh <= start < limit:
                yield Secret(path, line + text.count("\n", 0, start), kind, f"{text[start : start + 4]}...")
                done = max(done, end)
        cut = max(done - _CONTEXT, 0)
        line += text.count("\n", 0, cut)
        text, fresh = text[cut:], done - cut


def _spans(text: str, kinds: tuple[SecretKind, ...] = SECRET_KINDS) -> list[tuple[int, int, str]]:
    """Return start, end and kind of each secret in a text, in order; where two overlap, they are one."""
    # The one letter that would become two, so that places in one text were not those in the other.
    lowered = text.replace("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "I").lower()
    found = [
        (start, end, rank)
        for rank, kind in enumerate(kinds)
        for begin in kind.begins
        for start, end in _spans_of(kind, begin, text, lowered)
    ]
    joined: list[tuple[int, int, int]] = []
    for start, end, rank in sorted(found):
        if joined and start < joined[-1][1]:
            before = joined.pop()
            joined.append((before[0], max(end, before[1]), min(rank, before[2])))
        else:
            joined.append((start, end, rank))
    return [(start, end, kinds[rank].name) for start, end, rank in joined]


def _spans_of(kind: SecretKind, begin: str, text: str, lowered: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of the secrets of a kind whose match begins with a text."""
    group = "secret" if "secret" in kind.pattern.groupindex else 0
    place = lowered.find(begin)
    while place >= 0:
        match = kind.pattern.match(text, place)
        if match and kind.accepts(match[group]):
            yield match.span(group)
        place = lowered.find(begin, match.end() if match else place + 1)
