"""A `config.json` that stands beside weights under other names: what it says of a Llama decoder."""

from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NoReturn

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.meta.config import DEFAULT_THETA, LLAMA, MISTRAL, MODEL_TYPES, DecoderSettings
from tune_checkpoint.meta.decoder import StatedSizes
from tune_checkpoint.planning import is_object, positive_count


def check_decoder(where: Path, config: dict[str, Any], what: str) -> str:
    """Refuse a configuration of another model than the Llama decoder without biases, and name its class.

    Args:
        where: the file, for messages.
        config: what is in it.
        what: what cannot be done with another model, for messages.

    Raises:
        UnsupportedCheckpointError: it is of one.
    """
    architecture = MODEL_TYPES.get(str(config.get("model_type")))
    names = config.get("architectures")
    if architecture not in (LLAMA, MISTRAL) or names not in (None, [architecture]):
        found = names[0] if isinstance(names, list) and names else config.get("model_type")  # pyright: ignore[reportUnknownVariableType]
        _refuse(where, f"architecture {found!r}; {LLAMA} and {MISTRAL} can {what}")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            _refuse(where, f"biases ({key}), for which Meta's model has no place")
    if config.get("hidden_act", "silu") != "silu":
        _refuse(where, f"activation {config['hidden_act']!r} (hidden_act); Meta's model has silu")
    if config.get("quantization_config"):
        _refuse(where, "quantised weights (quantization_config)")
    return architecture


def stated_sizes(where: Path, config: dict[str, Any]) -> StatedSizes:
    """The sizes that a configuration states.

    Raises:
        CorruptFileError: one is missing, no positive whole number, or contradicts another.
    """
    count = partial(positive_count, where, config)
    hidden_size = count("hidden_size")
    num_heads = count("num_attention_heads")
    num_kv_heads = count("num_key_value_heads", num_heads)
    head_dim = count("head_dim", hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise CorruptFileError(
            f"{where}: {num_heads} query heads do not share {num_kv_heads} key-value heads"
        )
    if head_dim % 2:
        raise CorruptFileError(f"{where}: a head of {head_dim} elements cannot be rotated in pairs")
    return StatedSizes(hidden_size, count("num_hidden_layers"), num_heads, num_kv_heads, head_dim)


def read_settings(where: Path, config: dict[str, Any]) -> DecoderSettings:
    """What the model computes with, from either dialect of `config.json`.

    Raises:
        CorruptFileError: something is missing, or of another type.
    """
    rope: Any = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not is_object(rope):
        raise CorruptFileError(f"{where}: rope_parameters or rope_scaling is not a JSON object")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "type")}
    theta = _number(where, {**config, **rope}, "rope_theta", DEFAULT_THETA)
    window = config.get("sliding_window")
    count = partial(positive_count, where, config)
    return DecoderSettings(
        norm_eps=_number(where, config, "rms_norm_eps", 1e-6),
        rope_theta=theta,
        max_position_embeddings=count("max_position_embeddings", 2048),
        rope_scaling=None if kind == "default" else {**scaling, "rope_type": kind},
        model_type="mistral" if config.get("model_type") == "mistral" else "llama",
        sliding_window=None if window is None else count("sliding_window"),
    )


def _number(where: Path, config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < value < inf:
        raise CorruptFileError(f"{where}: {key} is {value!r}; it is to be a positive number")
    return float(value)


def _refuse(where: Path, what: str) -> NoReturn:
    raise UnsupportedCheckpointError(f"{where}: {what}")
