"""Which Llama a checkpoint of Meta's is: `params.json` does not say so, but a configuration depends on it."""

from typing import Literal

from tune_checkpoint.meta.config import DEFAULT_THETA, DecoderSettings, llama3_scaling
from tune_checkpoint.meta.params import Params

Generation = Literal["1", "2", "code", "3", "3.1", "3.2"]
"""3.3 is as 3.1."""

CONTEXT: dict[Generation, int] = {
    "1": 2048,
    "2": 4096,
    "code": 16384,
    "3": 8192,
    "3.1": 131072,
    "3.2": 131072,
}
"""Tokens that each was made for.

Source: `CONTEXT_LENGTH_FOR_VERSION` of transformers' convert_llama_weights_to_hf.py."""

SIGNS: dict[Generation, tuple[str, str]] = {
    "1": ("Llama 1", "its weights are F16"),
    "2": ("Llama 2", "its weights are not F16"),
    "code": ("Code Llama", "its rope_theta is above that of Llama 2"),
    "3": ("Llama 3", "it has the vocabulary or rope_theta of that"),
    "3.1": ("Llama 3.1", "it has use_scaled_rope, and a head that is not the embedding"),
    "3.2": ("Llama 3.2", "it has use_scaled_rope, and the embedding for a head"),
}
"""What each is called, and what it is known by."""

LLAMA3_THETA = 500_000.0
LLAMA3_VOCABULARY = 128_000
MISTRAL_CONTEXT = 32768
"""What transformers' convert_mistral_weights_to_hf.py takes where nothing is said."""


def generation_of(
    params: Params, *, vocab_size: int, is_tied: bool, dtype: str, tokenizer: str | None
) -> Generation:
    """Tell the generations apart by what each has and the others have not.

    Args:
        params: what `params.json` says.
        vocab_size: rows of the embedding.
        is_tied: the embedding is the head too, as only 3.2 has it.
        dtype: the type of the weights. Llama 1 was published in F16, what came later in BF16.
        tokenizer: the kind of its tokenizer; None if there is none.
    """
    if params.use_scaled_rope:
        return "3.2" if is_tied else "3.1"
    large = vocab_size >= LLAMA3_VOCABULARY or params.rope_theta == LLAMA3_THETA
    if tokenizer == "tiktoken" or (tokenizer is None and large):
        return "3"
    if (params.rope_theta or DEFAULT_THETA) > DEFAULT_THETA:
        return "code"
    return "1" if dtype == "F16" else "2"


def llama_settings(params: Params, generation: Generation) -> tuple[DecoderSettings, list[str]]:
    """What a Llama computes with, and what had to be assumed."""
    factor = params.rope_scaling_factor or (32.0 if generation == "3.2" else 8.0)
    context = params.max_position_embeddings or CONTEXT[generation]
    settings = DecoderSettings(
        norm_eps=params.norm_eps,
        rope_theta=params.rope_theta or DEFAULT_THETA,
        max_position_embeddings=context,
        rope_scaling=llama3_scaling(factor) if params.use_scaled_rope else None,
    )
    assumed: list[str] = []
    if not params.max_position_embeddings:
        assumed.append(f"max_position_embeddings {context}")
    if params.use_scaled_rope and not params.rope_scaling_factor:
        assumed.append(f"a rotary factor of {factor:g}")
    if not assumed:
        return settings, []
    name, sign = SIGNS[generation]
    what = " and ".join(assumed)
    return settings, [f"config.json: params.json does not state {what}, taken from {name}, since {sign}"]


def mistral_settings(params: Params, window: int | None) -> tuple[DecoderSettings, list[str]]:
    """What a Mistral computes with, and what had to be assumed."""
    context = params.max_position_embeddings or params.max_seq_len
    settings = DecoderSettings(
        norm_eps=params.norm_eps,
        rope_theta=params.rope_theta or DEFAULT_THETA,
        max_position_embeddings=context or MISTRAL_CONTEXT,
        model_type="mistral",
        sliding_window=window,
    )
    if context:
        return settings, []
    what = f"max_position_embeddings {MISTRAL_CONTEXT}, taken from Mistral 7B"
    return settings, [f"config.json: params.json does not state {what}"]
