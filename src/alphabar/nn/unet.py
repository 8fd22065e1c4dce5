"""Denoising U-Nets: a noisy map and its timestep go in, a prediction of the same size comes out.

`SmallUNet` is the whole idea in sixty lines; `UNet` the same idea with as many levels, blocks and attention as asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from alphabar.errors import AlphabarError, nearest
from alphabar.nn.attention import SelfAttention2d, Transformer2d
from alphabar.nn.config import NetworkConfig
from alphabar.nn.layers import (
    Conditioning,
    Downsample,
    ResBlock,
    TimeEmbedding,
    Upsample,
    activated,
    check_divisible,
    conv3x3,
    double,
    group_norm,
    zero_,
)
from alphabar.types import Cond


def check_cond(cond: Cond, needed: Mapping[str, tuple[int | str, ...]], name: str) -> None:
    """Raise an `AlphabarError` unless `cond` has exactly the tensors that a network needs.

    Args:
        cond: what the network was given.
        needed: key -> shape; a size that may be anything but 0 stands as its letter.
        name: of the network.
    """
    cond = cond or {}
    if cond and not needed:
        raise AlphabarError(f"{name} is unconditional: it cannot use {', '.join(sorted(cond))}")
    for key in cond:
        if key not in needed:
            raise AlphabarError(f"this {name} cannot use cond {key!r}{nearest(key, needed)}")
    for key, shape in needed.items():
        wanted = f"[{', '.join(map(str, shape))}]"
        if key not in cond:
            raise AlphabarError(f"this {name} needs cond {key!r} of shape {wanted}")
        given = list(cond[key].shape)
        sizes = [size if isinstance(size, int) else max(1, got) for size, got in zip(shape, given, strict=False)]
        if sizes != given or len(shape) != len(given):
            raise AlphabarError(f"cond {key!r} of this {name} should have shape {wanted}, not {given}")


@dataclass(frozen=True)
class SmallUNetConfig(NetworkConfig):
    """Shape of a `SmallUNet`.

    Attributes:
        in_channels: channels of x.
        out_channels: channels of the prediction.
        channels: width at full, half and quarter resolution.
        emb_dim: width of the time embedding.
    """

    type_name: ClassVar[str] = "small-unet"

    in_channels: int = 1
    out_channels: int = 1
    channels: tuple[int, int, int] = (16, 48, 128)
    emb_dim: int = 128

    def __post_init__(self) -> None:
        self.at_least(1, "in_channels", "out_channels", "channels")
        self.at_least(1, "emb_dim")
        if self.emb_dim % 4:
            raise AlphabarError(f"small-unet.emb_dim must be a multiple of 4, not {self.emb_dim}")


class SmallUNet(nn.Module):
    """The course's U-Net: encoder, bottleneck, decoder, and two skip connections that carry the detail across.

    x [N, C, H, W] with H and W a multiple of 4, t [N] -> [N, out_channels, H, W]. Under a million parameters, and no
    operation beyond convolution, group norm, SiLU, linear, add, concatenate and pixel repetition. On the way up a map
    is convolved before its pixels are repeated, not after as in `UNet`: a quarter of the work, no worse in one trial.
    """

    factor = 4

    def __init__(self, config: SmallUNetConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3 = config.channels
        emb = config.emb_dim
        self.time = TimeEmbedding(emb // 2, emb)
        self.conv_in = conv3x3(config.in_channels, c1)
        self.encode1 = ResBlock(c1, c1, emb)
        self.down1 = Downsample(c1, c2)
        self.encode2 = ResBlock(c2, c2, emb)
        self.down2 = Downsample(c2, c3)
        self.middle1 = ResBlock(c3, c3, emb)
        self.middle2 = ResBlock(c3, c3, emb)
        self.up2 = conv3x3(c3, c2)
        self.decode2 = ResBlock(c2 + c2, c2, emb)
        self.up1 = conv3x3(c2, c1)
        self.decode1 = ResBlock(c1 + c1, c1, emb)
        self.norm_out = group_norm(c1)
        self.conv_out = conv3x3(c1, config.out_channels)
        zero_(self.conv_out)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        check_cond(cond, {}, "SmallUNet")
        check_divisible(x.shape[2], x.shape[3], self.factor, "SmallUNet")
        emb = self.time(t)  # [N, emb_dim]
        fine = self.encode1(self.conv_in(x), emb)  # [N, c1, H, W]        kept: skip connection 1
        half = self.encode2(self.down1(fine), emb)  # [N, c2, H/2, W/2]    kept: skip connection 2
        h = self.middle1(self.down2(half), emb)  # [N, c3, H/4, W/4]
        h = self.middle2(h, emb)  # [N, c3, H/4, W/4]
        h = torch.cat([double(self.up2(h)), half], dim=1)  # [N, 2 * c2, H/2, W/2]
        h = self.decode2(h, emb)  # [N, c2, H/2, W/2]
        h = torch.cat([double(self.up1(h)), fine], dim=1)  # [N, 2 * c1, H, W]
        h = self.decode1(h, emb)  # [N, c1, H, W]
        out: Tensor = self.conv_out(activated(self.norm_out(h)))  # [N, out_channels, H, W]
        return out


@dataclass(frozen=True)
class UNetConfig(NetworkConfig):
    """Shape of a `UNet`.

    Attributes:
        in_channels: channels of x.
        out_channels: channels of the prediction.
        channels: width per level; every level but the last halves the size.
        blocks: residual blocks per level on the way down; one more on the way up.
        attention: levels (0 is full resolution) whose blocks are followed by attention.
        num_heads: attention heads, one number for all levels or one per level.
        emb_dim: width of the time embedding.
        mode: how the time embedding enters the blocks, "scale_shift" or "add".
        dropout: inside the blocks, while training.
        context_dim: width of the token vectors of `cond["text"]`, which every attention then reads too, as a
            `Transformer2d`; None for a network that takes no text.
        transformer_depth: transformer blocks in each `Transformer2d`.
        linear_projection: whether linear layers, not 1x1 convolutions, stand around the transformer blocks.
        extra_channels: channels of `cond["concat"]`, laid beside those of x (inpainting: a mask and masked latents).
        middle_attention: whether attention stands between the middle blocks; None: as at the last level.
    """

    type_name: ClassVar[str] = "unet"

    in_channels: int = 3
    out_channels: int = 3
    channels: tuple[int, ...] = (64, 128, 256)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    num_heads: int | tuple[int, ...] = 4
    emb_dim: int = 256
    mode: Conditioning = "scale_shift"
    dropout: float = 0.0
    context_dim: int | None = None
    transformer_depth: int = 1
    linear_projection: bool = False
    extra_channels: int = 0
    middle_attention: bool | None = None

    def __post_init__(self) -> None:
        self.at_least(1, "in_channels", "out_channels", "channels", "blocks", "num_heads", "emb_dim")
        self.at_least(1, "context_dim", "transformer_depth")
        self.at_least(0, "extra_channels")
        if not self.channels:
            raise AlphabarError("unet.channels must name at least one level")
        if self.channels[0] % 2:
            raise AlphabarError(f"unet.channels must start with an even width, not {self.channels[0]}")
        if not 0 <= self.dropout < 1:
            raise AlphabarError(f"unet.dropout must be at least 0 and below 1, not {self.dropout}")
        outside = sorted(set(self.attention) - set(range(len(self.channels))))
        if outside:
            raise AlphabarError(f"attention names level {outside[0]}; the levels are 0..{len(self.channels) - 1}")
        if isinstance(self.num_heads, tuple) and len(self.num_heads) != len(self.channels):
            raise AlphabarError(
                f"unet.num_heads must be one number or one per level: {len(self.channels)}, not {len(self.num_heads)}"
            )
        if self.context_dim is not None and not (self.attention or self.middle_attention):
            raise AlphabarError("unet.context_dim needs attention that reads the text: name a level in unet.attention")

    def heads(self, level: int) -> int:
        """Attention heads at a level."""
        return self.num_heads[level] if isinstance(self.num_heads, tuple) else self.num_heads


class UNetBlock(nn.Module):
    """A `ResBlock`, then attention where asked for: [N, in, H, W] -> [N, out, H, W].

    The attention is a `Transformer2d`, which reads the text [N, L, D], in a network that takes one, and else a
    `SelfAttention2d`; `num_heads` of None stands for no attention.
    """

    def __init__(self, in_channels: int, out_channels: int, config: UNetConfig, num_heads: int | None) -> None:
        super().__init__()
        self.res = ResBlock(in_channels, out_channels, config.emb_dim, config.mode, config.dropout)
        self.attention: nn.Module
        if num_heads is None:
            self.attention = nn.Identity()
        elif config.context_dim is None:
            self.attention = SelfAttention2d(out_channels, num_heads)
        else:
            depth, linear = config.transformer_depth, config.linear_projection
            self.attention = Transformer2d(out_channels, num_heads, config.context_dim, depth, linear)

    def forward(self, x: Tensor, emb: Tensor, text: Tensor | None = None) -> Tensor:
        h = self.res(x, emb)  # [N, out, H, W]
        out: Tensor = self.attention(h, text) if isinstance(self.attention, Transformer2d) else self.attention(h)
        return out


class UNet(nn.Module):
    """The U-Net of Ho et al. (2020) and Dhariwal & Nichol (2021), and of Rombach et al. (2022) when it reads a text.

    x [N, in_channels, H, W] with H and W a multiple of `factor`, t [N] -> [N, out_channels, H, W]. The output of every
    block and downsampling of the encoder is kept and concatenated to the input of its mirror image in the decoder.

    `cond` has exactly the keys in `cond_keys`, one row per sample: "text" [N, L, context_dim] where the config has a
    `context_dim`, "concat" [N, extra_channels, H, W] where it has `extra_channels`.

    Raises:
        AlphabarError: in `forward`, naming the size, or the key of `cond`, that is wrong.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.factor = 2 ** (len(config.channels) - 1)
        self.cond_keys = ("text",) * (config.context_dim is not None) + ("concat",) * (config.extra_channels > 0)
        widths, last = config.channels, len(config.channels) - 1
        heads = [config.heads(level) if level in config.attention else None for level in range(len(widths))]
        attend = last in config.attention if config.middle_attention is None else config.middle_attention
        self.time = TimeEmbedding(widths[0], config.emb_dim)
        self.conv_in = conv3x3(config.in_channels + config.extra_channels, widths[0])

        kept = [width := widths[0]]  # widths of the maps that the encoder keeps, in order
        self.encoder = nn.ModuleList()
        for level, out in enumerate(widths):
            for _ in range(config.blocks):
                self.encoder.append(UNetBlock(width, out, config, heads[level]))
                kept.append(width := out)
            if level < last:
                self.encoder.append(Downsample(out, out))
                kept.append(out)

        self.middle1 = UNetBlock(width, width, config, config.heads(last) if attend else None)
        self.middle2 = UNetBlock(width, width, config, None)

        self.decoder = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(config.blocks + 1):
                self.decoder.append(UNetBlock(width + kept.pop(), widths[level], config, heads[level]))
                width = widths[level]
            if level > 0:
                self.decoder.append(Upsample(width, width))

        self.norm_out = group_norm(width)
        self.conv_out = conv3x3(width, config.out_channels)
        zero_(self.conv_out)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        given = self._conditions(x, cond)
        check_divisible(x.shape[2], x.shape[3], self.factor, f"a UNet of {len(self.config.channels)} levels")
        emb = self.time(t)  # [N, emb_dim]
        text = given.get("text")  # [N, L, D]
        h = torch.cat([x, given["concat"]], dim=1) if "concat" in given else x  # [N, in + extra_channels, H, W]
        skips = [h := self.conv_in(h)]  # [N, c_0, H, W]
        for part in self.encoder:
            h = part(h, emb, text) if isinstance(part, UNetBlock) else part(h)  # [N, c_l, H / 2^l, W / 2^l]
            skips.append(h)
        h = self.middle2(self.middle1(h, emb, text), emb)  # [N, c_last, H / factor, W / factor]
        for part in self.decoder:
            if isinstance(part, Upsample):
                h = part(h)  # [N, c_l, H / 2^(l-1), W / 2^(l-1)]
                continue
            h = part(torch.cat([h, skips.pop()], dim=1), emb, text)  # [N, c_l, H / 2^l, W / 2^l]
        out: Tensor = self.conv_out(activated(self.norm_out(h)))  # [N, out_channels, H, W]
        return out

    def _conditions(self, x: Tensor, cond: Cond) -> dict[str, Tensor]:
        """What `cond` holds, checked and in the type of x."""
        n, _, height, width = x.shape
        shapes: dict[str, tuple[int | str, ...]] = {
            "text": (n, "L", self.config.context_dim or 0),
            "concat": (n, self.config.extra_channels, height, width),
        }
        check_cond(cond, {key: shapes[key] for key in self.cond_keys}, "UNet")
        return {key: value.to(x.dtype) for key, value in (cond or {}).items()}
