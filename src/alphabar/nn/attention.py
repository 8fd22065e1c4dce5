"""Attention: every position looks at every other (Vaswani et al. 2017, eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.nn.layers import group_norm, zero_


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v, with q [N, heads, L, d] and k, v [N, heads, S, d] -> [N, heads, L, d]."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # torch's fused attention is 2 to 8 times slower than its formula here; pieces keep the weights [L, S] small.
        keys = (k * k.shape[-1] ** -0.5).transpose(2, 3)  # [N, heads, d, S]
        return torch.cat([(piece @ keys).softmax(dim=3) @ v for piece in q.split(512, dim=2)], dim=2)
    return F.scaled_dot_product_attention(q, k, v)


class SelfAttention2d(nn.Module):
    """Residual self-attention over the pixels of a map: [N, C, H, W] -> [N, C, H, W].

    The output projection starts at zero, so that a new block is the identity.

    Args:
        channels: width C of the map.
        num_heads: heads that share the channels; must divide them.
        eps: of the group norm.
    """

    def __init__(self, channels: int, num_heads: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise AlphabarError(f"num_heads must divide the channels it shares: {num_heads} does not divide {channels}")
        self.num_heads = num_heads
        self.norm = group_norm(channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)
        zero_(self.to_out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [N, HW, C]
        q, k, v = (self._heads(project(tokens)) for project in (self.to_q, self.to_k, self.to_v))  # [N, heads, HW, d]
        mixed = attention(q, k, v).transpose(1, 2).flatten(2)  # [N, HW, C]
        out: Tensor = x + self.to_out(mixed).transpose(1, 2).reshape(x.shape)  # [N, C, H, W]
        return out

    def _heads(self, tokens: Tensor) -> Tensor:
        n, length, _ = tokens.shape
        return tokens.reshape(n, length, self.num_heads, -1).transpose(1, 2)  # [N, heads, L, d]
