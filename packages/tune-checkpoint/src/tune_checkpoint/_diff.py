"""`diff`. The module's name leaves `tune_checkpoint.diff` to the function."""

import time
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from tune_checkpoint._convert import plan_conversion
from tune_checkpoint.errors import reading
from tune_checkpoint.hf import BUFFERS
from tune_checkpoint.listing import AnyKind, all_tensors, kind_of, place
from tune_checkpoint.plan import Progress, TensorPlan
from tune_checkpoint.planning import planned, read_json
from tune_checkpoint.threads import do_all, num_jobs
from tune_checkpoint.tied import SHARED, is_tied

if TYPE_CHECKING:
    from tune_checkpoint.comparing import Gap

HF_NAMES: tuple[AnyKind, ...] = ("hf", "torch", "adapter")
"""Kinds whose tensors have Hugging Face's names as they are."""
EMBEDDING_OF = {"lm_head.weight": "model.embed_tokens.weight", "output.weight": "token_embd.weight"}
"""Head -> the embedding that stands for it where it is tied, in Hugging Face's names and in GGUF's."""

_Pair = tuple[TensorPlan, TensorPlan]


class TensorDifference(Struct, frozen=True):
    """A tensor that both have, and what is different about it."""

    name: str
    dtype_a: str
    dtype_b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    num_different: int | None
    """Elements that are not equal; None where the shapes differ. NaN equals NaN."""
    max_abs: float | None
    """The largest |a - b|. Infinite, which JSON writes as null, where one of the two is."""
    max_rel: float | None
    """The largest |a - b| / max(|a|, |b|)."""
    num_nan: int | None
    """Elements that are NaN in one and not in the other."""


