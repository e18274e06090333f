"""The plan of a base model, changed so that it makes the model with an adapter in it."""

from pathlib import Path

from msgspec.structs import replace

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.peft.base import Base
from tune_checkpoint.peft.config import AdapterConfig, read_adapter_config
from tune_checkpoint.peft.files import merged_files
from tune_checkpoint.peft.low_rank import with_low_rank, with_merges
from tune_checkpoint.peft.tensors import AdapterTensors, read_adapter_tensors
from tune_checkpoint.plan import Plan, SetRows, TensorPlan, TensorSlice
from tune_checkpoint.planning import planned
from tune_checkpoint.tied import HEAD


def with_adapter(plan: Plan, folder: Path) -> Plan:
    """Plan the merge of a PEFT adapter into a model.

    The adapter is read once, and of the base as much as it takes to see that something changes.

    Args:
        plan: of the base, under Hugging Face's names.
        folder: of the adapter.

    Returns:
        The plan of the merged model. Where the head of the base is its embedding, and the adapter makes them
        differ, the merged model has both.

    Raises:
        CheckpointNotFoundError: there is no adapter.
        CorruptFileError: the adapter is damaged, or its training failed.
        UnsupportedCheckpointError: it is of another kind, for another model, or changes nothing.
    """
    # These bring numpy.
    from tune_checkpoint.peft.checks import changes_anything, is_same, zero_tensors

    config = read_adapter_config(folder)
    adapter = read_adapter_tensors(folder)
    base = Base(plan, adapter.path, config.base_model_name_or_path)
    tensors = _merged_tensors(base, config, adapter)
    warnings = _check_trained(config, adapter, zero_tensors(adapter.slices))
    if base.is_tied and HEAD in tensors and is_same(tensors[HEAD], tensors[base.embedding]):
        del tensors[HEAD]
    files, more = merged_files(plan, folder, _config_changes(base, tensors), base.rows_of(tensors))
    merged = replace(plan, tensors=tuple(tensors.values()), files=files, warnings=(*more, *warnings))
    if not changes_anything(plan, merged):
        raise UnsupportedCheckpointError(
            f"{adapter.path}: merging it changes nothing: every weight is the same as before, once it is "
            "rounded to its type; convert with dtype fp32, or train the adapter further"
        )
    return merged


def _merged_tensors(base: Base, config: AdapterConfig, adapter: AdapterTensors) -> dict[str, TensorPlan]:
    """Every tensor of the merged model by name; a tied head too, if it or the embedding is trained."""
    tensors = dict(base.tensors)
    for name, stored in adapter.kept.items():
        target = base.name_of(name, stored)
        if target in tensors:  # a tied head is not, but is stored beside the embedding
            tensors[target] = _replaced(base, tensors[target], stored)
    for module, stored in adapter.tokens.items():
        target = base.name_of(f"{module}.weight", stored)
        tensors[target] = _with_rows(base, tensors[target], stored, config.tokens_of(module))
    saved = {base.name_of(name, stored): stored for name, stored in adapter.saved.items()}
    modules = {base.name_of(f"{module}.weight", each.b): module for module, each in adapter.factors.items()}
    if len(saved) + len(modules) < len(adapter.saved) + len(adapter.factors):
        raise CorruptFileError(
            f"{adapter.path}: has two updates for one weight, under names that differ in their outermost "
            f"part: only one can be of this model{base.made_for}"
        )
    if base.is_tied and {HEAD, base.embedding} & {*saved, *modules}:
        tensors[HEAD] = replace(tensors[base.embedding], name=HEAD)
    for target, stored in saved.items():
        tensors[target] = _replaced(base, tensors[target], stored)
    return tensors | with_low_rank(base, config, adapter.factors, modules, tensors)


def _replaced(base: Base, tensor: TensorPlan, stored: TensorSlice) -> TensorPlan:
    """What was trained whole instead of what the base has; the vocabulary may have another size."""
    num_free = 1 if tensor.name in (HEAD, base.embedding) else 0
    if len(stored.shape) != len(tensor.shape) or stored.shape[num_free:] != tensor.shape[num_free:]:
        raise base.misfit(stored, stored.shape, tensor)
    return planned(tensor.name, [stored], tensor.dtype)


def _with_rows(base: Base, tensor: TensorPlan, stored: TensorSlice, rows: list[int]) -> TensorPlan:
    """Some rows of an embedding, each trained alone."""
    if len(tensor.shape) != 2 or stored.shape != (len(rows), tensor.shape[1]):
        raise CorruptFileError(
            f"{stored.path}: tensor {stored.name!r} has shape {list(stored.shape)}; trainable_token_indices "
            f"names {len(rows)} rows of {tensor.name!r}, of shape {list(tensor.shape)}{base.made_for}"
        )
    if any(not 0 <= row < tensor.shape[0] for row in rows):
        raise UnsupportedCheckpointError(
            f"{stored.path}: trainable_token_indices goes up to {max(rows)}, and {tensor.name!r} has "
            f"{tensor.shape[0]} rows: the adapter was trained with a larger vocabulary{base.made_for}"
        )
    return with_merges(tensor, (SetRows(tuple(rows), stored),))


def _check_trained(config: AdapterConfig, adapter: AdapterTensors, zero: set[str]) -> tuple[str, ...]:
    """Refuse an adapter that adds nothing, and warn of modules that do not.

    Args:
        config: of the adapter.
        adapter: its tensors.
        zero: the names of those that are zero all over.
    """
    without_scale = {module for module in adapter.factors if config.scale_of(module) == 0}
    untrained = [
        module
        for module, each in adapter.factors.items()
        if module in without_scale or {each.a.name, each.b.name} & zero
    ]
    if not untrained:
        return ()
    why = "lora_alpha is 0" if without_scale else "lora_B is all zeros"
    if len(untrained) < len(adapter.factors) or adapter.saved or adapter.tokens:
        return (
            f"{len(untrained)} of {len(adapter.factors)} modules of the adapter add nothing, as "
            f"{untrained[0]!r}: {why}",
        )
    raise UnsupportedCheckpointError(
        f"{adapter.path}: merging it would change nothing: {why} in every module. The adapter was never "
        "trained, or was saved before it was; use another checkpoint of it"
    )


def _config_changes(base: Base, tensors: dict[str, TensorPlan]) -> dict[str, object]:
    """What config.json must say otherwise than that of the base."""
    embedding, head = tensors.get(base.embedding), tensors.get(HEAD)
    changes: dict[str, object] = {"tie_word_embeddings": False} if base.is_tied and head else {}
    if embedding and embedding.shape != base.tensors[base.embedding].shape:
        changes["vocab_size"] = embedding.shape[0]
    if embedding and head and embedding.shape != head.shape:
        raise UnsupportedCheckpointError(
            f"{base.adapter}: merging it would leave {embedding.shape[0]} rows in {embedding.name} and "
            f"{head.shape[0]} in {HEAD}: the adapter was trained with another vocabulary, and holds only one "
            "of them; train it with both in modules_to_save"
        )
    return changes
