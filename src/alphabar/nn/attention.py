"""Attention: every token looks at every other, or at the words of a prompt (Vaswani et al. 2017, eq. 1).

`SelfAttention2d` is what an unconditional network needs. `Transformer2d` is how a prompt enters a U-Net (Rombach et al.
2022, section 3.3 and appendix E.2.1): the pixels of a map are the queries, the token vectors of the text the keys and
the values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.nn.layers import GEGLU, group_norm, zero_


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v, with q [N, heads, L, d] and k, v [N, heads, S, d] -> [N, heads, L, d]."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return _in_cache(q, k * k.shape[-1] ** -0.5, v)
    return F.scaled_dot_product_attention(q, k, v)


PIECE = 1 << 20
"""How many attention weights are made at once on a CPU: 2 MB of bf16, which stay in its cache."""


def _in_cache(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v by its formula, some queries at a time.

    torch's fused attention in bf16 takes 2 to 8 times as long. All heads go at once where their weights are few, and
    one by one where they are many, which takes 0.8 of the time with 8 heads of 4096 tokens.
    """
    heads, rows = q.shape[0] * q.shape[1], PIECE // k.shape[2]
    if heads * q.shape[2] <= rows:
        return (q @ k.transpose(2, 3)).softmax(dim=3) @ v
    each = zip(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1), strict=True)
    pieces = [(some @ keys).softmax(dim=1) @ values for own, keys, values in each for some in own.split(max(rows, 1))]
    return torch.cat(pieces).reshape(q.shape)


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """`attention` within each of `num_heads` equal parts of the width: q [N, L, C], k and v [N, S, C] -> [N, L, C]."""
    q, k, v = (x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # [N, heads, L or S, d]
    return attention(q, k, v).transpose(1, 2).flatten(2)


def check_heads(num_heads: int, channels: int) -> None:
    """Raise an `AlphabarError` unless the heads share the channels evenly."""
    if num_heads < 1 or channels % num_heads:
        raise AlphabarError(f"num_heads must divide the channels it shares: {num_heads} does not divide {channels}")


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
        check_heads(num_heads, channels)
        self.num_heads = num_heads
        self.norm = group_norm(channels, eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)
        zero_(self.to_out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [N, HW, C]
        q, k, v = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)  # [N, HW, C]
        mixed = multi_head_attention(q, k, v, self.num_heads)  # [N, HW, C]
        out: Tensor = x + self.to_out(mixed).transpose(1, 2).reshape(x.shape)  # [N, C, H, W]
        return out


class Attention(nn.Module):
    """Attention of tokens [N, L, C] to a context [N, S, D], or to themselves -> [N, L, C].

    Args:
        channels: width C of the tokens.
        num_heads: heads that share the channels; must divide them.
        context_dim: width D of the context; None for self-attention.
        bias: whether queries, keys and values have a bias (Stable Diffusion's U-Nets: no); the output always has one.
    """

    def __init__(self, channels: int, num_heads: int = 1, context_dim: int | None = None, bias: bool = False) -> None:
        super().__init__()
        check_heads(num_heads, channels)
        self.num_heads = num_heads
        context_dim = channels if context_dim is None else context_dim
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_dim, channels, bias=bias)
        self.to_v = nn.Linear(context_dim, channels, bias=bias)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)  # [N, L or S, C]
        out: Tensor = self.to_out(multi_head_attention(q, k, v, self.num_heads))  # [N, L, C]
        return out


class TransformerBlock(nn.Module):
    """The tokens look at each other, then at the context, then each thinks alone: [N, L, C], [N, S, D] -> [N, L, C]."""

    def __init__(self, channels: int, num_heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.cross_attention = Attention(channels, num_heads, context_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.feed_forward = GEGLU(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.self_attention(self.norm1(x))  # [N, L, C]
        x = x + self.cross_attention(self.norm2(x), context)  # [N, L, C]
        out: Tensor = x + self.feed_forward(self.norm3(x))  # [N, L, C]
        return out


class Transformer2d(nn.Module):
    """A residual transformer over the pixels of a map that reads a context: [N, C, H, W], [N, S, D] -> [N, C, H, W].

    The output projection starts at zero, so that a new one is the identity.

    Args:
        channels: width C of the map.
        num_heads: heads that share the channels; must divide them.
        context_dim: width D of the context.
        depth: transformer blocks, one after the other.
        linear: whether the projections around the blocks are linear layers (Stable Diffusion 2) and not 1x1
            convolutions (Stable Diffusion 1): the same function, of weights [C, C] or [C, C, 1, 1].
    """

    def __init__(self, channels: int, num_heads: int, context_dim: int, depth: int = 1, linear: bool = False) -> None:
        super().__init__()
        self.linear = linear
        self.norm = group_norm(channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, kernel_size=1)
        self.blocks = nn.ModuleList(TransformerBlock(channels, num_heads, context_dim) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, kernel_size=1)
        zero_(self.proj_out)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm(x)  # [N, C, H, W]
        if self.linear:
            h = self.proj_in(h.flatten(2).transpose(1, 2))  # [N, HW, C]
        else:
            # Contiguous, as everything that is added to these tokens: else every layer norm would copy them.
            h = self.proj_in(h).flatten(2).transpose(1, 2).contiguous()  # [N, HW, C]
        for block in self.blocks:
            h = block(h, context)  # [N, HW, C]
        if self.linear:
            h = self.proj_out(h).transpose(1, 2).reshape(x.shape)  # [N, C, H, W]
        else:
            h = self.proj_out(h.transpose(1, 2).reshape(x.shape))  # [N, C, H, W]
        out: Tensor = x + h
        return out
