"""A safetensors file, written tensor by tensor."""

import json
import os
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from types import TracebackType

from tune_checkpoint.dtypes import ITEM_BYTES

Buffer = bytes | bytearray | memoryview


class SafetensorsWriter:
    """Write one safetensors file in a single pass, holding no more than the chunk at hand.

    The header is known from the start, so the tensors' bytes follow in the announced order:

        with SafetensorsWriter(path, [("a", "F32", (2, 3)), ("b", "BF16", (4,))]) as writer:
            writer.write("a", a_bytes)
            writer.write("b", [first_chunk, second_chunk])

    Leaving the block syncs the file to the disk. An exception inside it removes the file.

    Args:
        path: the file to make; one that stands there is overwritten.
        tensors: name, type (as safetensors spells it) and shape of each, in the order in which they will be
            written. Types of more bytes come first if every tensor is to be aligned.
    """

    def __init__(self, path: Path | str, tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> None:
        self._path = Path(path)
        self._sizes = [(name, prod(shape) * ITEM_BYTES[dtype]) for name, dtype, shape in tensors]
        if len(dict(self._sizes)) != len(self._sizes):
            raise ValueError(f"{self._path}: two tensors have the same name")
        self._next = 0
        self._file = self._path.open("wb")
        self._file.write(safetensors_header(tensors))

    def write(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Write the bytes of the next tensor.

        Args:
            name: its name, which must be the next of the announced ones.
            data: its bytes, whole or in chunks.

        Raises:
            ValueError: another tensor is due, or the bytes are more or fewer than its type and shape take.
        """
        if self._next == len(self._sizes) or self._sizes[self._next][0] != name:
            due = self._sizes[self._next][0] if self._next < len(self._sizes) else "no further tensor"
            raise ValueError(f"{self._path}: {name!r} was written when {due!r} was due")
        expected = self._sizes[self._next][1]
        written = sum(self._file.write(chunk) for chunk in chunks_of(data))
        if written != expected:
            raise ValueError(
                f"{self._path}: tensor {name!r} takes {expected} bytes, but {written} were given"
            )
        self._next += 1

    def close(self) -> None:
        """Sync the finished file to the disk.

        Raises:
            ValueError: a tensor was announced and not written.
        """
        if self._next < len(self._sizes):
            raise ValueError(
                f"{self._path}: tensor {self._sizes[self._next][0]!r} was announced and not written"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> "SafetensorsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            if not self._file.closed:
                self._discard()

    def _discard(self) -> None:
        try:
            self._file.close()
        finally:
            self._path.unlink(missing_ok=True)


def chunks_of(data: Buffer | Iterable[Buffer]) -> Iterable[memoryview]:
    """The chunks of a tensor's bytes, flat."""
    # bytes are themselves iterable, as numbers: ask for them first.
    chunks = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    for chunk in chunks:
        view = memoryview(chunk)
        yield view.cast("B") if view.nbytes else memoryview(b"")


def safetensors_header(tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """What stands before the data: the header and its length. The tensors' bytes follow one behind the other.

    Args:
        tensors: name, type and shape of each, in the order of their bytes.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    return len(text).to_bytes(8, "little") + text
