"""Keys and values of the tokens that a model has already seen, for generation.

Shapes: L layers, B batch, K key/value heads, T room in tokens, S new tokens, H width of a head.
"""

import torch
from torch import Tensor

from tune_recipes.models.config import ModelConfig


class KVCache:
    """A cache allocated once, for a batch that only grows.

    Attributes:
        length: Tokens seen so far, padding included; the same for every row.
        real_BT: (B, T) bool, which of them are no padding; None as long as all are.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch_size: int,
        max_len: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ):
        """Allocate room for `max_len` tokens in each of `batch_size` rows."""
        shape = (config.num_hidden_layers, batch_size, config.num_key_value_heads, max_len, config.head_dim)
        self._keys_LBKTH = torch.zeros(shape, dtype=dtype, device=device)
        self._values_LBKTH = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0
        self.real_BT: Tensor | None = None

    @property
    def max_len(self) -> int:
        """Room, in tokens."""
        return self._keys_LBKTH.shape[3]

    def mark_real(self, real_BS: Tensor | None, num_new: int) -> Tensor | None:
        """Note which of the next tokens are no padding.

        Returns:
            (B, length + S) bool for all tokens, the new ones included; None if there is no padding at all.
        """
        end = self.length + num_new
        assert end <= self.max_len, f"a cache of {self.max_len} tokens has no room for {end}"
        if real_BS is not None and self.real_BT is None:
            self.real_BT = torch.ones(len(real_BS), self.max_len, dtype=torch.bool, device=real_BS.device)
        if self.real_BT is None:
            return None
        if real_BS is not None:
            self.real_BT[:, self.length : end] = real_BS
        return self.real_BT[:, :end]

    def append(self, layer: int, keys_BKSH: Tensor, values_BKSH: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values and return all of them; `advance` follows the last layer."""
        end = self.length + keys_BKSH.shape[2]
        self._keys_LBKTH[layer, :, :, self.length : end] = keys_BKSH
        self._values_LBKTH[layer, :, :, self.length : end] = values_BKSH
        return self._keys_LBKTH[layer, :, :, :end], self._values_LBKTH[layer, :, :, :end]

    def advance(self, num_new: int) -> None:
        """Count the new tokens as seen."""
        self.length += num_new
