"""`config.json` and `generation_config.json` of a Llama decoder, whatever file its sizes were read from."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from tune_checkpoint.dtypes import TORCH_NAMES
from tune_checkpoint.meta.decoder import DecoderSizes
from tune_checkpoint.plan import SideFile
from tune_checkpoint.planning import json_file

LLAMA, MISTRAL, QWEN2 = "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"
MODEL_TYPES = {"llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN2}
"""`model_type` -> Hugging Face's class; they differ by Mistral's sliding window and Qwen2's biases alone."""
DEFAULT_THETA = 10_000.0
"""The base of the rotary frequencies where none is stated."""


class DecoderSettings(Struct, frozen=True):
    """What a model computes with, besides its sizes and weights."""

    norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    rope_scaling: dict[str, Any] | None = None
    model_type: str = "llama"
    """One of MODEL_TYPES."""
    sliding_window: int | None = None
    """Of Mistral."""
    attention_bias: bool = False
    """Of Llama: the projections of the attention have biases."""
    mlp_bias: bool = False
    """Of Llama: those of the feed-forward network have."""

    @property
    def architecture(self) -> str:
        """Hugging Face's class."""
        return MODEL_TYPES[self.model_type]


class EndTokens(Struct, frozen=True):
    """The ids of the tokens that begin, end and fill up a text."""

    bos: int | None = None
    eos: int | list[int] | None = None
    ends: Sequence[int] = ()
    """Every token that ends a generation."""
    pad: int | None = None


def llama3_scaling(factor: float) -> dict[str, Any]:
    """The rotary scaling of Llama 3.1 and later.

    Source: `apply_scaling` in models/llama3/model.py of meta-llama/llama-models, but for the factor, which it
    has for 3.1 alone; transformers' convert_llama_weights_to_hf.py (4.47) writes 32 for 3.2.
    """
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def config_files(
    sizes: DecoderSizes, settings: DecoderSettings, dtype: str, tokens: EndTokens
) -> list[SideFile]:
    """Both files.

    Args:
        sizes: of the model.
        settings: the rest of what `config.json` says.
        dtype: the type of its matrices in the output, as safetensors spells it.
        tokens: as far as they are known.
    """
    config = model_config(sizes, settings, dtype, tokens)
    generation = {"bos_token_id": tokens.bos, "eos_token_id": list(tokens.ends) or tokens.eos}
    if len(tokens.ends) == 1:
        generation["eos_token_id"] = tokens.ends[0]
    known = {key: value for key, value in generation.items() if value is not None}
    return [json_file("config.json", config), json_file("generation_config.json", known)]


def model_config(
    sizes: DecoderSizes, settings: DecoderSettings, dtype: str, tokens: EndTokens
) -> dict[str, Any]:
    """`config.json`, in words that transformers 4 and 5 both read."""
    theta, scaling = settings.rope_theta, settings.rope_scaling
    return {
        "architectures": [settings.architecture],
        "model_type": settings.model_type,
        **_own_settings(settings),
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "num_key_value_heads": sizes.num_key_value_heads,
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": settings.max_position_embeddings,
        "rms_norm_eps": settings.norm_eps,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "use_cache": True,
        "tie_word_embeddings": sizes.is_tied,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})},
        "torch_dtype": TORCH_NAMES.get(dtype),
        "dtype": TORCH_NAMES.get(dtype),
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
        "pad_token_id": tokens.pad,
    }


def _own_settings(settings: DecoderSettings) -> dict[str, Any]:
    """What the others have no word for."""
    if settings.model_type == "mistral":
        return {"sliding_window": settings.sliding_window}
    if settings.model_type == "qwen2":
        return {"use_sliding_window": False}
    return {"attention_bias": settings.attention_bias, "mlp_bias": settings.mlp_bias}
