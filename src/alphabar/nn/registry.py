"""Networks by the name of their type: what a model folder needs to come back as the network it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from alphabar.errors import AlphabarError, nearest
from alphabar.nn.autoencoder import (
    ConvAutoencoder,
    ConvAutoencoderConfig,
    DenseAutoencoder,
    DenseAutoencoderConfig,
)
from alphabar.nn.classifier import Classifier, ClassifierConfig
from alphabar.nn.clip import Clip, ClipConfig, ClipImage, ClipImageConfig, ClipText, ClipTextConfig
from alphabar.nn.config import NetworkConfig
from alphabar.nn.perceptual import PatchDiscriminator, PatchDiscriminatorConfig
from alphabar.nn.unet import SmallUNet, SmallUNetConfig, UNet, UNetConfig

_BUILDERS: dict[type[NetworkConfig], Callable[[Any], nn.Module]] = {
    UNetConfig: UNet,
    SmallUNetConfig: SmallUNet,
    DenseAutoencoderConfig: DenseAutoencoder,
    ConvAutoencoderConfig: ConvAutoencoder,
    ClassifierConfig: Classifier,
    ClipConfig: Clip,
    ClipTextConfig: ClipText,
    ClipImageConfig: ClipImage,
    PatchDiscriminatorConfig: PatchDiscriminator,
}

CONFIGS: dict[str, type[NetworkConfig]] = {config.type_name: config for config in _BUILDERS}
"""Type name -> config class."""


def build(config: NetworkConfig) -> nn.Module:
    """The network of a config, with fresh weights from torch's generator."""
    return _BUILDERS[type(config)](config)


def config_to_dict(config: NetworkConfig) -> dict[str, Any]:
    """A config as {"type": name, **fields}, ready for JSON."""
    return config.to_dict()


def config_from_dict(values: Mapping[str, Any]) -> NetworkConfig:
    """The way back from `config_to_dict`; lists become tuples, fields left out take their default.

    Raises:
        AlphabarError: naming the type, key or value that is wrong.
    """
    if "type" not in values:
        raise AlphabarError(f"a network config needs a 'type', one of {', '.join(CONFIGS)}")
    name = values["type"]
    if not isinstance(name, str) or name not in CONFIGS:
        raise AlphabarError(f"unknown network type {name!r}{nearest(str(name), CONFIGS)}")
    return CONFIGS[name].from_dict({key: value for key, value in values.items() if key != "type"})