class OnlyIn(Struct, frozen=True):
    """A tensor that one of the two has."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Difference(Struct, frozen=True):
    """How two checkpoints differ."""

    a: str
    b: str
    identical: bool
    only_in_a: tuple[OnlyIn, ...]
    only_in_b: tuple[OnlyIn, ...]
    tensors: tuple[TensorDifference, ...]
    """Those of both that differ, the largest difference first."""
    left_out: tuple[str, ...]
    """Names that one of the two has and the other can do without: tied weights, and constants."""
    num_common: int
    num_elements: int
    """Elements of the tensors that were compared."""
    nbytes: int
    """Bytes that were compared, of both sides."""
    seconds: float


class _Side(Struct, frozen=True):
    """One of the two, as tensors that can be streamed."""

    tensors: dict[str, TensorPlan]
    dtypes: dict[str, str]
    is_tied: bool


def diff(
    a: Path | str, b: Path | str, *, progress: Progress | None = None, jobs: int | None = None
) -> Difference:
    """Compare two checkpoints: names, shapes, types and every value.

    Two of one kind are compared as they are. Else both are compared under Hugging Face's names, as `convert`
    would write them. Memory does not grow with the models.

    Args:
        a: a checkpoint of any kind, or a PEFT adapter.
        b: another.
        progress: see `Progress`; called several times a second.
        jobs: how many tensors are compared at a time; None takes one for each core, up to 8.

    Raises:
        CheckpointNotFoundError: nothing is there.
        CorruptFileError: a file breaks its format.
        UnsupportedCheckpointError: one of them is no checkpoint, or is to be converted and cannot be.
        ReadFailedError: the system refused to read one.
    """
    started = time.perf_counter()
    left, right = _sides(Path(a), Path(b))
    pairs, left_out = _pairs(left, right)
    comparable = {name: pair for name, pair in pairs.items() if pair[0].shape == pair[1].shape}
    nbytes = sum(x.nbytes + y.nbytes for x, y in comparable.values())
    gaps = _compare_all(comparable, progress, nbytes, num_jobs(jobs))
    found: list[TensorDifference] = []
    for name, (x, y) in pairs.items():
        gap = gaps.get(name)
        types = left.dtypes[x.name], right.dtypes[y.name]
        if gap is None:
            found.append(TensorDifference(name, *types, x.shape, y.shape, None, None, None, None))
        elif gap.num_different or types[0] != types[1]:
            values = gap.num_different, gap.max_abs, gap.max_rel, gap.num_nan
            found.append(TensorDifference(name, *types, x.shape, y.shape, *values))
    only_a, only_b = (_only(side, pairs, left_out) for side in (left, right))
    return Difference(
        a=str(a),
        b=str(b),
        identical=not (found or only_a or only_b),
        only_in_a=only_a,
        only_in_b=only_b,
        tensors=tuple(sorted(found, key=_rank, reverse=True)),
        left_out=left_out,
        num_common=len(pairs),
        num_elements=sum(prod(x.shape) for x, _ in comparable.values()),
        nbytes=nbytes,
        seconds=time.perf_counter() - started,
    )


def _compare_all(
    pairs: Mapping[str, _Pair], progress: Progress | None, nbytes: int, jobs: int
) -> dict[str, "Gap"]:
    # Brings numpy, which headers do without.
    from tune_checkpoint.comparing import compare
    from tune_checkpoint.sources import Sources
    from tune_checkpoint.write import Meter

    meter = Meter(progress, nbytes)
    with Sources() as sources:
        tasks = [lambda x=x, y=y: compare(x, y, sources, meter) for x, y in pairs.values()]
        return dict(zip(pairs, do_all(tasks, jobs, meter.stop), strict=True))


def _rank(tensor: TensorDifference) -> tuple[bool, bool, float]:
    if tensor.max_abs is None:
        return True, True, 0.0
    return False, bool(tensor.num_nan), tensor.max_abs


def _sides(a: Path, b: Path) -> tuple[_Side, _Side]:
    """Both under the same names: as they are where that is so, else as they would be converted."""
    kinds = _kind(a), _kind(b)
    # The shards of a Meta checkpoint have to be put together.
    is_raw = kinds[0] == kinds[1] != "meta"
    left, right = (_side(path, kind, is_raw) for path, kind in zip((a, b), kinds, strict=True))
    return left, right


def _kind(path: Path) -> AnyKind:
    with reading(path):
        return kind_of(path)


def _side(path: Path, kind: AnyKind, is_raw: bool) -> _Side:
    with reading(path):
        return _raw(path, kind) if is_raw or kind in HF_NAMES else _converted(path, kind)


def _raw(path: Path, kind: AnyKind) -> _Side:
    tensors = all_tensors(path, kind)
    config = read_json((path if path.is_dir() else path.parent) / "config.json")
    return _Side(
        {tensor.name: planned(tensor.name, [tensor]) for tensor in tensors},
        {tensor.name: tensor.dtype for tensor in tensors},
        # A GGUF file without a head has none of its own.
        kind == "gguf" or is_tied(config),
    )


def _converted(path: Path, kind: AnyKind) -> _Side:
    assert kind != "adapter"
    plan = plan_conversion(path, kind=kind)
    configs = [msgspec.json.decode(file.content) for file in plan.files if file.name == "config.json"]
    return _Side(
        {tensor.name: tensor for tensor in plan.tensors},
        {tensor.name: tensor.dtype for tensor in plan.tensors},
        any(is_tied(config) for config in configs),
    )


def _pairs(left: _Side, right: _Side) -> tuple[dict[str, _Pair], tuple[str, ...]]:
    """What is compared with what, by name, and the names that one side can do without.

    A tied weight that one side leaves out is compared with the weight that stands for it there.
    """
    pairs: dict[str, _Pair] = {}
    left_out: list[str] = []
    doubles = _doubles(left), _doubles(right)
    for name in dict.fromkeys((*left.tensors, *right.tensors)):
        x = left.tensors.get(name) or _alias(name, left, doubles[1])
        y = right.tensors.get(name) or _alias(name, right, doubles[0])
        if x is not None and y is not None:
            pairs[name] = x, y
        is_in_both = name in left.tensors and name in right.tensors
        if not is_in_both and (name in pairs or name.endswith(BUFFERS)):
            left_out.append(name)
    return pairs, tuple(left_out)


def _doubles(side: _Side) -> dict[str, list[str]]:
    """Name -> all names of the same weight, of the embeddings and heads that have several."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, plan in side.tensors.items():
        if plan.nbytes and (name in EMBEDDING_OF or name.endswith(SHARED)):
            groups.setdefault(tuple(place(source) for source in plan.sources), []).append(name)
    return {name: names for names in groups.values() if len(names) > 1 for name in names}


def _alias(name: str, side: _Side, doubles: Mapping[str, list[str]]) -> TensorPlan | None:
    """What stands on one side for a weight that only the other has, if that is a tied weight."""
    if side.is_tied and name in EMBEDDING_OF:
        return side.tensors.get(EMBEDDING_OF[name])
    return next((side.tensors[other] for other in doubles.get(name, ()) if other in side.tensors), None)


def _only(side: _Side, pairs: Mapping[str, _Pair], left_out: Iterable[str]) -> tuple[OnlyIn, ...]:
    known = {*pairs, *left_out}
    return tuple(
        OnlyIn(name, side.dtypes[name], tensor.shape)
        for name, tensor in side.tensors.items()
        if name not in known
    )
