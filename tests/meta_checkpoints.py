"""Small Llama models under Meta's names, split as Meta splits them, and what they compute."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]

ROW_PARALLEL = ("attention.wo.weight", "feed_forward.w2.weight")
"""Split by columns; other matrices are split by rows."""

LLAMA3 = {"rope_theta": 500000.0}
SCALED = LLAMA3 | {"use_scaled_rope": True}
"""What `params.json` of Llama 3 has, and of Llama 3.1."""

HF_NAMES = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}


@dataclass(frozen=True)
class MetaModel:
    """A model to make. Sizes are such that up to eight parts are possible."""

    dim: int = 64
    n_layers: int = 2
    n_heads: int = 8
    n_kv_heads: int | None = None
    head_dim: int = 8
    hidden_dim: int = 256
    vocab_size: int = 96
    is_tied: bool = False
    dtype: torch.dtype = torch.bfloat16
    params: dict[str, Any] = field(default_factory=dict)
    """To be added to `params.json`."""

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    def params_json(self) -> dict[str, Any]:
        """As Meta writes it: the width of the feed-forward network follows from the last two."""
        params: dict[str, Any] = {
            "dim": self.dim,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "norm_eps": 1e-5,
            "vocab_size": -1,
            "multiple_of": 256,
        }
        if self.n_kv_heads is not None:
            params["n_kv_heads"] = self.n_kv_heads
        return params | self.params


def random_weights(model: MetaModel) -> Weights:
    """The whole model, in the order in which Meta saves it."""
    generator = torch.Generator().manual_seed(model.dim + model.kv_heads)
    query, key = model.n_heads * model.head_dim, model.kv_heads * model.head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (model.vocab_size, model.dim)}
    for layer in range(model.n_layers):
        shapes |= {
            f"layers.{layer}.attention.wq.weight": (query, model.dim),
            f"layers.{layer}.attention.wk.weight": (key, model.dim),
            f"layers.{layer}.attention.wv.weight": (key, model.dim),
            f"layers.{layer}.attention.wo.weight": (model.dim, query),
            f"layers.{layer}.feed_forward.w1.weight": (model.hidden_dim, model.dim),
            f"layers.{layer}.feed_forward.w2.weight": (model.dim, model.hidden_dim),
            f"layers.{layer}.feed_forward.w3.weight": (model.hidden_dim, model.dim),
            f"layers.{layer}.attention_norm.weight": (model.dim,),
            f"layers.{layer}.ffn_norm.weight": (model.dim,),
        }
    shapes |= {"norm.weight": (model.dim,), "output.weight": (model.vocab_size, model.dim)}
    weights = {
        name: (torch.randn(shape, generator=generator) / 8 + (len(shape) == 1)).to(model.dtype)
        for name, shape in shapes.items()
    }
    if model.is_tied:
        weights["output.weight"] = weights["tok_embeddings.weight"]
    return weights


def write_meta(
    folder: Path,
    model: MetaModel,
    weights: Weights,
    num_parts: int = 1,
    embedding: Literal["rows", "columns"] = "rows",
) -> Path:
    """Write `consolidated.NN.pth` and `params.json`.

    Args:
        folder: to be made.
        model: for `params.json` and the heads.
        weights: the whole model.
        num_parts: processes that Meta would run it with.
        embedding: how it is split: by columns up to Llama 2, by rows since.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(model.params_json()))
    for part in range(num_parts):
        pieces = {
            name: _piece(name, tensor, model, part, num_parts, embedding) for name, tensor in weights.items()
        }
        pieces["rope.freqs"] = torch.ones(model.head_dim // 2)
        if model.is_tied and embedding == "rows":
            pieces["output.weight"] = pieces["tok_embeddings.weight"]
        torch.save(pieces, folder / f"consolidated.{part:02}.pth")
    return folder


def write_random(folder: Path, model: MetaModel | None = None, **options: Any) -> tuple[MetaModel, Weights]:
    """Write a model with random weights; options are those of `write_meta`."""
    model = model or MetaModel()
    weights = random_weights(model)
    write_meta(folder, model, weights, **options)
    return model, weights


def rewrite(path: Path, **changes: Tensor | None) -> None:
    """Put tensors of a file in the place of others, or leave them out."""
    weights = torch.load(path) | changes
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, path)


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def _piece(name: str, tensor: Tensor, model: MetaModel, part: int, num_parts: int, embedding: str) -> Tensor:
    if tensor.ndim == 1:
        return tensor.clone()
    if ("attention.wk" in name or "attention.wv" in name) and num_parts > model.kv_heads:
        # Each part needs the one head that its query heads share.
        head = part * model.kv_heads // num_parts
        return tensor[head * model.head_dim : (head + 1) * model.head_dim].clone()
    by_columns = name.endswith(ROW_PARALLEL) or (name == "tok_embeddings.weight" and embedding == "columns")
    return tensor.chunk(num_parts, dim=int(by_columns))[part].clone()


