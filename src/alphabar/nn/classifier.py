"""A small image classifier, whose features are the yardstick of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.nn.config import NetworkConfig


@dataclass(frozen=True)
class ClassifierConfig(NetworkConfig):
    """Shape of a `Classifier`.

    Attributes:
        in_channels: channels of the images.
        num_classes: classes to tell apart; or several numbers, one for each question asked of the same image.
        channels: width per stage; every stage after the first halves the size. The last is the number of features.
    """

    type_name: ClassVar[str] = "classifier"

    in_channels: int = 1
    num_classes: int | tuple[int, ...] = 10
    channels: tuple[int, ...] = (32, 64, 64)

    def __post_init__(self) -> None:
        self.at_least(1, "in_channels", "num_classes", "channels")
        if not self.channels:
            raise AlphabarError("classifier.channels must name at least one stage")
        if not self.heads:
            raise AlphabarError("classifier.num_classes must name at least one number of classes")

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of classes of each question."""
        return self.num_classes if isinstance(self.num_classes, tuple) else (self.num_classes,)


class Classifier(nn.Module):
    """Images [N, C, H, W] in [-1, 1] of any size from 16 up -> logits [N, num_classes].

    Where there are several questions, their logits lie side by side, [N, sum(num_classes)]; `split` parts them.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        stages: list[nn.Module] = []
        width = config.in_channels
        for index, out in enumerate(config.channels):
            stages += [_Unit(width, out, stride=1 if index == 0 else 2), _Unit(out, out)]
            width = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(width, sum(config.heads))

    def features_by_level(self, x: Tensor) -> list[Tensor]:
        """Images [N, C, H, W] -> the maps [N, channels[i], h_i, w_i] at the end of each stage, finest first."""
        maps = []
        for unit in self.stages:
            x = unit(x)  # [N, channels[i], h_i, w_i]
            maps.append(x)
        return maps[1::2]  # a stage has two units

    def features(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> float32 [N, channels[-1]]: the last stage's maps, averaged over the image."""
        maps: Tensor = self.stages(x)  # [N, F, h, w]
        return maps.float().mean(dim=(2, 3))  # [N, F]

    def split(self, logits: Tensor) -> tuple[Tensor, ...]:
        """The logits of each question, [N, num_classes[k]]."""
        return torch.split(logits, list(self.config.heads), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))  # [N, sum(num_classes)]
        return logits


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU: [N, in, H, W] -> [N, out, H / stride, W / stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))
