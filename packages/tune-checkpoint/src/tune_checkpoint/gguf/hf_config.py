"""What a `config.json` of Hugging Face says about a model of the Llama family, in the words of GGUF metadata.

Source: `LlamaModel` and `Qwen2Model` of llama.cpp's convert_hf_to_gguf.py; `Keys` of the `gguf` package.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.gguf.encode import float32, text, uint32
from tune_checkpoint.gguf.llama import LlamaShape
from tune_checkpoint.gguf.rope import llama3_factors
from tune_checkpoint.meta.config import DEFAULT_THETA, LLAMA, MISTRAL, MODEL_TYPES, QWEN2
from tune_checkpoint.plan import Plan

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Positive = Annotated[float, Meta(gt=0, le=1e30)]

FAMILIES = {LLAMA: "llama", MISTRAL: "llama", QWEN2: "qwen2"}
"""Name of the architecture in Hugging Face -> in GGUF."""


class RopeParameters(Struct, frozen=True):
    """How positions are rotated: `rope_parameters`, or the older `rope_scaling`."""

    rope_type: str | None = None
    type: str | None = None
    """The older name of `rope_type`."""
    rope_theta: Positive | None = None
    partial_rotary_factor: Positive = 1.0
    factor: Positive | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Count | None = None

    @property
    def kind(self) -> str:
        """The type, however it is stated."""
        return self.rope_type or self.type or "default"


class Named(Struct, frozen=True):
    """The fields of any `config.json` that tell what it is of."""

    architectures: list[str] | None = None
    model_type: str = ""

    @property
    def architecture(self) -> str:
        """The class that transformers has for it."""
        if self.architectures:
            return self.architectures[0]
        return MODEL_TYPES.get(self.model_type, self.model_type)


class HfConfig(Named, frozen=True, kw_only=True):
    """The fields of `config.json` that matter here, with the defaults of transformers."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    max_position_embeddings: Count = 2048
    rms_norm_eps: Positive = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    sliding_window: Count | None = None
    use_sliding_window: bool = False
    partial_rotary_factor: Positive = 1.0
    rope_theta: Positive | None = None
    rope_scaling: RopeParameters | None = None
    rope_parameters: RopeParameters | None = None

    @property
    def rope(self) -> RopeParameters:
        """How positions are rotated; what scales them stands in either of two places."""
        return self.rope_scaling or self.rope_parameters or RopeParameters()

    @property
    def theta(self) -> float:
        """The base of the rotary frequencies."""
        newer = self.rope_parameters.rope_theta if self.rope_parameters else None
        return self.rope_theta or newer or DEFAULT_THETA


def read_hf_config(plan: Plan) -> HfConfig:
    """The configuration among the files of a plan for a Hugging Face folder.

    Raises:
        CorruptFileError: it is no such configuration.
        UnsupportedCheckpointError: there is none, or it is of a model that cannot be written as GGUF.
    """
    content = next((file.content for file in plan.files if file.name == "config.json"), None)
    if content is None:
        raise UnsupportedCheckpointError(
            f"{plan.source}: no config.json, from which the model's sizes would be taken; "
            "copy it from the original model"
        )
    where = f"{plan.source}: config.json"
    try:
        named = msgspec.json.decode(content, type=Named).architecture
        if named not in FAMILIES:
            raise UnsupportedCheckpointError(
                f"{where}: {named or 'a model without a name'} cannot be written as GGUF; these can: "
                f"{', '.join(FAMILIES)}"
            )
        config = msgspec.json.decode(content, type=HfConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(f"{where}: {error}") from error
    _refuse_variants(config, where)
    return config


def model_pairs(config: HfConfig, shape: LlamaShape) -> dict[str, bytes]:
    """The metadata that states the model's sizes, under the name of its architecture."""
    rope = config.rope
    values = {
        "vocab_size": uint32(shape.vocab_size),
        "context_length": uint32(config.max_position_embeddings),
        "embedding_length": uint32(shape.hidden_size),
        "block_count": uint32(shape.num_hidden_layers),
        "feed_forward_length": uint32(shape.intermediate_size),
        "attention.head_count": uint32(shape.num_attention_heads),
        "attention.head_count_kv": uint32(shape.num_key_value_heads),
        "attention.key_length": uint32(shape.head_dim),
        "attention.value_length": uint32(shape.head_dim),
        "attention.layer_norm_rms_epsilon": float32(config.rms_norm_eps),
        "rope.dimension_count": uint32(shape.head_dim),
        "rope.freq_base": float32(config.theta),
    }
    if rope.kind == "linear":
        values |= {"rope.scaling.type": text("linear"), "rope.scaling.factor": float32(rope.factor or 1.0)}
    if config.architecture == MISTRAL and config.sliding_window is not None:
        values["attention.sliding_window"] = uint32(config.sliding_window)
    return {f"{FAMILIES[config.architecture]}.{key}": value for key, value in values.items()}


def rope_factors(config: HfConfig, head_dim: int) -> list[float] | None:
    """What each rotary frequency is divided by, where the scaling is Llama 3's."""
    if config.rope.kind != "llama3":
        return None
    return llama3_factors(msgspec.to_builtins(config.rope), head_dim, config.theta)


def _refuse_variants(config: HfConfig, where: str) -> None:
    """What has the name of the architecture and is not this decoder, or cannot be stated in GGUF."""
    rope, reason = config.rope, None
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    if heads % kv_heads:
        raise CorruptFileError(f"{where}: {heads} query heads do not share {kv_heads} key-value heads")
    if config.hidden_act != "silu":
        reason = f"hidden_act {config.hidden_act!r}"
    elif rope.kind not in ("default", "linear", "llama3"):
        reason = f"rotary scaling of type {rope.kind!r}"
    elif config.partial_rotary_factor != 1 or rope.partial_rotary_factor != 1:
        reason = "heads that are rotated in part (partial_rotary_factor)"
    elif config.architecture == QWEN2 and config.use_sliding_window:
        reason = "a sliding window (use_sliding_window)"
    if reason:
        raise UnsupportedCheckpointError(f"{where}: {reason} cannot be written as GGUF")
    if rope.kind != "llama3":
        return
    low, high = rope.low_freq_factor, rope.high_freq_factor
    stated = (rope.factor, low, high, rope.original_max_position_embeddings)
    if None in stated or not (low or 0) < (high or 0):
        raise CorruptFileError(
            f"{where}: llama3 rotary scaling takes factor, low_freq_factor < high_freq_factor and "
            "original_max_position_embeddings"
        )
