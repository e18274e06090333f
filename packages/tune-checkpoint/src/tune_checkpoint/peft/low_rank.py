"""Which operations add an adapter's matrices to the weights."""

from math import prod

from msgspec.structs import replace

from tune_checkpoint.dtypes import FLOATS
from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.peft.base import Base
from tune_checkpoint.peft.config import AdapterConfig
from tune_checkpoint.peft.tensors import Factors
from tune_checkpoint.plan import AddLowRank, Cast, Merge, SetNorms, TensorPlan, TensorSlice


def with_low_rank(
    base: Base,
    config: AdapterConfig,
    factors: dict[str, Factors],
    modules: dict[str, str],
    tensors: dict[str, TensorPlan],
) -> dict[str, TensorPlan]:
    """Plan weights with an adapter's matrices added to them.

    Args:
        base: the model.
        config: of the adapter.
        factors: its matrices by module.
        modules: the module by the name of the base's tensor.
        tensors: the tensors by name.

    Returns:
        The new tensors by name.

    Raises:
        CorruptFileError: the adapter contradicts itself.
        UnsupportedCheckpointError: it does not fit the base.
    """
    directions = {name: _is_turned(base, factors[module], tensors[name]) for name, module in modules.items()}
    of_layers = {directions[name] for name, module in modules.items() if not factors[module].is_embedding}
    is_turned = bool(config.fan_in_fan_out)
    changed: dict[str, TensorPlan] = {}
    for name, module in modules.items():
        each, direction = factors[module], directions[name]
        _check(config, module, each, tensors[name])
        if direction is None and (not is_turned) in of_layers:
            raise UnsupportedCheckpointError(
                f"{each.b.path}: fan_in_fan_out is {is_turned}, and is not so for all modules; {name!r} is "
                "square, so that its own direction cannot be told: merge this adapter with peft"
            )
        ops = _ops(base, config, module, each, tensors[name], is_turned if direction is None else direction)
        changed[name] = with_merges(tensors[name], ops)
    return changed


def with_merges(tensor: TensorPlan, merges: tuple[Merge, ...]) -> TensorPlan:
    """Do something to the values of a tensor before they get their type."""
    ops = tensor.ops[:-1] if tensor.ops and isinstance(tensor.ops[-1], Cast) else tensor.ops
    rounding = () if tensor.dtype == "F32" else (Cast(tensor.dtype),)
    return replace(tensor, ops=(*ops, *merges, *rounding))


def _is_turned(base: Base, each: Factors, tensor: TensorPlan) -> bool | None:
    """Say whether the product is added turned over; None where a square matrix does not tell.

    Of an embedding it is, and of a layer that stores its weights as (inputs, outputs).
    """
    product = (each.b.shape[0], each.a.shape[1])
    fits = (not each.is_embedding and product == tensor.shape, product[::-1] == tensor.shape)
    if not any(fits):
        raise base.misfit(each.b, product[::-1] if each.is_embedding else product, tensor)
    return None if all(fits) else fits[1]


def _check(config: AdapterConfig, module: str, each: Factors, tensor: TensorPlan) -> None:
    path = each.b.path
    if tensor.dtype not in FLOATS:
        raise UnsupportedCheckpointError(
            f"{path}: nothing can be added to {tensor.name!r}, whose type is {tensor.dtype}: give the "
            "original model as the base, not a quantised one"
        )
    if config.rank_of(module) != each.rank:
        raise CorruptFileError(
            f"{path}: the matrices of {module!r} have rank {each.rank}, and adapter_config.json says "
            f"{config.rank_of(module)}; the files are not of one adapter"
        )
    if bool(config.use_dora) != (each.magnitude is not None):
        there = "a" if each.magnitude else "no"
        raise CorruptFileError(
            f"{path}: module {module!r} has {there} lora_magnitude_vector, and adapter_config.json says "
            f"use_dora is {bool(config.use_dora)}; the files are not of one adapter"
        )


def _ops(
    base: Base, config: AdapterConfig, module: str, each: Factors, tensor: TensorPlan, is_turned: bool
) -> tuple[Merge, ...]:
    rows, columns = (turned(each.a), turned(each.b)) if is_turned else (each.b, each.a)
    added = AddLowRank(rows, columns, config.scale_of(module))
    if each.magnitude is None:
        return (added,)
    axis = 1 if is_turned else 0
    if each.magnitude.shape != tensor.shape[axis : axis + 1]:
        raise base.misfit(each.magnitude, each.magnitude.shape, tensor)
    return added, SetNorms(each.magnitude, axis)


def turned(matrix: TensorSlice) -> TensorSlice:
    """A matrix with rows and columns exchanged, where it lies."""
    assert len(matrix.shape) == 2 and prod(matrix.shape)
    strides = matrix.strides or (matrix.shape[1], 1)
    return replace(matrix, shape=matrix.shape[::-1], strides=strides[::-1])
