"""Files as torch.save wrote them before version 1.6, and does on demand: five pickles, then the elements.

Source: `_legacy_save` and `_legacy_load` in torch/serialization.py of PyTorch 2.15. A magic number, a
protocol version, a dict about the system, the object, a list of the storages' keys; then in the order of that
list the number of elements (8 bytes, little-endian) and the elements of each.
"""

from typing import Any, NoReturn

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.torch_file.allowlist import is_dict, is_list
from tune_checkpoint.torch_file.unpickler import Pickled, unpickle
from tune_checkpoint.torch_file.values import DTYPES, Span, Storage, shown

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
MAGIC_PICKLED = b"\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little") + b"."
"""How every protocol since 2 ends the pickle of it: LONG1, its length, its bytes, STOP."""
PROTOCOL_VERSION = 1001


def is_legacy(file: MappedFile) -> bool:
    """Whether a file begins with the magic number's pickle."""
    start = bytes(file.view[:32])
    return start.startswith(b"\x80") and MAGIC_PICKLED in start


def read_legacy(file: MappedFile) -> tuple[Any, dict[str, Span]]:
    """The object of a file, and where its storages are.

    Raises:
        CorruptFileError: it breaks the format.
        UnsupportedCheckpointError: its pickle is refused, or its bytes are in another order.
    """
    at = bytes(file.view[:32]).index(MAGIC_PICKLED) + len(MAGIC_PICKLED)
    version = unpickle(file, at, file.size)
    if version.value != PROTOCOL_VERSION:
        raise UnsupportedCheckpointError(
            f"{file.path}: this old format of torch.save has version 1001, but the file says "
            f"{shown(version.value)} at byte {at}"
        )
    system = unpickle(file, version.end, file.size)
    if not is_dict(system.value) or system.value.get("little_endian") is not True:
        raise UnsupportedCheckpointError(
            f"{file.path}: written on a big-endian machine; save it again on another one"
        )
    pickled = unpickle(file, system.end, file.size)
    keys = unpickle(file, pickled.end, file.size)
    return pickled.value, _find_storages(file, pickled, keys)


def _find_storages(file: MappedFile, pickled: Pickled, keys: Pickled) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    at = keys.end
    for key in keys.value if is_list(keys.value) else ():
        storage = pickled.storages.get(key) if type(key) is str else None
        if storage is None or key in spans:
            _break(file, at, f"storage {shown(key)} belongs to no tensor, or stands there twice")
        spans[key] = _span(file, at, storage)
        at = spans[key].offset + spans[key].size
    if at != file.size:
        _break(file, at, f"{file.size - at} bytes after the last storage belong to nothing")
    return spans


def _span(file: MappedFile, at: int, storage: Storage) -> Span:
    what = f"storage {shown(storage.key)}"
    numel = int.from_bytes(file.read(at, 8, what), "little")
    if numel != storage.numel:
        _break(file, at, f"{what} has {numel} elements there and {storage.numel} in the pickle")
    size = numel * DTYPES[storage.dtype][1]
    file.read(at + 8, size, what)
    return Span(at + 8, size)


def _break(file: MappedFile, at: int, what: str) -> NoReturn:
    raise CorruptFileError(f"{file.path}: at byte {at}: {what}; it is damaged: download or copy it again")
