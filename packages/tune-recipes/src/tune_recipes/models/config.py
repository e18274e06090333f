"""The shape of a model, read from and written to Hugging Face's `config.json`. Imports no torch.

Two dialects of the file are in use: `rope_theta`, `rope_scaling` and `torch_dtype` until transformers 4, and
`rope_parameters` and `dtype` since transformers 5. Both are read; what is written carries both.

What a file asks for and the decoder does not do is refused by name: a model that is computed a little wrong
trains without complaint and is noticed weeks later.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from tune_recipes.errors import UserError

# model_type -> the class name in `architectures`, and what the file means by leaving a field out.
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "mistral": (
        "MistralForCausalLM",
        {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    ),
}
SUPPORTED_ARCHITECTURES = tuple(architecture for architecture, _ in _FAMILIES.values())

# Fields that change what a Llama-shaped model computes, with the one value under which the decoder is right.
_ONLY_VALUE: dict[str, Any] = {
    "hidden_act": "silu",
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
    "layer_types": None,
    "per_layer_config": None,
    "is_causal": True,
    "rope_interleaved": False,
}


RopeType = Literal["default", "linear", "llama3"]


class RopeParameters(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Rotary position embedding: its base, and how it is stretched beyond the context it was trained with."""

    rope_type: RopeType = "default"
    """How the frequencies are scaled: not at all, all alike, or as Llama 3.1 does."""
    rope_theta: float = 10000.0
    """Base of the frequencies."""
    factor: float | None = None
    """How many times longer the context became (linear, llama3)."""
    low_freq_factor: float | None = None
    """Wavelengths above `original_max_position_embeddings / low_freq_factor` are fully stretched (llama3)."""
    high_freq_factor: float | None = None
    """Wavelengths below `original_max_position_embeddings / high_freq_factor` are left alone (llama3)."""
    original_max_position_embeddings: int | None = None
    """Tokens of context that the model was trained with before the stretching (llama3)."""

    def __post_init__(self):
        needed = {
            "default": (),
            "linear": ("factor",),
            "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        }[self.rope_type]
        for name in needed:
            value = getattr(self, name)
            if value is None or value <= 0:
                raise UserError(f"rope_type {self.rope_type!r} needs a positive {name}, found {value}")
        if self.rope_type == "llama3" and (self.high_freq_factor or 0) <= (self.low_freq_factor or 0):
            raise UserError(
                f"high_freq_factor {self.high_freq_factor} must exceed low_freq_factor {self.low_freq_factor}"
            )
        if self.rope_theta <= 0:
            raise UserError(f"rope_theta must be positive, found {self.rope_theta}")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder, in Hugging Face's field names."""

    model_type: Literal["llama", "mistral"] = "llama"
    """The family. They differ in one thing: only `mistral` has a sliding window, only `llama` has biases."""
    architectures: tuple[str, ...] = ()
    """Class that transformers loads the model with; follows from `model_type`."""
    vocab_size: int
    """Rows of the embedding: tokens of the tokenizer, rounded up by some checkpoints."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width inside the MLP."""
    num_hidden_layers: int
    """Blocks."""
    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int = 0
    """Key and value heads, each shared by a group of query heads; 0: as many as query heads."""
    head_dim: int = 0
    """Width of a head; 0: `hidden_size / num_attention_heads`."""
    hidden_act: Literal["silu"] = "silu"
    """Activation inside the MLP."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square before its root is taken."""
    rope_parameters: RopeParameters = RopeParameters()
    """Rotary position embedding."""
    max_position_embeddings: int = 2048
    """Longest context, in tokens."""
    tie_word_embeddings: bool = False
    """The output head is the embedding matrix itself."""
    attention_bias: bool = False
    """Biases on the four attention projections (llama)."""
    attention_dropout: float = 0.0
    """Share of attention weights dropped in training."""
    mlp_bias: bool = False
    """Biases on the three MLP projections (llama)."""
    sliding_window: int | None = None
    """How many tokens back a token looks, itself included (mistral); null: to the beginning."""
    bos_token_id: int | None = None
    """Token that begins a text."""
    eos_token_id: int | tuple[int, ...] | None = None
    """Token or tokens that end one."""
    pad_token_id: int | None = None
    """Token that fills up a batch; its input embedding gets no gradient, as in transformers."""
    initializer_range: float = 0.02
    """Standard deviation of randomly initialised weights."""

    def __post_init__(self):
        fill = msgspec.structs.force_setattr  # the two derived sizes and the class name, once and here
        if not self.architectures:
            fill(self, "architectures", (_FAMILIES[self.model_type][0],))
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not self.num_key_value_heads:
            fill(self, "num_key_value_heads", self.num_attention_heads)
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads:
                raise UserError(
                    f"hidden_size {self.hidden_size} is no multiple of num_attention_heads "
                    f"{self.num_attention_heads}; set head_dim"
                )
            fill(self, "head_dim", self.hidden_size // self.num_attention_heads)
        self._check()

    def _check(self):
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise UserError(f"head_dim must be even for rotary positions, found {self.head_dim}")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise UserError(f"sliding_window must be null or at least 1, found {self.sliding_window}")
        # transformers ignores these where they do not belong: the same folder would mean two models.
        if self.model_type == "llama" and self.sliding_window is not None:
            raise UserError("sliding_window belongs to model_type 'mistral'; 'llama' has none: make it null")
        if self.model_type == "mistral" and (self.attention_bias or self.mlp_bias):
            raise UserError(
                "attention_bias and mlp_bias belong to model_type 'llama'; 'mistral' has no biases"
            )
        # A negative id counts from the end in transformers; -1 stands in old Llama files for "none".
        if self.pad_token_id is not None and not -self.vocab_size <= self.pad_token_id < self.vocab_size:
            raise UserError(
                f"pad_token_id {self.pad_token_id} is outside the vocabulary of {self.vocab_size}"
            )


def read_model_config(folder: Path | str) -> ModelConfig:
    """Read the `config.json` of a Hugging Face model folder, in either dialect.

    Args:
        folder: The model folder.

    Returns:
        The model's shape, with derived sizes filled in.

    Raises:
        UserError: The folder or the file is missing, the architecture is not supported, a value is malformed,
            or the file asks for something that the decoder does not do.
    """
    path = Path(folder) / "config.json"
    raw = read_config_json(folder)
    family = _supported_family(raw, path)
    for name, only in _ONLY_VALUE.items():
        if raw.get(name, only) not in (only, None):
            raise UserError(f"{path}: {name}: {raw[name]!r} is not supported, only {json.dumps(only)} is")
    defaults = _FAMILIES[family][1]
    known = {name: raw[name] for name in ModelConfig.__struct_fields__ if raw.get(name) is not None}
    if "sliding_window" in raw:
        known["sliding_window"] = raw["sliding_window"]  # null says "none", absence says the family's default
    fields = {**defaults, **known, "rope_parameters": _rope_of(raw, path)}
    try:
        return msgspec.convert(fields, ModelConfig)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {_say(error)}") from None


def read_config_json(folder: Path | str) -> dict[str, Any]:
    """Return the `config.json` of a model folder as it stands.

    Raises:
        UserError: There is no such folder, no such file in it, or no JSON object in the file.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not folder.is_dir():
        what = "is a file, not a model folder" if folder.exists() else "no such model folder"
        raise UserError(
            f"{folder}: {what}. Expected a Hugging Face folder with config.json and *.safetensors."
        )
    if not path.is_file():
        found = sorted(entry.name for entry in folder.iterdir())
        there = "there is " + ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        raise UserError(
            f"{folder}: no config.json in it; {there if found else 'the folder is empty'}. "
            "Expected a Hugging Face folder with config.json and *.safetensors."
        )
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return cast("dict[str, Any]", raw)


def hf_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Make what stands in `config.json`, for readers of both dialects.

    Args:
        config: The model's shape.
        dtype: Type of the stored weights in torch's spelling, such as `bfloat16`.
    """
    fields = msgspec.to_builtins(config)
    rope = {"rope_type": config.rope_parameters.rope_type, **fields.pop("rope_parameters")}
    rope["rope_theta"] = config.rope_parameters.rope_theta
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    return {
        **fields,
        "rope_parameters": rope,
        "rope_theta": rope["rope_theta"],
        # "type" is what "rope_type" was called when linear scaling appeared.
        "rope_scaling": None if rope["rope_type"] == "default" else {"type": rope["rope_type"], **scaling},
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def _supported_family(raw: dict[str, Any], path: Path) -> Any:
    """Return the model_type, unless it or the class is one that the decoder does not do."""
    model_type: Any = raw.get("model_type")
    architectures: Any = raw.get("architectures")
    if not isinstance(model_type, str | None):
        raise UserError(f"{path}: model_type: expected a text, found {json.dumps(model_type)}")
    if not _is_texts(architectures or []):
        raise UserError(f"{path}: architectures: expected a list of texts, found {json.dumps(architectures)}")
    if model_type is None and architectures:
        model_type = {name: family for family, (name, _) in _FAMILIES.items()}.get(architectures[0])
    expected = _FAMILIES[model_type][0] if model_type in _FAMILIES else None
    if expected is None or (architectures and architectures[0] != expected):
        named = architectures[0] if architectures else f"model_type {model_type!r}"
        raise UserError(
            f"{path}: {named} is not supported; supported are {', '.join(SUPPORTED_ARCHITECTURES)} "
            "(Llama, SmolLM2, Mistral and what shares their shape)."
        )
    raw["model_type"] = model_type
    return model_type


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[object]", value))


def _rope_of(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return `rope_parameters` from either dialect, without what says nothing."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(raw.get(name), dict | None):
            raise UserError(f"{path}: {name}: expected an object or null, found {json.dumps(raw[name])}")
    # rope_scaling wins over rope_parameters where both stand, as in transformers.
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    old_name = rope.pop("type", "default")
    rope.setdefault("rope_type", old_name)
    rope.setdefault("rope_theta", raw.get("rope_theta"))
    if rope["rope_type"] not in get_args(RopeType):
        raise UserError(
            f"{path}: rope_type: {rope['rope_type']!r} is not supported, only {', '.join(get_args(RopeType))}"
        )
    if rope["rope_type"] == "llama3":
        rope.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    if rope.get("partial_rotary_factor") == 1.0:
        del rope["partial_rotary_factor"]
    return {name: value for name, value in rope.items() if value is not None}


def _say(error: msgspec.ValidationError) -> str:
    """Turn "Expected `int`, got `str` - at `$.hidden_size`" into "hidden_size: expected int, got str"."""
    message = str(error).replace("`", "")
    match = re.fullmatch(r"(.*) - at \$\.(.*)", message, re.DOTALL)
    if not match:
        return message
    return f"{match[2]}: {match[1][0].lower()}{match[1][1:]}"
