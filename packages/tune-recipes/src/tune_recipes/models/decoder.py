"""A decoder of the Llama shape: attention, MLP, block, model. Read it from top to bottom.

Modules carry the names of Hugging Face's checkpoints, so that loading is name equality. Parameters are used
inside the `forward` of the module that owns them, and everything runs under the root's `forward`: this is
where FSDP gathers shards and where activation checkpointing and compilation take hold.

Shapes:
    B batch, S sequence (new tokens), T tokens that can be looked at (seen ones and new ones)
    D hidden_size, I intermediate_size, V vocab_size, P kept positions
    N query heads, K key/value heads, H width of a head
"""

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - as all the world calls it
from torch import Tensor, nn

from tune_recipes.models.cache import KVCache
from tune_recipes.models.config import ModelConfig
from tune_recipes.models.rope import rope_tables, rotate


class RMSNorm(nn.Module):
    """Scale to a root mean square of one, in float32, then by a weight per dimension.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, equation 4.
    """

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Normalise the last dimension."""
        x32_BSD = x_BSD.float()
        scale_BS1 = torch.rsqrt(x32_BSD.square().mean(-1, keepdim=True) + self.eps)
        # Back to the model's type before the weight: this is where transformers rounds.
        return self.weight * (x32_BSD * scale_BS1).to(x_BSD.dtype)


class Attention(nn.Module):
    """Grouped-query attention: groups of query heads share a key/value head.

    Source: Ainslie et al., GQA, section 2.2.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
        width, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, config.num_attention_heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, width, bias=bias)

    def forward(
        self, x_BSD: Tensor, rope: tuple[Tensor, Tensor], mask_B1ST: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """Let each token look at those that the mask allows; without a mask, at itself and all before it."""
        q_BNSH = rotate(self._heads(self.q_proj(x_BSD)), *rope)
        k_BKTH = rotate(self._heads(self.k_proj(x_BSD)), *rope)
        v_BKTH = self._heads(self.v_proj(x_BSD))
        if cache is not None:
            k_BKTH, v_BKTH = cache.append(self.layer, k_BKTH, v_BKTH)
        out_BNSH = F.scaled_dot_product_attention(
            q_BNSH,
            k_BKTH,
            v_BKTH,
            attn_mask=mask_B1ST,
            dropout_p=self.dropout if self.training else 0.0,
            # A single new token sees everything; SDPA would align its causal triangle with the first key.
            is_causal=mask_B1ST is None and q_BNSH.shape[2] > 1,
            enable_gqa=q_BNSH.shape[1] != k_BKTH.shape[1],
        )
        return self.o_proj(out_BNSH.transpose(1, 2).flatten(2))

    def _heads(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """The gated feed-forward layer.

    Source: Shazeer, GLU Variants Improve Transformer, equation 6 (SwiGLU).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Transform each token by itself."""
        return self.down_proj(F.silu(self.gate_proj(x_BSD)) * self.up_proj(x_BSD))


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to the residual stream after."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x_BSD: Tensor, rope: tuple[Tensor, Tensor], mask_B1ST: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """Pass the residual stream on."""
        x_BSD = x_BSD + self.self_attn(self.input_layernorm(x_BSD), rope, mask_B1ST, cache)
        return x_BSD + self.mlp(self.post_attention_layernorm(x_BSD))


class Backbone(nn.Module):
    """From token ids to the last hidden state: what checkpoints name `model.`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        # padding_idx: no gradient reaches the padding token's embedding, as in transformers.
        # from_pretrained draws no numbers: on the meta device that would import the compiler, a second.
        self.embed_tokens = nn.Embedding.from_pretrained(
            torch.empty(config.vocab_size, config.hidden_size), freeze=False, padding_idx=config.pad_token_id
        )
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        input_ids_BS: Tensor,
        real_BS: Tensor | None = None,
        positions_BS: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return the last hidden state, (B, S, D), normalised."""
        num_new, device = input_ids_BS.shape[1], input_ids_BS.device
        num_seen = cache.length if cache is not None else 0
        real_BT = cache.mark_real(real_BS, num_new) if cache is not None else real_BS
        if positions_BS is None:
            positions_BS = _positions(num_seen, num_new, real_BT, device)
        mask_B1ST = _attention_mask(num_seen, num_new, real_BT, self.config.sliding_window, device)
        rope = rope_tables(self.config, positions_BS)
        x_BSD = self.embed_tokens(input_ids_BS)
        for block in self.layers:
            x_BSD = block(x_BSD, rope, mask_B1ST, cache)
        if cache is not None:
            cache.advance(num_new)
        return self.norm(x_BSD)


class Decoder(nn.Module):
    """A causal language model."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights_()

    def tie_weights_(self) -> None:
        """Make head and embedding one parameter, if the config says so; `to_empty` silently unties them."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        input_ids_BS: Tensor,
        *,
        keep_BS: Tensor | None = None,
        attention_mask_BS: Tensor | None = None,
        positions_BS: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Compute the logits of the token after each position.

        Batches that are padded on the right need no mask in training: no real token looks at what follows it.

        Args:
            input_ids_BS: (B, S) int64.
            keep_BS: (B, S) bool, where logits are wanted. With a vocabulary of 50,000 or more the logits are
                by far the largest tensor, and prompts and padding have no use for theirs.
            attention_mask_BS: (B, S) bool or int, 1 for real tokens and 0 for padding on either side.
            positions_BS: (B, S) int64; by default each text's tokens are counted, padding left out.
            cache: Seen tokens, which the new ones follow; the new ones are added to it.

        Returns:
            (P, V) for the P kept positions in reading order, or (B, S, V) without `keep_BS`.
        """
        real_BS = attention_mask_BS.bool() if attention_mask_BS is not None else None
        hidden = self.model(input_ids_BS, real_BS, positions_BS, cache)
        if keep_BS is not None:
            hidden = hidden[keep_BS]
        return cast(Tensor, self.lm_head(hidden))


def _positions(num_seen: int, num_new: int, real_BT: Tensor | None, device: torch.device) -> Tensor:
    """Number the new tokens within their texts: (B or 1, S) int64."""
    if real_BT is None:
        return torch.arange(num_seen, num_seen + num_new, device=device)[None]
    return (real_BT.cumsum(-1) - 1).clamp(min=0)[:, num_seen:]


def _attention_mask(
    num_seen: int, num_new: int, real_BT: Tensor | None, window: int | None, device: torch.device
) -> Tensor | None:
    """Say which tokens each new one may look at: (B or 1, 1, S, T) bool, or None for "all up to itself"."""
    total = num_seen + num_new
    if window is not None and total <= window:
        window = None
    # SDPA's causal triangle starts at the first key: right without seen tokens, or with one new token.
    if real_BT is None and window is None and (num_seen == 0 or num_new == 1):
        return None
    to_T = torch.arange(total, device=device)
    from_S1 = to_T[num_seen:, None]
    mask_ST = to_T <= from_S1
    if window is not None:
        mask_ST = mask_ST & (to_T > from_S1 - window)
    if real_BT is None:
        return mask_ST[None, None]
    # Padding looks at itself alone: a row without any key is NaN in some of SDPA's kernels.
    mask_BST = (mask_ST & real_BT[:, None, :]) | (to_T == from_S1)
    return mask_BST[:, None]
