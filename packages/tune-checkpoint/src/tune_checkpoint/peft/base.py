"""The base model of a merge: its tensors, and what an adapter calls them."""

from difflib import get_close_matches
from pathlib import Path

from tune_checkpoint.errors import UnsupportedCheckpointError
from tune_checkpoint.peft.files import base_config
from tune_checkpoint.plan import Plan, TensorPlan, TensorSlice
from tune_checkpoint.planning import is_object
from tune_checkpoint.tied import EMBEDDINGS, HEAD, TIED

WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Ends of the names of architectures that have a head, if only the embedding in its place."""


class Base:
    """A base model.

    Args:
        plan: of its conversion.
        adapter: the adapter's file, for messages.
        made_for: the model that the adapter says it was trained on.

    Attributes:
        tensors: by name.
        embedding: the name of the token embedding; nothing if there is none.
        is_tied: whether it is the head as well.

    Raises:
        UnsupportedCheckpointError: the weights are quantised.
    """

    def __init__(self, plan: Plan, adapter: Path, made_for: str | None) -> None:
        self.adapter = adapter
        self.tensors = {tensor.name: tensor for tensor in plan.tensors}
        self._source = plan.source
        config = base_config(plan)
        _check_not_quantised(plan.source, config.get("quantization_config"))
        ends = tuple(f".{end}" for end in EMBEDDINGS)
        self.embedding = next((name for name in self.tensors if f".{name}".endswith(ends)), "")
        says = config.get(TIED)
        is_tied = says is True or (says is None and plan.architecture.endswith(WITH_HEAD))
        self.is_tied = is_tied and bool(self.embedding) and HEAD not in self.tensors
        names = {Path(plan.source).name, Path(str(config.get("_name_or_path"))).name}
        self.made_for = ""
        if made_for and Path(made_for).name not in names:
            self.made_for = f".\n  The adapter was trained on {made_for}; the base is {plan.source}"

    def rows_of(self, tensors: dict[str, TensorPlan]) -> int | None:
        """How many tokens have a row in the embedding, if there is one."""
        return tensors[self.embedding].shape[0] if self.embedding else None

    def name_of(self, name: str, stored: TensorSlice) -> str:
        """The base's own name of a tensor: the same, or one that differs in its outermost part.

        What a model calls `transformer.h.0.ln_1.weight` is `h.0.ln_1.weight` in some files of it.

        Args:
            name: what the adapter calls it.
            stored: what the adapter has for it.

        Raises:
            UnsupportedCheckpointError: the base has no such tensor.
        """
        if name in self.tensors or (name == HEAD and self.is_tied):
            return name
        inner = name.partition(".")[2]
        alike = [other for other in self.tensors if other == inner or other.partition(".")[2] == name]
        if len(alike) == 1:
            return alike[0]
        nearest = get_close_matches(name, self.tensors, n=1)
        raise UnsupportedCheckpointError(
            f"{self.adapter}: tensor {stored.name!r} is for {name!r}, which the base {self._source} does not "
            f"have; {f'the nearest there is {nearest[0]}' if nearest else 'nothing there is like it'}"
            f"{self.made_for}"
        )

    def misfit(
        self, stored: TensorSlice, shape: tuple[int, ...], tensor: TensorPlan
    ) -> UnsupportedCheckpointError:
        """The error for shapes that do not go together.

        Args:
            stored: what the adapter has.
            shape: of what comes of it.
            tensor: what it is for.
        """
        return UnsupportedCheckpointError(
            f"{self.adapter}: tensor {stored.name!r} is for a weight of shape {list(shape)}, and "
            f"{tensor.name!r} of the base has {list(tensor.shape)}{self.made_for}"
        )


def _check_not_quantised(source: str, how: object) -> None:
    if how:
        method = how.get("quant_method") if is_object(how) else how
        raise UnsupportedCheckpointError(
            f"{source}: its weights are quantised ({method}), so that nothing can be added to them; give the "
            "original model as the base"
        )
