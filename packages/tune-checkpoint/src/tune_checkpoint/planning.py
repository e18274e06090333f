"""What every planner needs: from source tensors to a planned tensor, and small files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard

from tune_checkpoint.dtypes import FLOATS
from tune_checkpoint.errors import CorruptFileError, reading
from tune_checkpoint.foreign_json import parsed_object
from tune_checkpoint.gguf.types import BLOCKS
from tune_checkpoint.plan import Cast, Dequantise, Op, SideFile, TensorPlan, TensorSlice

MAX_COUNT = 1 << 40
"""Of anything that a configuration counts."""
MAX_DIGITS = len(str(MAX_COUNT))
"""Of an id."""
MAX_SIDE_BYTES = 100_000_000
"""Of a file that is read as a whole."""


def planned(
    name: str,
    sources: Sequence[TensorSlice],
    dtype: str | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    axis: Literal[0, 1] = 0,
    ops: Sequence[Op] = (),
) -> TensorPlan:
    """Plan an output tensor.

    Args:
        name: its name in the output.
        sources: what it is put together from; all of one type.
        dtype: the type of floating-point weights (`BF16`); None keeps what is there, with F32 for quantised.
        shape: its shape; None takes it from the sources.
        axis: how the sources stand to each other, as in `TensorPlan`.
        ops: what is done to the values before they get their type.
    """
    done = list(ops)
    present = sources[0].dtype
    if present in BLOCKS:
        done.append(Dequantise())
        present = "F32"
    if dtype is not None and dtype != present and present in FLOATS:
        done.append(Cast(dtype))
        present = dtype
    return TensorPlan(name, present, shape or _joined(sources, axis), tuple(sources), axis, tuple(done))


def _joined(sources: Sequence[TensorSlice], axis: int) -> tuple[int, ...]:
    shape = list(sources[0].shape)
    if len(sources) > 1:
        shape[axis] = sum(source.shape[axis] for source in sources)
    return tuple(shape)


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Say whether a value that was read from JSON is an object."""
    return isinstance(value, dict)


def json_file(name: str, value: dict[str, Any]) -> SideFile:
    """A small file of JSON that people can read."""
    return SideFile(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def copied_file(path: Path) -> SideFile:
    """A small file as it stands, to be read when its turn has come.

    Raises:
        CorruptFileError: it is no small file.
        ReadFailedError: the system cannot read it.
    """
    with reading(path), path.open("rb"):  # what cannot be read is better told now than after the weights
        check_side_bytes(path)
    return SideFile(path.name, path=str(path))


def check_side_bytes(path: Path) -> None:
    """Refuse a file that is too large to be read as a whole.

    Raises:
        CorruptFileError: it has more than `MAX_SIDE_BYTES`.
    """
    if (size := path.stat().st_size) > MAX_SIDE_BYTES:
        raise CorruptFileError(
            f"{path}: has {size} bytes; a file beside the weights is read up to {MAX_SIDE_BYTES}: download "
            "or copy it again"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file, or nothing where there is none.

    Raises:
        CorruptFileError: it is no JSON object, or too large for one.
        UnsupportedCheckpointError: it has too many values.
        ReadFailedError: the system cannot read it.
    """
    if not path.is_file():
        return {}
    return parsed_object(f"{path}: this", copied_file(path).content)


def added_ids(described: Mapping[str, Any]) -> list[int]:
    """Ids of the tokens that `tokenizer_config.json` lists; an absurd one becomes `MAX_COUNT`.

    Args:
        described: what is in it.
    """
    decoder: Any = described.get("added_tokens_decoder")
    keys = [key for key in decoder if key.isdecimal()] if is_object(decoder) else []
    return [int(key) if len(key) <= MAX_DIGITS else MAX_COUNT for key in keys]


def positive_count(where: Path | str, values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number above zero of a configuration.

    Args:
        where: the file, for messages.
        values: what it holds.
        key: of the number.
        default: what stands for it where it is missing or null; None demands it.

    Raises:
        CorruptFileError: it is something else, or larger than anything that is counted.
    """
    value = values.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < MAX_COUNT:
        raise CorruptFileError(f"{where}: {key} is {value!r}; it is to be a positive whole number")
    return value
