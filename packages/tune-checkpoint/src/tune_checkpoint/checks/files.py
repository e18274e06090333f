"""Whether every file can be read, and every tensor is where the index says."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from tune_checkpoint.checkpoint import BIN_INDEX_NAME, BIN_NAME, INDEX_NAME, WEIGHTS_NAME, read_tensors
from tune_checkpoint.checks.problems import Problem, problem, problem_of
from tune_checkpoint.errors import CheckpointError
from tune_checkpoint.listing import AnyKind, distinct, weight_files
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.planning import is_object, read_json
from tune_checkpoint.safetensors_reader import read_index

SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")


class Found(Struct, frozen=True):
    """The tensors that could be found, and what was wrong."""

    tensors: tuple[TensorSlice, ...]
    problems: tuple[Problem, ...]
    is_whole: bool
    """Every tensor that there should be was found."""


def check_files(path: Path, kind: AnyKind) -> Found:
    """Read every header, and hold the index against them.

    Args:
        path: a file or a folder.
        kind: what it is.
    """
    if not path.is_dir() or kind == "gguf":
        return _read([path])
    if kind not in ("hf", "torch"):
        return _read(weight_files(path, kind))
    for weights, index in ((WEIGHTS_NAME, INDEX_NAME), (BIN_NAME, BIN_INDEX_NAME)):
        if (path / weights).exists():
            found = _read([path / weights])
            strays = _strays(path, {weights}, Path(weights).suffix)
            return Found(found.tensors, (*found.problems, *strays), found.is_whole)
        if (path / index).exists():
            return _check_index(path, path / index)
    return _without_index(path)


def shards_in(folder: Path) -> list[Path]:
    """Files that are named as one of several."""
    return sorted(entry for entry in folder.iterdir() if SHARD.fullmatch(entry.name))


def _read(files: Iterable[Path]) -> Found:
    tensors: list[TensorSlice] = []
    problems: list[Problem] = []
    for file in files:
        try:
            tensors.extend(read_tensors(file))
        except CheckpointError as error:
            problems.append(problem_of("headers", file if file.is_dir() else file.parent, error))
    return Found(tuple(tensors), tuple(problems), not problems)


def _without_index(folder: Path) -> Found:
    files = shards_in(folder)
    found = _read(files)
    index = INDEX_NAME if files[0].suffix == ".safetensors" else BIN_INDEX_NAME
    missing = problem(
        "index", index, f"is missing: {len(files)} files of a checkpoint in parts, and no index"
    )
    return Found(found.tensors, (missing, *found.problems), found.is_whole)


def _check_index(folder: Path, index: Path) -> Found:
    try:
        weight_map = read_index(index)
        metadata = read_json(index).get("metadata")
    except CheckpointError as error:
        found = _read(shards_in(folder))
        return Found(found.tensors, (problem_of("index", folder, error), *found.problems), found.is_whole)
    placed: list[TensorSlice] = []
    problems: list[Problem] = []
    listed_in: dict[str, list[str]] = {}
    for tensor, name in weight_map.items():
        listed_in.setdefault(name, []).append(tensor)
    for name, listed in listed_in.items():
        if not (folder / name).exists():
            problems.append(problem("index", name, f"is missing, and with it {_some(listed)}"))
            continue
        found = _read([folder / name])
        problems.extend(found.problems)
        if not found.problems:
            problems.extend(_compare(name, listed, found.tensors, weight_map))
        placed.extend(tensor for tensor in found.tensors if weight_map.get(tensor.name) == name)
    problems.extend(_strays(folder, set(weight_map.values()), Path(next(iter(weight_map.values()))).suffix))
    if not problems:  # else the sum is wrong anyway
        problems.extend(_check_total(index, metadata, placed))
    return Found(tuple(placed), tuple(problems), len(placed) == len(weight_map))


def _compare(
    file: str, listed: list[str], tensors: Iterable[TensorSlice], weight_map: dict[str, str]
) -> Iterable[Problem]:
    present = {tensor.name for tensor in tensors}
    for name in listed:
        if name not in present:
            yield problem("index", file, "is not in it, where the index places it", name)
    for name in sorted(present - {*listed}):
        elsewhere = f"places it in {weight_map[name]}" if name in weight_map else "does not name it"
        yield problem("index", file, f"is in it, but the index {elsewhere}", name)


def _strays(folder: Path, known: set[str], suffix: str) -> Iterable[Problem]:
    """Files of weights that nothing refers to: some libraries load whatever is there."""
    whole = WEIGHTS_NAME if suffix == ".safetensors" else BIN_NAME
    for file in (*shards_in(folder), folder / whole):
        if file.suffix == suffix and file.name not in known and file.exists():
            yield problem("index", file, "holds weights that nothing refers to; a leftover, to be removed")


def _check_total(index: Path, metadata: Any, tensors: list[TensorSlice]) -> Iterable[Problem]:
    """Hold the stated size against the tensors. One under two names counts once, or, long ago, twice."""
    stated = metadata.get("total_size") if is_object(metadata) else None
    if stated is None:
        return
    once, each = (sum(tensor.nbytes for tensor in group) for group in (distinct(tensors), tensors))
    if type(stated) not in (int, float) or stated not in (once, each):
        yield problem("index", index, f"total_size is {stated}, but the tensors take {once} bytes")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{len(names)} tensors: {shown}{', ...' if len(names) > 3 else ''}"
