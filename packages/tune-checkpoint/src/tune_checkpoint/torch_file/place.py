"""From a tensor of the pickle to its bytes in the file, every number checked on the way."""

from collections.abc import Mapping
from math import prod
from typing import Any, NoReturn, TypeGuard

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import MAX_DIMS, TensorSlice
from tune_checkpoint.torch_file.allowlist import is_dict, is_tuple
from tune_checkpoint.torch_file.values import DTYPES, Span, Storage, Tensor, shown


def place(file: MappedFile, name: str, tensor: Tensor, spans: Mapping[str, Span]) -> TensorSlice:
    """Where the elements of a tensor are.

    Args:
        file: the file.
        name: the tensor's name in the state dict.
        tensor: as the pickle describes it.
        spans: the bytes of each storage, by key; they lie in the file and apart.

    Raises:
        CorruptFileError: it lies outside its storage, or its shape or strides are impossible.
        UnsupportedCheckpointError: its element type cannot be written anywhere else.
    """
    dtype, item = DTYPES.get(tensor.dtype, (None, 0))
    if dtype is None:
        known = ", ".join(name for name, (spelling, _) in DTYPES.items() if spelling)
        _refuse(file, name, f"its type {tensor.dtype} is not one of {known}")
    if tensor.flags is not None and (not is_dict(tensor.flags) or any(tensor.flags.values())):
        _refuse(file, name, "its values are not what is stored, but conjugates or negatives")
    shape, strides, first = tensor.shape, tensor.strides, tensor.offset
    if not (
        _are_counts(shape) and _are_counts(strides) and _are_counts((first,)) and len(shape) == len(strides)
    ):
        _break(file, name, "its shape, strides or offset are not counts")
    span = spans.get(tensor.storage.key)
    if span is None:
        _break(file, name, f"its storage {shown(tensor.storage.key)} is not in the file")
    start, available = _meant(file, name, tensor.storage, span)
    nbytes = prod(shape) * item
    if not nbytes:
        return TensorSlice(str(file.path), name, dtype, shape, start, 0)
    last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if (last + 1) * item > available:
        _break(file, name, f"its last element {last} is outside storage {shown(tensor.storage.key)}")
    if nbytes > file.size:
        _refuse(
            file,
            name,
            f"its shape {list(shape)} stands for {nbytes} bytes, more than the file has, as it repeats the "
            "same elements (an expanded tensor)",
            "save it with `.contiguous()`",
        )
    in_order, offset = _is_contiguous(shape, strides), start + first * item
    is_whole = in_order and (offset, nbytes) == (span.offset, span.size)
    return TensorSlice(
        str(file.path),
        name,
        dtype,
        shape,
        offset,
        nbytes,
        strides=None if in_order else strides,
        crc32=span.crc32 if is_whole else None,
    )


def _meant(file: MappedFile, name: str, storage: Storage, span: Span) -> tuple[int, int]:
    """Offset in the file and length in bytes of a storage, or of the part of it that is meant."""
    item = DTYPES[storage.dtype][1]
    if storage.numel != span.size // item:
        _break(
            file,
            name,
            f"storage {shown(storage.key)} has {span.size} bytes, not {storage.numel} times {item}",
        )
    first, numel = storage.view or (0, storage.numel)
    return span.offset + first * item, numel * item


def _are_counts(values: Any) -> TypeGuard[tuple[int, ...]]:
    if not is_tuple(values) or len(values) > MAX_DIMS:
        return False
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements lie in C order without gaps; how far a dimension of one steps does not matter."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _break(file: MappedFile, name: str, what: str) -> NoReturn:
    raise CorruptFileError(
        f"{file.path}: tensor {shown(name)}: {what}; the file is damaged or made to deceive"
    )


def _refuse(
    file: MappedFile, name: str, what: str, advice: str = "convert it with the program that wrote it"
) -> NoReturn:
    raise UnsupportedCheckpointError(f"{file.path}: tensor {shown(name)}: {what}; {advice}")
