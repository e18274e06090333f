"""`params.json`: the sizes of a model, as Meta and Mistral write them.

Source: `ModelArgs` in models/llama3/args.py of meta-llama/llama-models; `TransformerArgs` in
src/mistral_inference/args.py of mistralai/mistral-inference.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from tune_checkpoint.errors import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.meta.decoder import StatedSizes
from tune_checkpoint.planning import check_side_bytes, is_object

PARAMS = "params.json"

Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Positive = Annotated[float, Meta(gt=0)]

REFUSED = {
    "moe": "a mixture of experts",
    "moe_args": "a mixture of experts",
    "quantization": "quantised weights",
    "quantization_args": "quantised weights",
    "lora": "LoRA weights beside the model's",
    "lora_args": "LoRA weights beside the model's",
    "vision_encoder": "a vision encoder",
    "vision_model": "a vision encoder",
    "vision_chunk_size": "a vision encoder",
    "vision_args": "a vision encoder",
    "multimodal": "a vision or audio encoder",
    "q_lora_rank": "latent attention",
    "kv_lora_rank": "latent attention",
    "yarn": "rotary scaling of type yarn",
    "llama_4_scaling": "attention scaling by position",
    "_sliding_window": "a sliding window of its own in each layer",
}
"""Keys of models that are not this decoder, unless their value is empty."""
WITHOUT_EFFECT = {"max_batch_size", "model_parallel_size", "vision_num_cross_attention_layers"}


class Params(Struct, frozen=True):
    """What a `params.json` says; a field has the name of its key there."""

    dim: Count
    n_layers: Count
    n_heads: Count
    norm_eps: Positive
    n_kv_heads: Count | None = None
    head_dim: Count | None = None
    hidden_dim: Count | None = None
    """Of the feed-forward network. Mistral states it, Meta computes it from the next two."""
    multiple_of: Count | None = None
    ffn_dim_multiplier: Positive | None = None
    vocab_size: int | None = None
    """-1: as many as the tokenizer has."""
    rope_theta: Positive | None = None
    use_scaled_rope: bool = False
    rope_scaling_factor: Positive | None = None
    sliding_window: int | str | None = None
    max_seq_len: Count | None = None
    max_position_embeddings: Count | None = None
    tied_embeddings: bool = False
    model_type: str = "transformer"

    @property
    def is_mistral(self) -> bool:
        """It is in Mistral's words."""
        return self.hidden_dim is not None

    @property
    def kv_heads(self) -> int:
        """Key-value heads, however they are stated."""
        return self.n_kv_heads or self.n_heads

    @property
    def head_size(self) -> int:
        """Elements of a head, however they are stated."""
        return self.head_dim or self.dim // self.n_heads

    @property
    def stated(self) -> StatedSizes:
        """The sizes, in Hugging Face's words."""
        return StatedSizes(self.dim, self.n_layers, self.n_heads, self.kv_heads, self.head_size)


def read_params(folder: Path) -> tuple[Params, list[str]]:
    """Read `params.json`, and say which of its keys are not known.

    Raises:
        CheckpointNotFoundError: there is none.
        CorruptFileError: it is not valid, or its numbers contradict each other.
        UnsupportedCheckpointError: it describes a model that is not this decoder.
    """
    path = folder / PARAMS
    try:
        check_side_bytes(path)
        values: Any = msgspec.json.decode(path.read_bytes())
        if is_object(values) and is_object(inner := values.get("model")):
            values = inner
        if not is_object(values):
            raise CorruptFileError(f"{path}: not a JSON object")
        _refuse(path, values)
        params = msgspec.convert(values, Params)
    except OSError as error:
        raise CheckpointNotFoundError(
            f"{path}: cannot be read: {error.strerror}; it comes with the weights: copy it from their source"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(f"{path}: {error}") from error
    _check(path, params)
    known = {*Params.__struct_fields__, *WITHOUT_EFFECT, *REFUSED}
    unknown = sorted(key for key in values if key not in known)
    return params, [f"{path.name}: {key!r} is not known here, and was left out" for key in unknown]


def sliding_window(path: Path, params: Params) -> int | None:
    """The sliding window; Mistral also wrote it as text."""
    value = params.sliding_window
    if value is None:
        return None
    try:
        window = int(value)
    except ValueError:
        window = 0
    if window <= 0:
        raise CorruptFileError(f"{path}: sliding_window is {value!r}; it is to be a positive number")
    return window


def _refuse(path: Path, values: dict[str, Any]) -> None:
    for key, what in REFUSED.items():
        if values.get(key) not in (None, False, -1, {}, []):
            raise UnsupportedCheckpointError(
                f"{path}: {what} ({key}); dense Llama and Mistral models of text can be converted"
            )
    if values.get("model_type", "transformer") != "transformer":
        raise UnsupportedCheckpointError(
            f"{path}: model_type is {values['model_type']!r}; only 'transformer' can be converted"
        )


def _check(path: Path, params: Params) -> None:
    if params.n_heads % params.kv_heads:
        raise CorruptFileError(
            f"{path}: {params.n_heads} query heads (n_heads) do not share {params.kv_heads} key-value heads "
            "(n_kv_heads)"
        )
    if params.head_dim is None and params.dim % params.n_heads:
        raise CorruptFileError(f"{path}: dim {params.dim} is no multiple of n_heads {params.n_heads}")
    if params.head_size % 2:
        raise CorruptFileError(f"{path}: a head of {params.head_size} elements cannot be rotated in pairs")
