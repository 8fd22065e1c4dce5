"""Autoencoders: images to a few numbers and back.

A variational one describes an image by a Gaussian (Kingma & Welling 2013), a plain one by a point, which is a Gaussian
of no width. Whoever uses them sees one interface: `moments`, `posterior`, `decode`, `latent_shape`, `factor`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.nn.attention import SelfAttention2d
from alphabar.nn.config import NetworkConfig
from alphabar.nn.layers import Downsample, ResBlock, Upsample, activated, check_divisible, conv3x3, group_norm

LOGVAR_RANGE = (-30.0, 20.0)
"""Where log variances are clamped, as in latent diffusion's code: standard deviations of 3e-7 to 2e4."""


class Gaussian(NamedTuple):
    """Independent normal distributions, one per latent value; `mean` and `std` [N, ...], float32."""

    mean: Tensor
    std: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> Gaussian:
        """Moments [N, 2c, ...] (means, then standard deviations) -> a Gaussian over [N, c, ...]."""
        return cls(*moments.chunk(2, dim=1))

    def sample(self, noise: Tensor) -> Tensor:
        """The reparameterisation trick, mean + std * noise; noise is standard normal, shaped like the mean."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """Divergence from N(0, 1) per sample [N], in nats, summed over all values; infinite where std is 0."""
        nats = 0.5 * (self.mean.square() + self.std.square() - 1) - self.std.log()
        return nats.flatten(1).sum(dim=1)


class Autoencoder(nn.Module, ABC):
    """What codec and trainer know of an autoencoder. Images are [N, C, H, W] in [-1, 1].

    Attributes:
        variational: whether the posterior has a width.
        factor: how many times smaller the latent's sides are than the image's.
        image_channels: channels of the images.
    """

    variational: bool
    factor: int
    image_channels: int
    config: DenseAutoencoderConfig | ConvAutoencoderConfig

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Images -> mean [N, c, ...], followed in a variational model by log variance: [N, 2c, ...]."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Latents [N, c, ...] -> images [N, C, H, W], about [-1, 1]."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one latent of an image of the given size; AlphabarError where the size does not fit."""

    def moments(self, x: Tensor) -> Tensor:
        """Images -> float32 [N, 2c, ...]: means, then standard deviations (all 0 in a plain autoencoder)."""
        code = self.encode(x).float()
        if not self.variational:
            return torch.cat([code, torch.zeros_like(code)], dim=1)
        mean, logvar = code.chunk(2, dim=1)
        return torch.cat([mean, torch.exp(0.5 * logvar.clamp(*LOGVAR_RANGE))], dim=1)

    def posterior(self, x: Tensor) -> Gaussian:
        """Images -> the Gaussian over their latents."""
        return Gaussian.from_moments(self.moments(x))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Gaussian]:
        """Images and standard normal noise shaped like the latents -> (reconstruction, posterior)."""
        posterior = self.posterior(x)
        return self.decode(posterior.sample(noise)), posterior


@dataclass(frozen=True)
class DenseAutoencoderConfig(NetworkConfig):
    """Shape of a `DenseAutoencoder`.

    Attributes:
        image_shape: channels, height and width of the images.
        hidden: widths of the layers between pixels and latent.
        latent_dim: numbers that describe an image.
        variational: a Gaussian per image instead of a point.
    """

    type_name: ClassVar[str] = "dense-autoencoder"

    image_shape: tuple[int, int, int] = (1, 28, 28)
    hidden: tuple[int, ...] = (512, 256)
    latent_dim: int = 32
    variational: bool = False

    def __post_init__(self) -> None:
        self.at_least(1, "image_shape", "hidden", "latent_dim")


