"""What trains a first stage besides the pixels: a perceptual distance and a discriminator of patches.

Latent diffusion's autoencoder is trained on both (Rombach et al. 2022, appendix G). Images are [N, C, H, W] in [-1, 1].
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.io import load_weights
from alphabar.nn.config import NetworkConfig
from alphabar.nn.layers import group_norm

DiscriminatorNorm: TypeAlias = Literal["group", "none"]
"""What stands between a discriminator's convolutions; neither mixes the samples of a batch."""


class FeatureNetwork(Protocol):
    """A network, usually a trained classifier, that shows what it sees at each of its levels."""

    def features_by_level(self, x: Tensor) -> Sequence[Tensor]:
        """Images [N, C, H, W] in [-1, 1] -> maps [N, c_i, h_i, w_i], one per level."""


class PerceptualLoss(nn.Module):
    """How different two images look to a network that knows images (Zhang et al. 2018, eq. 1: LPIPS).

    At each level the features of every position are brought to length 1 and their squared differences taken, weighted
    per channel where there are heads; that is averaged over the positions and summed over the levels. The network is
    frozen and stays in evaluation whatever `train` is called with; gradients flow to the images alone.

    Args:
        network: a `FeatureNetwork`, such as a trained `Classifier`.
        heads: per level the channels' weights [c_i], at least 0; without them every channel counts 1.
    """

    def __init__(self, network: FeatureNetwork, heads: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        if not isinstance(network, nn.Module) or not hasattr(network, "features_by_level"):
            kind = type(network).__name__
            raise AlphabarError(f"a perceptual loss needs a network that has features_by_level, not {kind}")
        self.network = network
        self.heads = nn.ParameterList(heads or ())
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in evaluation: batch norms must not learn from the images that are compared."""
        return super().train(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Images a and b, both [N, C, H, W] -> distances [N], float32, 0 where they are equal.

        Raises:
            AlphabarError: where their shapes differ.
        """
        if a.shape != b.shape:
            raise AlphabarError(f"the images to compare differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
        distance = a.new_zeros(len(a), dtype=torch.float32)
        levels = zip(self.network.features_by_level(a), self.network.features_by_level(b), strict=True)
        for level, (one, other) in enumerate(levels):  # [N, c, h, w]
            square = (_unit(one) - _unit(other)).square()  # [N, c, h, w]
            if self.heads:
                square = square * self.heads[level].view(-1, 1, 1)
            distance = distance + square.sum(dim=1).mean(dim=(1, 2))
        return distance


def _unit(maps: Tensor) -> Tensor:
    """Every position's features at length 1; the floor keeps the gradient finite where all of them are 0."""
    return F.normalize(maps.float(), dim=1, eps=1e-6)


LEARNED_METRIC = "stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"
"""Where the weights of `learned_metric` lie: a package, never imported, and the file in it."""

_SMALLEST = 21
"""Sides below this leave no position at AlexNet's last level."""


def learned_metric(path: Path | None = None) -> PerceptualLoss:
    """The shift-tolerant LPIPS on AlexNet (Ghildyal & Liu 2022), fitted to what people judged alike; about [0, 1].

    Takes colour images, or grey ones as colour, with sides from 21 up. Only the weights come from outside:
    `pip install --no-deps stlpips_pytorch==0.0.2`; nothing of that package is imported.

    Args:
        path: the weights file; None finds it in the installed package.

    Raises:
        AlphabarError: where the file is missing or is another one.
    """
    path = _installed() if path is None else path
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise AlphabarError(f"no such file: {path}") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise AlphabarError(f"{path} is not a file of the learned metric's weights") from error
    heads = [torch.zeros(width) for width, _ in _ALEXNET]
    metric = PerceptualLoss(ShiftTolerantAlexNet(), heads)
    known = {ours: found[theirs] for theirs, ours in _KEYS.items() if theirs in found} if _is_state(found) else {}
    load_weights(metric, {key: value.flatten() if "heads" in key else value for key, value in known.items()}, path)
    return metric


def _installed() -> Path:
    package, file = LEARNED_METRIC
    spec = find_spec(package)  # finds a package without running it
    if spec is None or not spec.submodule_search_locations:
        raise AlphabarError(
            "the learned metric's weights are not installed: pip install --no-deps stlpips_pytorch==0.0.2"
        )
    return Path(spec.submodule_search_locations[0]) / file


def _is_state(found: object) -> bool:
    return isinstance(found, Mapping) and all(isinstance(value, Tensor) for value in found.values())


_ALEXNET = ((64, 11), (192, 5), (384, 3), (256, 3), (256, 3))
"""Width and kernel of AlexNet's convolutions."""

_KEYS = {
    **{
        f"net.slice{level + 1}.{place}.{kind}": f"network.convs.{level}.{kind}"
        for level, place in enumerate((0, 5, 9, 11, 13))
        for kind in ("weight", "bias")
    },
    **{f"lin{level}.model.1.weight": f"heads.{level}" for level in range(5)},
}
"""The file's names -> ours."""


class ShiftTolerantAlexNet(nn.Module):
    """AlexNet's convolutions (Krizhevsky et al. 2012), with every stride behind a blur (Zhang 2019).

    Without the blur a picture moved by one pixel looks like another one to it.
    """

    def __init__(self) -> None:
        super().__init__()
        convs, width = [], 3
        for out, kernel in _ALEXNET:
            convs.append(nn.Conv2d(width, out, kernel, padding=min(kernel // 2, 2)))
            width = out
        self.convs = nn.ModuleList(convs)

    def features_by_level(self, x: Tensor) -> list[Tensor]:
        """Images [N, 1 or 3, H, W] in [-1, 1] -> five maps [N, c_i, h_i, w_i]; AlphabarError below 21 pixels."""
        if x.shape[1] not in (1, 3) or min(x.shape[2:]) < _SMALLEST:
            given = "x".join(map(str, x.shape[1:]))
            raise AlphabarError(
                f"the learned metric takes 1 or 3 channels and sides from {_SMALLEST} up, not {given}; enlarge them"
            )
        # the weights expect ImageNet's mean and standard deviation per channel, here for values in [-1, 1]
        mean, std = x.new_tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).view(2, 3, 1, 1)
        h = (x.expand(-1, 3, -1, -1) - mean) / std  # [N, 3, H, W]
        maps = []
        for level, conv in enumerate(self.convs):
            if level in (1, 2):
                h = _blurred_half(F.max_pool2d(h, kernel_size=3, stride=1))  # [N, c, h / 2, w / 2]
            h = conv(h)
            if level == 0:
                h = _blurred_half(h)  # [N, 64, H / 2, W / 2]
            h = F.relu(h)
            maps.append(h)
        return maps


def _blurred_half(x: Tensor) -> Tensor:
    """Blur by (1, 2, 1) / 4 along both sides, then keep every second pixel."""
    row = x.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


@dataclass(frozen=True)
class PatchDiscriminatorConfig(NetworkConfig):
    """Shape of a `PatchDiscriminator`.

    Attributes:
        image_channels: channels of the images.
        width: channels after the first convolution; they double per layer, up to 8 times.
        layers: convolutions that halve the size.
        norm: group norm behind the inner convolutions, or none.
    """

    type_name: ClassVar[str] = "patch-discriminator"

    image_channels: int = 3
    width: int = 64
    layers: int = 3
    norm: DiscriminatorNorm = "group"

    def __post_init__(self) -> None:
        self.at_least(1, "image_channels", "width", "layers")


class PatchDiscriminator(nn.Module):
    """Real or made, asked of every patch (Isola et al. 2017, section 3.2.2: PatchGAN).

    Each logit judges a square of the image, of side 70 with three layers. Their batch norm is a group norm here: it
    keeps nothing between steps, and an image's logits do not depend on its batch.
    """

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        body: list[nn.Module] = [_conv4x4(config.image_channels, width, stride=2), nn.LeakyReLU(0.2)]
        for layer in range(1, config.layers + 1):
            out = config.width * min(2**layer, 8)
            body.append(_conv4x4(width, out, stride=2 if layer < config.layers else 1))
            if config.norm == "group":
                body.append(group_norm(out))
            body.append(nn.LeakyReLU(0.2))
            width = out
        self.body = nn.Sequential(*body)
        self.conv_out = _conv4x4(width, 1, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> logits [N, 1, h, w], above 0 for real; AlphabarError where no patch fits."""
        least = 3 * 2**self.config.layers
        if min(x.shape[2:]) < least:
            height, width = x.shape[2:]
            raise AlphabarError(
                f"a patch-discriminator of {self.config.layers} layers takes sides from {least} up, "
                f"not {height}x{width}; use fewer layers"
            )
        h = self.body(x)  # [N, c, H / 2^layers - 1, W / 2^layers - 1]
        logits: Tensor = self.conv_out(h)  # [N, 1, H / 2^layers - 2, W / 2^layers - 2]
        return logits


def _conv4x4(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=stride, padding=1)
    nn.init.normal_(conv.weight, std=0.02)  # as pix2pix starts
    return conv


def discriminator_hinge(real: Tensor, made: Tensor) -> Tensor:
    """The hinge loss of a discriminator: logits of real and of made images, any shape -> a number (Lim & Ye 2017).

    No gain in a real image's logit above 1, nor in a made one's below -1.
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def generator_hinge(made: Tensor) -> Tensor:
    """The loss of whoever made the images: their logits, any shape -> a number."""
    return -made.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, limit: float = 1e4) -> Tensor:
    """How much the discriminator may pull: the two losses' gradients become equally long (Esser et al. 2021, eq. 7).

    Args:
        reconstruction: the loss over pixels and features, a number.
        adversarial: `generator_hinge`, a number.
        last_layer: the weight through which both reach the decoder: `autoencoder.decoder.conv_out.weight`.
        limit: the largest weight.

    Returns:
        A number without gradient; both graphs are kept for the step's own backward pass.
    """
    pixels, patches = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    )
    weight: Tensor = (pixels / (patches + 1e-6)).clamp(0, limit)
    return weight.detach()
