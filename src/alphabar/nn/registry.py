"""Networks by the name of their type: what a model folder needs to come back as the network it was."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from torch import nn

from alphabar.errors import AlphabarError, nearest
from alphabar.nn.autoencoder import (
    ConvAutoencoder,
    ConvAutoencoderConfig,
    DenseAutoencoder,
    DenseAutoencoderConfig,
)
from alphabar.nn.classifier import Classifier, ClassifierConfig
from alphabar.nn.unet import SmallUNet, SmallUNetConfig, UNet, UNetConfig

NetworkConfig: TypeAlias = (
    UNetConfig | SmallUNetConfig | DenseAutoencoderConfig | ConvAutoencoderConfig | ClassifierConfig
)

CONFIGS: dict[str, type[NetworkConfig]] = {
    "unet": UNetConfig,
    "small-unet": SmallUNetConfig,
    "dense-autoencoder": DenseAutoencoderConfig,
    "conv-autoencoder": ConvAutoencoderConfig,
    "classifier": ClassifierConfig,
}
"""Type name -> config class."""


def build(config: NetworkConfig) -> nn.Module:
    """The network of a config, with fresh weights from torch's generator."""
    match config:
        case UNetConfig():
            return UNet(config)
        case SmallUNetConfig():
            return SmallUNet(config)
        case DenseAutoencoderConfig():
            return DenseAutoencoder(config)
        case ConvAutoencoderConfig():
            return ConvAutoencoder(config)
        case ClassifierConfig():
            return Classifier(config)


def config_to_dict(config: NetworkConfig) -> dict[str, Any]:
    """A config as {"type": name, **fields}, ready for JSON."""
    name = next(name for name, kind in CONFIGS.items() if kind is type(config))
    return {"type": name, **asdict(config)}


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
    kind = CONFIGS[name]
    known = [field.name for field in fields(kind)]
    hints = get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key == "type":
            continue
        if key not in known:
            raise AlphabarError(f"unknown key {key!r} in the config of {name!r}{nearest(key, known)}")
        arguments[key] = _parse(value, hints[key], f"{name}.{key}")
    lacking = [f.name for f in fields(kind) if f.default is MISSING and f.name not in arguments]
    if lacking:
        raise AlphabarError(f"the config of {name!r} lacks {lacking[0]!r}")
    return kind(**arguments)


def _parse(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as the hinted type, or an AlphabarError that says what was expected."""
    origin = get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = get_args(hint)
        kinds = (kinds[0],) * len(value) if kinds[-1] is ... else kinds
        if len(kinds) != len(value):
            raise AlphabarError(f"{where} takes {len(kinds)} values, not {len(value)}")
        return tuple(_parse(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    if origin in (Union, types.UnionType) and value is None and type(None) in get_args(hint):
        return None
    if origin is Literal and value in get_args(hint):
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    expected = hint.__name__ if isinstance(hint, type) and origin is None else str(hint).replace("typing.", "")
    raise AlphabarError(f"{where} must be {expected}, not {value!r}")
