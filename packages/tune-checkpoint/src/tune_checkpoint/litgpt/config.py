"""`model_config.yaml`: what LitGPT calls the sizes and settings of a Llama decoder.

Source: `Config` in litgpt/config.py of Lightning-AI/litgpt, whose defaults stand for what a file leaves out;
`build_rope_cache` in litgpt/model.py.
"""

from functools import partial
from math import inf

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.litgpt.flat_yaml import FlatYaml, Scalar
from tune_checkpoint.meta.config import DecoderSettings
from tune_checkpoint.meta.decoder import StatedSizes
from tune_checkpoint.planning import positive_count

LLAMA: dict[str, tuple[Scalar, Scalar]] = {
    "mlp_class_name": ("GptNeoxMLP", "LLaMAMLP"),
    "norm_class_name": ("LayerNorm", "RMSNorm"),
    "bias": (True, False),
    "parallel_residual": (True, False),
    "rotary_percentage": (0.25, 1.0),
    "n_expert": (0, 0),
    "attn_bias": (False, False),
    "lm_head_bias": (False, False),
    "norm_qk": (False, False),
    "norm_1": (True, True),
    "norm_2": (True, True),
    "post_attention_norm": (False, False),
    "post_mlp_norm": (False, False),
    "shared_attention_norm": (False, False),
    "scale_embeddings": (False, False),
    "rope_interleave": (False, False),
    "attention_scores_scalar": (None, None),
    "attention_logit_softcapping": (None, None),
    "final_logit_softcapping": (None, None),
    "sliding_window_size": (None, None),
    "rope_local_base_freq": (None, None),
    "latent_attention": (None, None),
}
"""Key -> LitGPT's default, and what it is in a Llama decoder."""

LLAMA3_SCALING = {"factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len"}


def check_llama(config: FlatYaml) -> None:
    """Refuse a model that is not a Llama decoder, by the setting that makes it another.

    Raises:
        UnsupportedCheckpointError: it is another.
    """
    for key, (default, wanted) in LLAMA.items():
        value = config.values.get(key, default)
        if key in config.tables or key in config.lists:
            value = "set"
        if value != wanted:
            raise UnsupportedCheckpointError(
                f"{config.path}: {key} is {value!r}; LitGPT models with {wanted!r} there, which are built as "
                "Llama is, can be converted"
            )


def stated_sizes(config: FlatYaml) -> StatedSizes:
    """The sizes that the file states.

    Raises:
        CorruptFileError: one is missing, no positive whole number, or contradicts another.
    """
    count = partial(positive_count, config.path, config.values)
    hidden_size, num_heads = count("n_embd"), count("n_head")
    num_kv_heads = count("n_query_groups", num_heads)
    head_dim = count("head_size", hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise CorruptFileError(
            f"{config.path}: {num_heads} query heads (n_head) do not share {num_kv_heads} key-value heads "
            "(n_query_groups)"
        )
    if head_dim % 2:
        raise CorruptFileError(f"{config.path}: a head of {head_dim} elements cannot be rotated in halves")
    return StatedSizes(hidden_size, count("n_layer"), num_heads, num_kv_heads, head_dim)


def decoder_settings(config: FlatYaml) -> DecoderSettings:
    """What the model computes with.

    Raises:
        CorruptFileError: a value is of another type.
        UnsupportedCheckpointError: its rotary scaling is none that is known.
    """
    scaling = _rope_adjustments(config)
    ratio = _number(config.values, config, "rope_condense_ratio", 1.0)
    if ratio != 1.0:
        if scaling is not None:
            raise UnsupportedCheckpointError(
                f"{config.path}: both rope_condense_ratio and rope_adjustments; either alone can be converted"
            )
        scaling = {"rope_type": "linear", "factor": ratio}
    return DecoderSettings(
        norm_eps=_number(config.values, config, "norm_eps", 1e-5),
        rope_theta=_number(config.values, config, "rope_base", 10_000.0),
        max_position_embeddings=positive_count(config.path, config.values, "block_size", 4096),
        rope_scaling=scaling,
    )


def _rope_adjustments(config: FlatYaml) -> dict[str, str | float | int] | None:
    table = config.tables.get("rope_adjustments")
    if table is None and "rope_adjustments" not in config:
        return None
    if table is not None and table.keys() == {"factor"}:
        return {"rope_type": "linear", "factor": _number(table, config, "factor", 1.0)}
    if table is None or table.keys() != LLAMA3_SCALING:
        found = ", ".join(table or ()) or "no table"
        raise UnsupportedCheckpointError(
            f"{config.path}: rope_adjustments has {found}; factor alone, or Llama 3.1's "
            f"{', '.join(sorted(LLAMA3_SCALING))}, can be converted"
        )
    return {
        "rope_type": "llama3",
        "factor": _number(table, config, "factor", 1.0),
        "low_freq_factor": _number(table, config, "low_freq_factor", 1.0),
        "high_freq_factor": _number(table, config, "high_freq_factor", 1.0),
        "original_max_position_embeddings": int(_number(table, config, "original_max_seq_len", 1.0)),
    }


def _number(values: dict[str, Scalar], config: FlatYaml, key: str, default: float) -> float:
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise CorruptFileError(f"{config.path}: {key} is {value!r}; it is to be a positive number")
    return float(value)
