"""The fields of a protobuf message, every length and number checked against the bytes that are there.

Source: "Encoding" in the documentation of Protocol Buffers: a message is a row of fields, each a tag (number
and kind in one variable-length integer) and a value, whose length the kind tells.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tune_checkpoint.errors import CorruptFileError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
KINDS = {VARINT: "a whole number", FIXED64: "64 bits", LENGTH: "bytes with their length", FIXED32: "32 bits"}
MAX_VARINT_BYTES = 10
"""Of seven bits each: enough for 64 bits, and no encoder writes more."""


class Field(Struct, frozen=True):
    """A field as it lies in the file; the value's bytes are from `start` to `end`."""

    number: int
    kind: int
    start: int
    end: int
    value: int
    """Of a VARINT; 0 for the other kinds."""


class Message:
    """Part of a file that holds a protobuf message.

    Args:
        path: the file, for messages.
        data: all its bytes.
        start: where the message begins.
        end: where it ends; no field may pass it.
    """

    def __init__(self, path: Path, data: memoryview, start: int = 0, end: int | None = None) -> None:
        self.path = path
        self._data = data
        self._start = start
        self._end = len(data) if end is None else end

    def fields(self) -> Iterator[Field]:
        """The fields, in the order of the file.

        Raises:
            CorruptFileError: a tag, number or length breaks the format or passes the end of the message.
        """
        offset = self._start
        while offset < self._end:
            tag, start = self._varint(offset)
            number, kind = tag >> 3, tag & 7
            if number == 0 or kind not in KINDS:
                raise self._error(offset, f"the tag {tag} is of no kind that is known")
            value, end = 0, start
            if kind == VARINT:
                value, end = self._varint(start)
            elif kind == LENGTH:
                length, start = self._varint(start)
                end = start + length
            else:
                end = start + (8 if kind == FIXED64 else 4)
            if end > self._end:
                raise self._error(
                    start,
                    f"field {number} takes {end - start} bytes, but its message ends at byte {self._end}",
                )
            yield Field(number, kind, start, end, value)
            offset = end

    def message(self, field: Field, what: str) -> "Message":
        """The message inside a field."""
        self._check_kind(field, LENGTH, what)
        return Message(self.path, self._data, field.start, field.end)

    def octets(self, field: Field, what: str) -> bytes:
        """A field's bytes."""
        self._check_kind(field, LENGTH, what)
        return bytes(self._data[field.start : field.end])

    def text(self, field: Field, what: str) -> str:
        """A field's bytes as UTF-8."""
        octets = self.octets(field, what)
        try:
            return str(octets, "utf-8")
        except UnicodeDecodeError as error:
            raise self._error(field.start, f"{what} is not UTF-8: {error.reason}") from error

    def integer(self, field: Field, what: str) -> int:
        """A field's whole number, of 64 bits without sign."""
        self._check_kind(field, VARINT, what)
        return field.value

    def float32(self, field: Field, what: str) -> float:
        """A field's 32 bits as a float."""
        self._check_kind(field, FIXED32, what)
        return struct.unpack_from("<f", self._data, field.start)[0]

    def _varint(self, offset: int) -> tuple[int, int]:
        """The variable-length integer at `offset`, and where it ends."""
        value = 0
        for place in range(offset, min(offset + MAX_VARINT_BYTES, self._end)):
            byte = self._data[place]
            value |= (byte & 0x7F) << (7 * (place - offset))
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
        raise self._error(offset, "a number does not end where it could")

    def _check_kind(self, field: Field, kind: int, what: str) -> None:
        if field.kind != kind:
            raise self._error(field.start, f"{what} is stored as {KINDS[field.kind]}, not {KINDS[kind]}")

    def _error(self, offset: int, what: str) -> CorruptFileError:
        return CorruptFileError(
            f"{self.path}: at byte {offset}: {what}; it is damaged: download or copy it again"
        )
