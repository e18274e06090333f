"""Which tensors are others under a second name: a head that is the embedding, as `config.json` has it.

Source: `tie_weights` in transformers/modeling_utils.py (5): what is tied and stored with other values stays
apart, and what is not tied and missing is initialised at random.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tune_checkpoint.checkpoint import LazyTensor
from tune_checkpoint.listing import place
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.planning import is_object

TIED = "tie_word_embeddings"
HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""Ends of the name of the token embedding."""
SHARED = (*EMBEDDINGS, "shared.weight")
"""Ends of the names of embeddings that may be one. Any other name is written, whatever it shares."""

TIED_BY_DEFAULT = frozenset(
    {
        "albert", "bart", "bert", "biogpt", "blenderbot", "blenderbot-small", "bloom", "camembert", "cohere",
        "cohere2", "ctrl", "deberta", "deberta-v2", "distilbert", "electra", "ernie4_5", "ernie4_5_moe",
        "falcon", "falcon_mamba", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text",
        "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "jetmoe", "led", "lfm2", "lfm2_moe", "longt5", "m2m_100",
        "mamba", "marian", "mbart", "modernbert", "modernbert-decoder", "mpt", "mt5", "openai-gpt", "opt",
        "paligemma", "pegasus", "recurrent_gemma", "roberta", "smollm3", "starcoder2", "switch_transformers",
        "t5", "t5gemma", "umt5", "vaultgemma", "whisper", "xglm", "xlm-roberta", "zamba", "zamba2",
    }
)  # fmt: skip
"""Values of `model_type` for which a configuration that says nothing means yes. Where this lacks one, a
tensor is written twice, which costs room and changes nothing."""

COMPARED_BYTES = 1 << 22


def without_tied(
    tensors: Iterable[TensorSlice], config: dict[str, Any]
) -> tuple[list[TensorSlice], dict[str, Any], tuple[str, ...]]:
    """Leave out tensors that are others under a second name, and that a library makes of these again.

    Args:
        tensors: all that the files have.
        config: `config.json`, or nothing.

    Returns:
        The other tensors; the configuration, corrected if it calls tied what is not; and warnings.
    """
    tensors = list(tensors)
    if not is_tied(config):
        return tensors, config, ()
    embeddings = [tensor for tensor in tensors if tensor.name.endswith(EMBEDDINGS)]
    kept: dict[object, TensorSlice] = {}
    warnings: tuple[str, ...] = ()
    for tensor in tensors:
        if tensor.name == HEAD and embeddings:
            if any(has_same_values(tensor, embedding) for embedding in embeddings):
                continue
            config = untied(config)
            warnings = (untied_warning(tensor.name),)
        kept.setdefault(
            place(tensor) if tensor.nbytes and tensor.name.endswith(SHARED) else tensor.name, tensor
        )
    return list(kept.values()), config, warnings


def has_same_values(one: TensorSlice, other: TensorSlice) -> bool:
    """Whether two tensors are one, or copies byte for byte. The first difference ends the reading."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if place(one) == place(other):
        return True
    left, right = (LazyTensor(tensor, MappedFile(Path(tensor.path))).buffer() for tensor in (one, other))
    return all(
        left[start : start + COMPARED_BYTES].tobytes() == right[start : start + COMPARED_BYTES].tobytes()
        for start in range(0, one.nbytes, COMPARED_BYTES)
    )


def untied(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of a model whose head is its own."""
    text = config.get("text_config")
    inner = {"text_config": text | {TIED: False}} if is_object(text) and TIED in text else {}
    return config | inner | {TIED: False}


def untied_warning(name: str) -> str:
    """Say that a head was kept though the configuration does without it."""
    return (
        f"config.json: has {TIED}, but {name} is not the same as the embedding; both were written, and "
        f"{TIED} is false now"
    )


def is_tied(config: Mapping[str, Any]) -> bool:
    """Say whether a library takes the embedding for the head, by what `config.json` says or leaves unsaid."""
    says, family = config.get(TIED), config.get("model_type")
    return says is True or (says is None and isinstance(family, str) and family in TIED_BY_DEFAULT)
