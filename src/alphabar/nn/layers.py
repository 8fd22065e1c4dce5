"""The parts of which every network here is built.

Convolutional parts take and give feature maps [N, C, H, W]; `emb` is the time embedding [N, D] that steers them.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError

Conditioning: TypeAlias = Literal["scale_shift", "add"]
"""How a time embedding enters a `ResBlock`."""


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Timesteps [N] (any number type) -> float32 [N, dim]: cosines, then sines, at geometrically falling frequencies.

    The position code of Vaswani et al. (2017) in the order that Stable Diffusion's weights expect; `dim` is even.
    """
    if dim % 2:
        raise AlphabarError(f"a timestep embedding has an even width (a cosine and a sine each), not {dim}")
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)
    angles = t.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def check_divisible(height: int, width: int, factor: int, name: str) -> None:
    """Raise an `AlphabarError` unless both sides of a map are a multiple of what a network downsamples by."""
    if height % factor or width % factor or not height or not width:
        raise AlphabarError(f"{name} takes sizes that are a multiple of {factor}, not {height}x{width}")


def group_count(channels: int) -> int:
    """Groups for a `GroupNorm`: as many as divide the channels, at most 32, with at least 4 channels in each.

    32 for every width of Stable Diffusion; fewer for narrow maps, where groups of one or two channels would erase what
    a channel's level says.
    """
    return max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= 4))


class GroupNorm(nn.GroupNorm):
    """torch's own, but a small bf16 map [N, C, H, W] that is stored pixel by pixel is stored channel by channel first.

    torch's kernel for the former takes 8 to 20 times as long on CPUs where a map has fewer than 32x32 pixels and a
    group fewer than 16 channels, which fill none of its vectors; from 32x32 on it is the faster one.
    """

    def forward(self, x: Tensor) -> Tensor:
        small = x.ndim == 4 and x.shape[2] * x.shape[3] < 32 * 32 and self.num_channels < 16 * self.num_groups
        if small and x.dtype == torch.bfloat16:
            x = x.contiguous()
        return super().forward(x)


def group_norm(channels: int, eps: float = 1e-5) -> GroupNorm:
    """A `GroupNorm` with `group_count(channels)` groups."""
    return GroupNorm(group_count(channels), channels, eps=eps)


def adaptive_group_norm(x: Tensor, norm: nn.GroupNorm, scale: Tensor, shift: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift, for x [N, C, H, W] and scale, shift [N, C].

    One pass instead of three: the samples are laid side by side as channels of a single one, so that group norm's own
    scale and shift, which it applies at no cost, may differ per sample.
    """
    n, c, height, width = x.shape
    gain = norm.weight * (1 + scale)  # [N, C]
    bias = norm.bias * (1 + scale) + shift  # [N, C]
    side_by_side = x.reshape(1, n * c, height, width)
    out = F.group_norm(side_by_side, n * norm.num_groups, gain.reshape(-1), bias.reshape(-1), norm.eps)
    return out.reshape(n, c, height, width)


def activated(h: Tensor) -> Tensor:
    """SiLU of a fresh map that nobody else needs: in its place where no gradient asks for it, to spare the memory."""
    return F.silu(h, inplace=not torch.is_grad_enabled())


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (or halves it, with stride 2)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)


def double(x: Tensor) -> Tensor:
    """Repeat every pixel twice in both directions: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def zero_(module: nn.Module) -> None:
    """Set all parameters to zero, in place: a residual branch that starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


class TimeEmbedding(nn.Module):
    """Timesteps [N] -> [N, emb_dim]: sinusoids of width `dim` through a two-layer perceptron."""

    def __init__(self, dim: int, emb_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear1 = nn.Linear(dim, emb_dim)
        self.linear2 = nn.Linear(emb_dim, emb_dim)

    def forward(self, t: Tensor) -> Tensor:
        waves = timestep_embedding(t, self.dim)  # [N, dim] float32
        hidden = F.silu(self.linear1(waves.to(self.linear1.weight.dtype)))  # [N, emb_dim]
        out: Tensor = self.linear2(hidden)  # [N, emb_dim]
        return out


class GEGLU(nn.Module):
    """A gated feed-forward layer on tokens [N, L, C] -> [N, L, C]: (a * GELU(b)) through a last layer.

    a and b are the two halves of one projection to 2 * 4 * C (Shazeer 2020, section 2).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(channels, 2 * 4 * channels)
        self.proj_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj_in(x).chunk(2, dim=2)  # [N, L, 4 * C] each
        out: Tensor = self.proj_out(value * F.gelu(gate))  # [N, L, C]
        return out


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, around a skip: [N, in, H, W] -> [N, out, H, W].

    The embedding enters before the second convolution: as scale and shift of the normalised map (adaptive group norm,
    Dhariwal & Nichol 2021, appendix A) or added to the map before it is normalised (Ho et al. 2020; Stable Diffusion).
    The second convolution starts at zero, so that a new block is its own skip.

    Args:
        in_channels: width of the map that comes in.
        out_channels: width of the map that goes out; where it differs, the skip is a 1x1 convolution.
        emb_dim: width of the embedding; None for a block without one (an autoencoder's).
        mode: how the embedding enters.
        dropout: probability of zeroing a value before the second convolution, while training.
        eps: of the group norms; Stable Diffusion's autoencoder has 1e-6.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int | None = None,
        mode: Conditioning = "scale_shift",
        dropout: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.norm1 = group_norm(in_channels, eps)
        self.conv1 = conv3x3(in_channels, out_channels)
        emb_out = 2 * out_channels if mode == "scale_shift" else out_channels
        self.emb = None if emb_dim is None else nn.Linear(emb_dim, emb_out)
        self.norm2 = group_norm(out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.skip = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )
        zero_(self.conv2)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(activated(self.norm1(x)))  # [N, out, H, W]
        if self.emb is None:
            h = self.norm2(h)
        else:
            if emb is None:
                raise ValueError("this ResBlock was built with emb_dim, so it needs emb")
            e = self.emb(F.silu(emb))  # [N, out or 2 * out]
            if self.mode == "scale_shift":
                h = adaptive_group_norm(h, self.norm2, *e.chunk(2, dim=1))
            else:
                h = self.norm2(h + e[:, :, None, None])
        h = self.conv2(self.dropout(activated(h)))  # [N, out, H, W]
        x = self.skip(x)
        out: Tensor = x + h if torch.is_grad_enabled() else h.add_(x)
        return out


class Downsample(nn.Module):
    """Halve height and width with a stride-2 convolution: [N, in, H, W] -> [N, out, H / 2, W / 2]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Double height and width by repeating pixels, then convolve: [N, in, H, W] -> [N, out, 2H, 2W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(double(x))
        return out
