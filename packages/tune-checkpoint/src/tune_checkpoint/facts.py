"""What a model's configuration says about it: architecture and sizes, from each kind's own words."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.gguf.metadata import Metadata
from tune_checkpoint.listing import AnyKind
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.planning import is_object, read_json
from tune_checkpoint.tied import is_tied

EMBEDDINGS = (
    "model.embed_tokens.weight",
    "embed_tokens.weight",
    "token_embd.weight",
    "tok_embeddings.weight",
    "transformer.wte.weight",
    "wte.weight",
    "gpt_neox.embed_in.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
)
"""What the embedding is called in the kinds, and in families of models, that are met most."""

_WRITERS = {"meta": "Llama", "mistral": "Mistral", "litgpt": "LitGPT model", "torchtune": "Llama-like"}
_HF_KEYS = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "num_key_value_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("max_position_embeddings", "n_positions"),
}
_META_KEYS = {
    "num_hidden_layers": ("n_layers",),
    "hidden_size": ("dim",),
    "intermediate_size": ("hidden_dim",),
    "num_attention_heads": ("n_heads",),
    "num_key_value_heads": ("n_kv_heads",),
    "head_dim": ("head_dim",),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("max_position_embeddings", "max_seq_len"),
}
_LITGPT_KEYS = {
    "num_hidden_layers": ("n_layer",),
    "hidden_size": ("n_embd",),
    "intermediate_size": ("intermediate_size",),
    "num_attention_heads": ("n_head",),
    "num_key_value_heads": ("n_query_groups",),
    "head_dim": ("head_size",),
    "vocab_size": ("padded_vocab_size", "vocab_size"),
    "max_position_embeddings": ("block_size",),
}
_GGUF_KEYS = {
    "num_hidden_layers": ("block_count",),
    "hidden_size": ("embedding_length",),
    "intermediate_size": ("feed_forward_length",),
    "num_attention_heads": ("attention.head_count",),
    "num_key_value_heads": ("attention.head_count_kv",),
    "head_dim": ("attention.key_length", "rope.dimension_count"),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("context_length",),
}
"""Field of `ModelSizes` -> what each format calls it."""


class ModelSizes(Struct, frozen=True, omit_defaults=True):
    """The sizes of a model, each where it is known."""

    num_hidden_layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    """Tokens that the model was made for."""


class Facts(Struct, frozen=True):
    """What is known about a model besides its tensors."""

    architecture: str | None
    told_by: str | None
    """What says so: a file's name, `metadata` of a GGUF file, or `tensor names`, which is a guess."""
    sizes: ModelSizes
    is_tied: bool = False
    """A library takes the embedding for the head, by what a `config.json` says or leaves unsaid."""


