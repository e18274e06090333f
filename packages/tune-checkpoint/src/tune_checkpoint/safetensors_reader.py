"""The header of a safetensors file, checked before anything is used.

Source: "Format" in the README of huggingface/safetensors: 8 bytes with the header's length (little-endian),
the header (JSON: name -> dtype, shape, data_offsets), then the data.
"""

import json
from math import prod
from pathlib import Path
from typing import Any, TypeGuard, cast

from tune_checkpoint.dtypes import ITEM_BYTES
from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.foreign_json import parsed_object
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import MAX_DIMS, TensorSlice
from tune_checkpoint.planning import is_object

MAX_HEADER_BYTES = 100_000_000
"""As the safetensors library has it: a longer header is an attack on the reader's memory."""
MAX_COUNT = (1 << 63) - 1
"""Of a dimension or an offset."""
MAX_SHOWN = 200
"""Characters of a value in a message."""


def read_safetensors_header(file: MappedFile) -> tuple[TensorSlice, ...]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises:
        CorruptFileError: the header is malformed, or a tensor lies outside the file or over another.
        UnsupportedCheckpointError: a tensor's type is unknown, or the header larger than any.
    """
    header, data_start = _parse(file)
    header.pop("__metadata__", None)
    tensors = [_tensor(file, name, entry, data_start) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_layout(file, tensors, data_start)
    return tuple(tensors)


def _parse(file: MappedFile) -> tuple[dict[str, Any], int]:
    """The header and the offset of the data."""
    length = int.from_bytes(file.read(0, 8, "the header's length"), "little")
    if length > MAX_HEADER_BYTES:
        raise CorruptFileError(
            f"{file.path}: a header of {length} bytes is announced, more than {MAX_HEADER_BYTES}; "
            "this is not a safetensors file, or it is damaged"
        )
    header = file.read(8, length, "the header")
    return parsed_object(f"{file.path}: the header at byte 8", header, _unique), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refusing a key that stands twice: which of the two holds would depend on the reader."""
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name[:MAX_SHOWN]!r} stands there twice")
        result[name] = value
    return result


def _tensor(file: MappedFile, name: str, entry: Any, data_start: int) -> TensorSlice:
    where = f"{file.path}: tensor {name[:MAX_SHOWN]!r}"
    if not is_object(entry) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CorruptFileError(f"{where}: the header does not give dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        known = ", ".join(ITEM_BYTES)
        raise UnsupportedCheckpointError(f"{where}: type {_shown(dtype)} is not one of {known}")
    if not _are_counts(shape, MAX_DIMS) or not _are_counts(offsets, 2) or len(offsets) != 2:
        raise CorruptFileError(
            f"{where}: shape {_shown(shape)} or data_offsets {_shown(offsets)} are not counts, of which a "
            f"shape may have {MAX_DIMS}"
        )
    nbytes = offsets[1] - offsets[0]
    expected = prod(shape) * ITEM_BYTES[dtype]
    if nbytes != expected:
        raise CorruptFileError(
            f"{where}: shape {shape} of {dtype} takes {expected} bytes, "
            f"but data_offsets {offsets} span {nbytes}"
        )
    file.read(data_start + offsets[0], nbytes, f"tensor {name[:MAX_SHOWN]!r}")
    return TensorSlice(str(file.path), name, dtype, tuple(shape), data_start + offsets[0], nbytes)


def _are_counts(values: Any, most: int) -> TypeGuard[list[int]]:
    """Whether it is a list of `most` counts, or fewer."""
    if not isinstance(values, list) or len(values := cast("list[Any]", values)) > most:
        return False
    return all(type(value) is int and 0 <= value <= MAX_COUNT for value in values)


def _shown(value: Any) -> str:
    """A value of the header, as JSON and cut, which is short work however large it is."""
    text = ""
    for part in json.JSONEncoder().iterencode(value):
        text += part
        if len(text) > MAX_SHOWN:
            return f"{text[:MAX_SHOWN]}..."
    return text


def _check_layout(file: MappedFile, tensors: list[TensorSlice], data_start: int) -> None:
    """The tensors fill the data without gap or overlap, as the format demands."""
    end, previous = data_start, "the header"
    for tensor in tensors:
        if tensor.offset != end:
            relation = "overlaps" if tensor.offset < end else "leaves a gap after"
            raise CorruptFileError(
                f"{file.path}: tensor {tensor.name!r} at byte {tensor.offset} {relation} {previous}, "
                f"which ends at byte {end}"
            )
        end, previous = tensor.offset + tensor.nbytes, f"tensor {tensor.name!r}"
    if end != file.size:
        raise CorruptFileError(f"{file.path}: {file.size - end} bytes after {previous} belong to no tensor")


def read_index(path: Path) -> dict[str, str]:
    """The `weight_map` of a `model.safetensors.index.json`: tensor name -> file name beside it.

    Raises:
        CheckpointNotFoundError: it cannot be read.
        CorruptFileError: it is not such an index, or a file name leads out of the folder.
        UnsupportedCheckpointError: it is larger than any.
    """
    weight_map = parsed_object(f"{path}: this index", MappedFile(path).view, _unique).get("weight_map")
    if not is_object(weight_map) or not weight_map:
        raise CorruptFileError(
            f"{path}: not a checkpoint index: weight_map is not an object that names tensors"
        )
    for name, file_name in weight_map.items():
        if not isinstance(file_name, str) or not _stays_inside(file_name):
            raise CorruptFileError(
                f"{path}: tensor {name!r} is said to be in {file_name!r}, not a file name in this folder"
            )
    return weight_map


def _stays_inside(file_name: str) -> bool:
    is_plain = file_name not in ("", ".", "..") and not any(char in file_name for char in "/\\\0")
    return is_plain and not file_name.startswith("~")