def hf_weights(model: MetaModel, weights: Weights) -> Weights:
    """The same model under Hugging Face's names and with its order of rotated elements."""
    renamed: Weights = {
        "model.embed_tokens.weight": weights["tok_embeddings.weight"],
        "model.norm.weight": weights["norm.weight"],
    }
    if not model.is_tied:
        renamed["lm_head.weight"] = weights["output.weight"]
    for layer in range(model.n_layers):
        for name, hf_name in HF_NAMES.items():
            tensor = weights[f"layers.{layer}.{name}"]
            if name in ("attention.wq.weight", "attention.wk.weight"):
                tensor = in_halves(tensor, model.head_dim)
            renamed[f"model.layers.{layer}.{hf_name}"] = tensor
    return renamed


def in_halves(matrix: Tensor, head_dim: int) -> Tensor:
    """Rows of each head: those with even numbers first, then the odd ones."""
    rows = torch.arange(matrix.shape[0]).reshape(-1, head_dim)
    return matrix[torch.cat([rows[:, ::2], rows[:, 1::2]], dim=1).flatten()]


def meta_logits(model: MetaModel, weights: Weights, tokens: Tensor) -> Tensor:
    """What Meta's program computes, in float32: neighbouring elements are rotated as complex numbers.

    Args:
        model: sizes, and what `params.json` says.
        weights: the whole model.
        tokens: (S,) ids.

    Returns:
        (S, V) logits.
    """
    params = model.params_json()
    w = {name: tensor.float() for name, tensor in weights.items()}
    turns = _turns(params, len(tokens), model.head_dim)
    mask = torch.full((len(tokens), len(tokens)), -math.inf).triu(1)
    h_SD = w["tok_embeddings.weight"][tokens]
    for layer in range(model.n_layers):
        at = f"layers.{layer}."
        x_SD = _norm(h_SD, w[at + "attention_norm.weight"], params)
        q, k, v = (
            (x_SD @ w[f"{at}attention.{name}.weight"].T).view(len(tokens), -1, model.head_dim)
            for name in ("wq", "wk", "wv")
        )
        q, k = _rotated(q, turns), _rotated(k, turns)
        groups = model.n_heads // model.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(model.head_dim) + mask
        mixed = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)
        h_SD = h_SD + mixed @ w[at + "attention.wo.weight"].T
        x_SD = _norm(h_SD, w[at + "ffn_norm.weight"], params)
        gate = functional.silu(x_SD @ w[at + "feed_forward.w1.weight"].T)
        h_SD = (
            h_SD + (gate * (x_SD @ w[at + "feed_forward.w3.weight"].T)) @ w[at + "feed_forward.w2.weight"].T
        )
    return _norm(h_SD, w["norm.weight"], params) @ w["output.weight"].T


def _norm(x: Tensor, weight: Tensor, params: dict[str, Any]) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weight


def _rotated(x_SHd: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_SHd.reshape(*x_SHd.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[:, None, :]).flatten(-2)


def _turns(params: dict[str, Any], length: int, head_dim: int) -> Tensor:
    """(S, head_dim / 2) complex numbers; with the scaling of Llama 3.1 where it is used."""
    theta = params.get("rope_theta", 10000.0)
    speeds = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if params.get("use_scaled_rope"):
        factor = params.get("rope_scaling_factor", 8.0)
        waves = 8192 * speeds / (2 * math.pi)
        share = ((waves - 1) / (4 - 1)).clamp(0, 1)
        speeds = share * speeds + (1 - share) * speeds / factor
    angles = torch.outer(torch.arange(length, dtype=torch.float64), speeds)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
