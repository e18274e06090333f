"""Whether a decoder's tensors have the names and shapes that its `config.json` gives them."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from tune_checkpoint.checks.problems import Problem, problem
from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.hf import BUFFERS
from tune_checkpoint.plan import TensorPlan, TensorSlice
from tune_checkpoint.planning import positive_count
from tune_checkpoint.tied import is_tied

CONFIG = "config.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
MAX_SHOWN = 20
"""Tensors of one kind of fault that are named; the rest are counted."""

Shape = tuple[int, ...]


class Family(Struct, frozen=True):
    """What the layers of a family of models have, where they differ from Llama's."""

    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    biases: Literal["as configured", "query, key, value", "none"] = "as configured"
    """Of the attention's projections."""
    query_norm: Literal["none", "of a head", "of all heads"] = "none"
    """And of the keys."""
    is_fused: bool = False
    """Query, key and value are one projection, gate and up another."""
    has_mlp_bias: bool = False
    """Where `mlp_bias` says so."""
    head_dim: int | None = None
    """Where `config.json` leaves it out; None is what the heads have of the hidden size."""


_GEMMA2_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
FAMILIES: dict[str, Family] = {
    "llama": Family(has_mlp_bias=True),
    "mistral": Family(biases="none"),
    "qwen2": Family(biases="query, key, value"),
    "qwen3": Family(query_norm="of a head", head_dim=128),
    "gemma": Family(head_dim=256),
    "gemma2": Family(_GEMMA2_NORMS, head_dim=256),
    "gemma3_text": Family(_GEMMA2_NORMS, query_norm="of a head", head_dim=256),
    "phi3": Family(biases="none", is_fused=True),
    "granite": Family(has_mlp_bias=True),
    "smollm3": Family(has_mlp_bias=True),
    "olmo2": Family(("post_attention_layernorm", "post_feedforward_layernorm"), query_norm="of all heads"),
}
"""By `model_type`.

Source: `modeling_*.py` and `configuration_*.py` of transformers 5.
"""


def why_unchecked(config: Mapping[str, Any]) -> str | None:
    """Say why a model's shapes are not known here; None if they are."""
    if not config:
        return f"no {CONFIG}"
    if config.get("quantization_config"):
        return "quantised weights"
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        return f"architecture {family!r} is not known"
    names = config.get("architectures")
    if names and not (isinstance(names, list) and str(names[0]).endswith("ForCausalLM")):  # pyright: ignore[reportUnknownArgumentType]
        return "not a model that generates text"
    return None


def check_shapes(tensors: Iterable[TensorSlice | TensorPlan], config: Mapping[str, Any]) -> list[Problem]:
    """Hold names and shapes against the configuration of a family that is known.

    Args:
        tensors: all that the checkpoint has.
        config: its `config.json`.
    """
    found = {tensor.name: tensor for tensor in tensors if not tensor.name.endswith(BUFFERS)}
    try:
        expected = expected_shapes(config, max_layers=len(found))
    except CorruptFileError as error:
        return [Problem("shapes", CONFIG, None, str(error))]
    has_no_head = is_tied(config)
    wrong = [
        (tensor, f"has shape {list(tensor.shape)}; {CONFIG} makes it {list(expected[name])}")
        for name, tensor in found.items()
        if name in expected and tensor.shape != expected[name]
    ]
    unknown = [
        (tensor, f"is no part of the model that {CONFIG} describes")
        for name, tensor in found.items()
        if name not in expected
    ]
    missing = [
        problem("shapes", CONFIG, f"is to be {list(shape)}, but is in no file", name)
        for name, shape in expected.items()
        if name not in found and not (name == HEAD and has_no_head)
    ]
    faults = [
        problem("shapes", _file(tensor), what, tensor.name)
        for group in (wrong, unknown)
        for tensor, what in group
    ]
    return [*_shortened(faults), *_shortened(missing)]


def _file(tensor: TensorSlice | TensorPlan) -> Path:
    return Path(tensor.path if isinstance(tensor, TensorSlice) else tensor.sources[0].path)


def _shortened(faults: list[Problem]) -> Iterator[Problem]:
    yield from faults[:MAX_SHOWN]
    if len(faults) > MAX_SHOWN:
        yield problem("shapes", CONFIG, f"{len(faults) - MAX_SHOWN} further tensors do not fit it")


def expected_shapes(config: Mapping[str, Any], *, max_layers: int) -> dict[str, Shape]:
    """The tensors that a model has, by name.

    Args:
        config: `config.json` of a family that is known.
        max_layers: more than this are an error: a number in a file shall not decide how long this takes.

    Raises:
        CorruptFileError: a size is missing or impossible.
    """
    family = FAMILIES[config["model_type"]]
    count = partial(positive_count, CONFIG, config)
    hidden, heads, layers = count("hidden_size"), count("num_attention_heads"), count("num_hidden_layers")
    if layers > max_layers:
        raise CorruptFileError(
            f"{CONFIG}: num_hidden_layers is {layers}, but there are {max_layers} tensors in all"
        )
    layer = dict(_layer(family, config, hidden, heads))
    shapes: dict[str, Shape] = {EMBEDDING: (count("vocab_size"), hidden)}
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {**shapes, "model.norm.weight": (hidden,), HEAD: shapes[EMBEDDING]}


def _layer(family: Family, config: Mapping[str, Any], hidden: int, heads: int) -> Iterator[tuple[str, Shape]]:
    """Names below `model.layers.N.`, and shapes."""
    count = partial(positive_count, CONFIG, config)
    head_dim = count("head_dim", family.head_dim or hidden // heads)
    queries, keys = heads * head_dim, count("num_key_value_heads", heads) * head_dim
    inner = count("intermediate_size")
    projections = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)]
    if family.is_fused:
        projections = [("qkv_proj", queries + 2 * keys)]
    has_biases = family.biases == "as configured" and config.get("attention_bias") is True
    for name, rows in projections:
        yield f"self_attn.{name}.weight", (rows, hidden)
        if has_biases or family.biases == "query, key, value":
            yield f"self_attn.{name}.bias", (rows,)
    yield "self_attn.o_proj.weight", (hidden, queries)
    if has_biases:
        yield "self_attn.o_proj.bias", (hidden,)
    if family.query_norm != "none":
        is_of_head = family.query_norm == "of a head"
        yield "self_attn.q_norm.weight", (head_dim if is_of_head else queries,)
        yield "self_attn.k_norm.weight", (head_dim if is_of_head else keys,)
    yield from _feed_forward(family, config, hidden, inner)
    for name in family.norms:
        yield f"{name}.weight", (hidden,)


def _feed_forward(
    family: Family, config: Mapping[str, Any], hidden: int, inner: int
) -> Iterator[tuple[str, Shape]]:
    projections = [("gate_proj", inner), ("up_proj", inner)]
    if family.is_fused:
        projections = [("gate_up_proj", 2 * inner)]
    has_biases = family.has_mlp_bias and config.get("mlp_bias") is True
    for name, rows in projections:
        yield f"mlp.{name}.weight", (rows, hidden)
        if has_biases:
            yield f"mlp.{name}.bias", (rows,)
    yield "mlp.down_proj.weight", (hidden, inner)
    if has_biases:
        yield "mlp.down_proj.bias", (hidden,)
