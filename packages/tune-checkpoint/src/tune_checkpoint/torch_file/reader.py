"""The tensors of a file that `torch.save` wrote."""

from collections.abc import Mapping
from typing import Any

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.torch_file.legacy import is_legacy, read_legacy
from tune_checkpoint.torch_file.machine import MAX_PICKLE_BYTES
from tune_checkpoint.torch_file.place import place
from tune_checkpoint.torch_file.state_dict import named_tensors
from tune_checkpoint.torch_file.unpickler import unpickle
from tune_checkpoint.torch_file.values import Span
from tune_checkpoint.torch_file.zip_entries import read_entries

PICKLE_NAME = "data.pkl"
STORAGE_FOLDER = "data/"


def read_torch_file(file: MappedFile) -> tuple[TensorSlice, ...]:
    """The tensors of a state dict, in its order; nothing but tensors is looked at, and nothing is run.

    Raises:
        CorruptFileError: the file breaks its format; the message names the place.
        UnsupportedCheckpointError: it needs more than tensors to be read, holds none, or one of a type that
            safetensors does not know.
    """
    value, spans = read_legacy(file) if is_legacy(file) else _read_zip(file)
    tensors = named_tensors(file.path, value)
    return tuple(place(file, name, tensor, spans) for name, tensor in tensors.items())


def _read_zip(file: MappedFile) -> tuple[Any, Mapping[str, Span]]:
    """The pickled object, and the bytes of its storages."""
    entries = read_entries(file)
    if PICKLE_NAME not in entries:
        raise UnsupportedCheckpointError(
            f"{file.path}: a zip file without {PICKLE_NAME}: torch.save did not write it"
        )
    _check_byte_order(file, entries)
    entry = entries[PICKLE_NAME]
    if entry.size > MAX_PICKLE_BYTES:
        raise UnsupportedCheckpointError(
            f"{file.path}: a pickle of {entry.size} bytes at byte {entry.offset}; "
            f"at most {MAX_PICKLE_BYTES} are read"
        )
    pickled = unpickle(file, entry.offset, entry.offset + entry.size)
    if pickled.end != entry.offset + entry.size:
        raise CorruptFileError(
            f"{file.path}: the pickle ends at byte {pickled.end}, before its zip entry does"
        )
    return pickled.value, {
        name.removeprefix(STORAGE_FOLDER): entry
        for name, entry in entries.items()
        if name.startswith(STORAGE_FOLDER)
    }


def _check_byte_order(file: MappedFile, entries: Mapping[str, Span]) -> None:
    entry = entries.get("byteorder")  # torch before 2.1 wrote none
    order = bytes(file.view[entry.offset : entry.offset + min(entry.size, 8)]) if entry else b"little"
    if order != b"little":
        raise UnsupportedCheckpointError(
            f"{file.path}: byteorder at byte {entry.offset if entry else 0} is {order!r}; only little-endian "
            "files can be read: save it again on another machine"
        )