class DenseAutoencoder(Autoencoder):
    """Pixels as one long vector, through ever narrower layers to `latent_dim` numbers, and back."""

    config: DenseAutoencoderConfig

    def __init__(self, config: DenseAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.variational = config.variational
        self.factor = 1
        self.image_channels = config.image_shape[0]
        widths = (prod(config.image_shape), *config.hidden)
        code = 2 * config.latent_dim if config.variational else config.latent_dim
        self.encoder = _perceptron(*widths, code)
        self.decoder = _perceptron(config.latent_dim, *reversed(widths))

    def encode(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.config.image_shape:
            own, given = ("x".join(map(str, shape)) for shape in (self.config.image_shape, x.shape[1:]))
            raise AlphabarError(f"this DenseAutoencoder takes {own} images, not {given}")
        code: Tensor = self.encoder(x.flatten(1))  # [N, latent_dim or 2 * latent_dim]
        return code

    def decode(self, z: Tensor) -> Tensor:
        pixels: Tensor = self.decoder(z)  # [N, C * H * W]
        return pixels.reshape(-1, *self.config.image_shape)  # [N, C, H, W]

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        _, own_height, own_width = self.config.image_shape
        if (height, width) != (own_height, own_width):
            raise AlphabarError(f"this DenseAutoencoder takes {own_height}x{own_width} images, not {height}x{width}")
        return (self.config.latent_dim,)


def _perceptron(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class ConvAutoencoderConfig(NetworkConfig):
    """Shape of a `ConvAutoencoder`.

    Attributes:
        image_channels: channels of the images.
        channels: width per level; every level but the last halves the size, so the factor is 2^(levels - 1).
        latent_channels: channels of the latent map.
        border: pixels repeated around the image on the way in and cut off on the way out, so that a size such as 28
            becomes one that halves more often, such as 32.
        encoder_blocks: residual blocks per level on the way in.
        decoder_blocks: residual blocks per level on the way out.
        middle_blocks: residual blocks at the lowest resolution, on either side of the latent.
        attention: self-attention after the first of the middle blocks.
        variational: a Gaussian per image instead of a point.
        eps: of the group norms.
        asymmetric_padding: zeros on the right and at the bottom only, before the convolutions that halve the size.
        quant_convs: a 1x1 convolution on either side of the latent.

    Stable Diffusion's is `STABLE_DIFFUSION_VAE`.
    """

    type_name: ClassVar[str] = "conv-autoencoder"

    image_channels: int = 1
    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 4
    border: int = 0
    encoder_blocks: int = 1
    decoder_blocks: int = 1
    middle_blocks: int = 1
    attention: bool = False
    variational: bool = True
    eps: float = 1e-6
    asymmetric_padding: bool = False
    quant_convs: bool = False

    def __post_init__(self) -> None:
        self.at_least(1, "image_channels", "channels", "latent_channels", "encoder_blocks", "decoder_blocks")
        self.at_least(0, "border", "middle_blocks")
        if not self.channels:
            raise AlphabarError("conv-autoencoder.channels must name at least one level")


STABLE_DIFFUSION_VAE = ConvAutoencoderConfig(
    image_channels=3,
    channels=(128, 256, 512, 512),
    latent_channels=4,
    encoder_blocks=2,
    decoder_blocks=3,
    middle_blocks=2,
    attention=True,
    asymmetric_padding=True,
    quant_convs=True,
)
"""The first stage of Stable Diffusion 1 and 2: 83,653,863 values, eight times smaller sides."""


class ConvAutoencoder(Autoencoder):
    """The autoencoder of latent diffusion (Rombach et al. 2022): the latent is a small map, not a vector.

    No skip connections: whatever the decoder knows of an image went through the latent.
    """

    config: ConvAutoencoderConfig

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.variational = config.variational
        self.factor = 2 ** (len(config.channels) - 1)
        self.image_channels = config.image_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        latent = config.latent_channels
        code = 2 * latent if config.variational else latent
        self.quant = nn.Conv2d(code, code, kernel_size=1) if config.quant_convs else nn.Identity()
        self.post_quant = nn.Conv2d(latent, latent, kernel_size=1) if config.quant_convs else nn.Identity()

    def encode(self, x: Tensor) -> Tensor:
        self.latent_shape(*x.shape[2:])
        border = (self.config.border,) * 4
        h = self.encoder(F.pad(x, border, mode="replicate"))  # [N, c or 2 * c, H / factor, W / factor]
        code: Tensor = self.quant(h)  # [N, c or 2 * c, H / factor, W / factor]
        return code

    def decode(self, z: Tensor) -> Tensor:
        h = self.decoder(self.post_quant(z))  # [N, C, H + 2 * border, W + 2 * border]
        images: Tensor = F.pad(h, (-self.config.border,) * 4)  # [N, C, H, W]
        return images

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        height, width = height + 2 * self.config.border, width + 2 * self.config.border
        check_divisible(height, width, self.factor, f"a ConvAutoencoder of {len(self.config.channels)} levels")
        return (self.config.latent_channels, height // self.factor, width // self.factor)


class Encoder(nn.Module):
    """Images [N, C, H, W] -> code [N, latent or 2 * latent, H / factor, W / factor]."""

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        width = config.channels[0]
        self.conv_in = conv3x3(config.image_channels, width)
        levels: list[nn.Module] = []
        for level, out in enumerate(config.channels):
            if level > 0:
                levels.append(AsymmetricDownsample(width) if config.asymmetric_padding else Downsample(width, width))
            levels += _blocks(width, out, config.encoder_blocks, config.eps)
            width = out
        self.levels = nn.Sequential(*levels)
        self.middle = nn.Sequential(*_middle(width, config))
        self.norm_out = group_norm(width, config.eps)
        code = 2 * config.latent_channels if config.variational else config.latent_channels
        self.conv_out = conv3x3(width, code)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)  # [N, c_0, H, W]
        h = self.levels(h)  # [N, c_last, H / factor, W / factor]
        h = self.middle(h)  # [N, c_last, H / factor, W / factor]
        out: Tensor = self.conv_out(activated(self.norm_out(h)))  # [N, code, H / factor, W / factor]
        return out


class Decoder(nn.Module):
    """Latents [N, latent, h, w] -> images [N, C, h * factor, w * factor]."""

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        width = config.channels[-1]
        self.conv_in = conv3x3(config.latent_channels, width)
        self.middle = nn.Sequential(*_middle(width, config))
        levels: list[nn.Module] = []
        for level in reversed(range(len(config.channels))):
            levels += _blocks(width, config.channels[level], config.decoder_blocks, config.eps)
            width = config.channels[level]
            if level > 0:
                levels.append(Upsample(width, width))
        self.levels = nn.Sequential(*levels)
        self.norm_out = group_norm(width, config.eps)
        self.conv_out = conv3x3(width, config.image_channels)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)  # [N, c_last, h, w]
        h = self.middle(h)  # [N, c_last, h, w]
        h = self.levels(h)  # [N, c_0, H, W]
        out: Tensor = self.conv_out(activated(self.norm_out(h)))  # [N, C, H, W]
        return out


class AsymmetricDownsample(nn.Module):
    """Halve height and width as Stable Diffusion's encoder does: [N, C, H, W] -> [N, C, H / 2, W / 2].

    The zeros stand on the right and at the bottom only, so each output looks half a pixel further that way.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


def _blocks(width: int, out: int, count: int, eps: float) -> list[nn.Module]:
    return [ResBlock(width if index == 0 else out, out, eps=eps) for index in range(count)]


def _middle(width: int, config: ConvAutoencoderConfig) -> list[nn.Module]:
    blocks = _blocks(width, width, config.middle_blocks, config.eps)
    if config.attention:
        blocks.insert(1, SelfAttention2d(width, eps=config.eps))
    return blocks