def read_facts(
    path: Path, kind: AnyKind, tensors: Sequence[TensorSlice], metadata: Metadata | None = None
) -> Facts:
    """Read what stands beside the weights or before them, and guess from the tensors what does not.

    Args:
        path: the checkpoint.
        kind: what it is.
        tensors: all that it has.
        metadata: of a GGUF file.

    Raises:
        CorruptFileError: a configuration cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    if metadata is not None:
        facts = _of_gguf(metadata)
    elif kind == "litgpt":
        facts = _of_litgpt(folder / "model_config.yaml")
    elif kind in ("meta", "mistral"):
        params = read_json(folder / "params.json")
        facts = Facts(_WRITERS[kind], "params.json" if params else None, _sizes(params, _META_KEYS))
    elif kind == "adapter":
        return Facts(None, None, ModelSizes())
    else:
        facts = _of_config(read_json(folder / "config.json"))
    if kind == "meta" and path.is_dir():
        facts = replace(facts, sizes=_of_all_parts(facts.sizes, tensors))
    return _completed(facts, kind, tensors)


def _of_config(config: dict[str, Any]) -> Facts:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")  # pyright: ignore[reportUnknownVariableType]
    inner = config.get("text_config")  # of a model that also sees or hears
    sizes = _sizes({**inner, **config} if is_object(inner) else config, _HF_KEYS)
    return Facts(
        name if isinstance(name, str) else None,
        "config.json" if name else None,
        sizes,
        is_tied(config),
    )


def _of_gguf(metadata: Metadata) -> Facts:
    name = metadata.text("general.architecture")
    keys = {field: tuple(f"{name}.{key}" for key in keys) for field, keys in _GGUF_KEYS.items()}
    values = {key: _integer(metadata, key) for names in keys.values() for key in names}
    return Facts(name, "metadata" if name else None, _sizes(values, keys))


def _integer(metadata: Metadata, key: str) -> int | None:
    try:
        return metadata.integer(key)
    except CorruptFileError:  # some models have one for each layer
        return None


def _of_litgpt(path: Path) -> Facts:
    """Its flat lines `key: value`; what is nested or quoted in other ways is not needed here."""
    if not path.is_file():
        return Facts(None, None, ModelSizes())
    with path.open("rb") as file:
        text = file.read(100_000).decode(errors="replace")
    values: dict[str, Any] = dict(re.findall(r"^(\w+): *(\S+) *$", text, re.MULTILINE))
    name = values.get("name")
    numbers = {key: int(value) for key, value in values.items() if re.fullmatch(r"\d{1,12}", value)}
    return Facts(name, path.name if name else None, _sizes(numbers, _LITGPT_KEYS))


def _sizes(values: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]]) -> ModelSizes:
    """The sizes, each from the first of its keys that has a positive whole number."""
    found = {
        field: next((n for name in names if type(n := values.get(name)) is int and n > 0), None)
        for field, names in keys.items()
    }
    return ModelSizes(**found)


def _of_all_parts(sizes: ModelSizes, tensors: Sequence[TensorSlice]) -> ModelSizes:
    """What Meta's files leave out, from the matrices that each part has some rows of."""
    embeddings = [tensor.shape for tensor in tensors if tensor.name == "tok_embeddings.weight"]
    ups = [tensor.shape for tensor in tensors if tensor.name == "layers.0.feed_forward.w1.weight"]
    if not embeddings or any(len(shape) != 2 for shape in (*embeddings, *ups)):
        return sizes
    # Up to Llama 2, the embedding is split by columns.
    by_rows = embeddings[0][1] == sizes.hidden_size
    vocab_size = sum(shape[0] for shape in embeddings) if by_rows else embeddings[0][0]
    return replace(
        sizes,
        vocab_size=sizes.vocab_size or vocab_size or None,
        intermediate_size=sum(shape[0] for shape in ups) or None,
    )


def _completed(facts: Facts, kind: AnyKind, tensors: Sequence[TensorSlice]) -> Facts:
    """What the configuration leaves out, from the tensors."""
    sizes = asdict(facts.sizes)
    layers = {int(n) for tensor in tensors for n in re.findall(r"(?:layers|blk|h)\.(\d{1,6})\.", tensor.name)}
    sizes["num_hidden_layers"] = sizes["num_hidden_layers"] or (len(layers) or None)
    embedding = next((tensor for tensor in tensors if tensor.name in EMBEDDINGS), None)
    if embedding is not None and len(embedding.shape) == 2 and kind != "meta":
        sizes["vocab_size"] = sizes["vocab_size"] or embedding.shape[0]
        sizes["hidden_size"] = sizes["hidden_size"] or embedding.shape[1]
    heads, width = sizes["num_attention_heads"], sizes["hidden_size"]
    if heads and width and not width % heads:
        sizes["head_dim"] = sizes["head_dim"] or width // heads
    name, told_by = facts.architecture, facts.told_by
    if told_by is None:
        name = _WRITERS.get(kind) or _guess(tensor.name for tensor in tensors)
        told_by = "tensor names" if name else None
    return Facts(name, told_by, ModelSizes(**sizes), facts.is_tied)


def _guess(names: Any) -> str | None:
    patterns = {
        "Llama-like": r"(^|\.)layers\.\d+\.(self_attn\.q_proj|attention\.wq|attn\.q_proj)\.weight$",
        "GPT-2-like": r"(^|\.)h\.\d+\.attn\.c_attn\.weight$",
        "GPT-NeoX-like": r"layers\.\d+\.attention\.query_key_value\.weight$",
    }
    for name in names:
        for guess, pattern in patterns.items():
            if re.search(pattern, name):
                return guess
    return None
