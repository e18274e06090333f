"""A file for `torch.load`, written tensor by tensor."""

import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from tune_checkpoint.safetensors_writer import Buffer, chunks_of
from tune_checkpoint.torch_file.layout import torch_layout
from tune_checkpoint.torch_file.state_dict_pickle import TensorSpec


class TorchWriter:
    """Write one file that `torch.load` reads as a dict of tensors, holding no more than the chunk at hand.

        with TorchWriter(path, [("a", "F32", (2, 3)), ("b", "BF16", (4,))]) as writer:
            writer.write("a", a_bytes)
            writer.write("b", [first_chunk, second_chunk])

    Until the block ends without an exception nothing in the file says where the tensors are. Then it is
    synced to the disk; an exception removes it.

    Args:
        path: the file to make; one that stands there is overwritten.
        tensors: name, type (as safetensors spells it) and shape of each, in the order in which they will be
            written.
    """

    def __init__(self, path: Path | str, tensors: Sequence[TensorSpec]) -> None:
        self._path = Path(path)
        self._layout = torch_layout(tensors)
        self._names = [name for name, _, _ in tensors]
        self._offsets = self._layout.offsets
        self._sizes = [entry.size for entry in self._layout.entries if entry.content is None]
        self._crcs: list[int] = []
        self._file = self._path.open("wb")

    def offsets(self) -> dict[str, int]:
        """Where each tensor's bytes stand in the file."""
        return dict(zip(self._names, self._offsets, strict=True))

    def write(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Write the bytes of the next tensor.

        Args:
            name: its name, which must be the next of the announced ones.
            data: its bytes (little-endian, C order), whole or in chunks.

        Raises:
            ValueError: another tensor is due, or the bytes are more or fewer than its type and shape take.
        """
        index = len(self._crcs)
        due = self._names[index] if index < len(self._names) else None
        if name != due:
            raise ValueError(
                f"{self._path}: {name!r} was written when {due or 'no further tensor'!r} was due"
            )
        self._file.seek(self._offsets[index])
        written = crc = 0
        for chunk in chunks_of(data):
            written += self._file.write(chunk)
            crc = zlib.crc32(chunk, crc)
        if written != self._sizes[index]:
            raise ValueError(
                f"{self._path}: tensor {name!r} takes {self._sizes[index]} bytes, but {written} were given"
            )
        self._crcs.append(crc)

    def close(self) -> None:
        """Write what stands around the tensors, and sync the finished file to the disk.

        Raises:
            ValueError: a tensor was announced and not written.
        """
        if len(self._crcs) < len(self._names):
            due = self._names[len(self._crcs)]
            raise ValueError(f"{self._path}: tensor {due!r} was announced and not written")
        for offset, content in self._layout.pieces(self._crcs):
            self._file.seek(offset)
            self._file.write(content)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> "TorchWriter":
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
