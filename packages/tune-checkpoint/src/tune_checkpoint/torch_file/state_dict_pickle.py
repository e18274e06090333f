"""The pickle of a state dict, as bytes: a plain dict of tensors, each with a storage of its own.

A tensor may have further names, which refer to the same storage, as tied weights do.

Source: pickletools.py of the Python standard library, protocol 2; `_reduce_ex_internal` in torch/_tensor.py
of PyTorch 2.15 for which call rebuilds a tensor of which type.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod

from tune_checkpoint.dtypes import ITEM_BYTES
from tune_checkpoint.torch_file.values import DTYPES, STORAGE_DTYPES

TensorSpec = tuple[str, str, tuple[int, ...]]
"""Name, type as safetensors spells it, and shape."""

_TORCH_NAMES = {spelling: name for name, (spelling, _) in DTYPES.items()}
_STORAGE_OF = {name: storage for storage, name in STORAGE_DTYPES.items()}
_TUPLES = (b")", b"\x85", b"\x86", b"\x87")


def pickled_state_dict(tensors: Sequence[TensorSpec], also: Mapping[str, str] | None = None) -> bytes:
    """Pickle a state dict whose tensors have the storages `0`, `1`, ... in turn.

    Args:
        tensors: name, type and shape of each.
        also: further name -> name of the tensor that it means.
    """
    emitter = _Emitter()
    emitter.add(b"\x80\x02}(")
    for index, (name, dtype, shape) in enumerate(tensors):
        emitter.text(name)
        emitter.tensor(str(index), dtype, shape)
    indices = {name: index for index, (name, _, _) in enumerate(tensors)}
    for name, meant in (also or {}).items():
        index = indices[meant]
        emitter.text(name)
        emitter.tensor(str(index), *tensors[index][1:])
    emitter.add(b"u.")
    return b"".join(emitter.parts)


class _Emitter:
    """Collects opcodes. What comes again refers to its first time."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._memo: dict[bytes, int] = {}

    def add(self, code: bytes) -> None:
        self.parts.append(code)

    def add_once(self, code: bytes) -> None:
        """Add what pushes one value, or refer to it if it has been added before."""
        if code in self._memo:
            self.add(bytes((ord("h"), self._memo[code])))
        else:
            self._memo[code] = len(self._memo)
            self.add(code + bytes((ord("q"), self._memo[code])))

    def text(self, text: str) -> None:
        self.add(_text(text))

    def tensor(self, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        name = _TORCH_NAMES[dtype]
        storage = _STORAGE_OF.get(name)
        numel = prod(shape)
        self.add_once(_global("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3"))
        self.add(b"((")
        self.add_once(_text("storage"))
        if storage:
            self.add_once(_global("torch", storage))
        else:  # a type that is younger than storages with a type
            self.add_once(_global("torch.storage", "UntypedStorage"))
            numel *= ITEM_BYTES[dtype]
        self.text(key)
        self.add_once(_text("cpu"))
        self.add(_integer(numel) + b"tQK\x00" + _integers(shape) + _integers(_strides(shape)) + b"\x89")
        self.add_once(_global("collections", "OrderedDict"))
        self.add(b")R")
        if not storage:
            self.add_once(_global("torch", name))
        self.add(b"tR")


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of elements in C order, as torch has them where a dimension is empty."""
    steps = accumulate((max(size, 1) for size in reversed(shape[1:])), int.__mul__, initial=1)
    return tuple(steps)[::-1] if shape else ()


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _integers(values: tuple[int, ...]) -> bytes:
    items = b"".join(map(_integer, values))
    return items + _TUPLES[len(values)] if len(values) < len(_TUPLES) else b"(" + items + b"t"


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return b"K" + value.to_bytes(1, "little")
    if value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if value < 1 << 31:
        return b"J" + value.to_bytes(4, "little")
    return b"\x8a\x08" + value.to_bytes(8, "little")
