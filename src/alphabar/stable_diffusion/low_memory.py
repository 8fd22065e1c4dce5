"""A pipeline whose stages are in memory one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from alphabar.codec import LatentCodec
from alphabar.engine import Precision, prepare_inference
from alphabar.models import ProcessConfig
from alphabar.nn import ConvAutoencoder
from alphabar.stable_diffusion.pipeline import Pipeline, on_meta
from alphabar.text import TextEncoder

T = TypeVar("T", TextEncoder, nn.Module, LatentCodec)
TILE = 512
"""Larger images go through the autoencoder in squares of this many pixels."""


class LowMemory:
    """The parts of a pipeline for `generate.sample`: asking for one frees the one before and reads it from disk.

    Images larger than `TILE` pixels are encoded and decoded in tiles; see `LatentCodec` for what that changes.

    Args:
        pipeline: where the parts are.
        size: height and width of the images; None takes the pipeline's.
        precision: of U-Net and autoencoder.
        device: where the parts are used.
    """

    extra_channels: int

    def __init__(
        self,
        pipeline: Pipeline,
        size: int | None = None,
        precision: Precision = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        self._pipeline, self._precision = pipeline, precision
        self._held: TextEncoder | nn.Module | LatentCodec | None = None
        self.size = size or pipeline.config.size
        self.device = torch.device(device)
        self.extra_channels = pipeline.config.unet.extra_channels

    @property
    def settings(self) -> ProcessConfig:
        """Schedule and prediction."""
        return self._pipeline.config.process

    @property
    def channels(self) -> int:
        """Of the images."""
        return self._pipeline.config.vae.image_channels

    @property
    def text(self) -> TextEncoder:
        """The text encoder."""
        return self._only(TextEncoder, lambda: self._pipeline.text().to(self.device))

    @property
    def network(self) -> nn.Module:
        """The U-Net."""
        return self._only(nn.Module, self._read_network)

    @property
    def codec(self) -> LatentCodec:
        """The autoencoder."""
        return self._only(LatentCodec, self._read_codec)

    def _read_codec(self) -> LatentCodec:
        return self._pipeline.codec().tiled(TILE).prepared(self._precision).to(self.device)

    def _read_network(self) -> nn.Module:
        network = self._pipeline.network(self._precision).to(self.device)
        return prepare_inference(network, self._precision, copy=False)

    def shape(self, n: int) -> tuple[int, ...]:
        """Of the x0 of n images; needs no weights."""
        autoencoder, _ = on_meta(self._pipeline.config, "vae")
        assert isinstance(autoencoder, ConvAutoencoder)
        return n, *autoencoder.latent_shape(self.size, self.size)

    def _only(self, kind: type[T], read: Callable[[], T]) -> T:
        if not isinstance(self._held, kind):
            self._held = None  # freed before the next is read
            self._held = read()
        return self._held
