"""Real recipes and models at sizes that take a second or less: digits of 8x8, a U-Net of width 8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.codec import LatentCodec, PixelCodec
from alphabar.io import load_tensors
from alphabar.models import Model, ProcessConfig
from alphabar.nn import (
    Autoencoder,
    ClipTextConfig,
    ConvAutoencoderConfig,
    NetworkConfig,
    SmallUNetConfig,
    UNetConfig,
    build,
)
from alphabar.text import TextEncoder
from alphabar.tokenizer import Tokenizer
from alphabar.train import Recipe, read_metrics, recipe_from_dict
from alphabar.train.checkpoint import latest_checkpoint


def recipe_values(**overrides: Any) -> dict[str, Any]:
    """A denoising recipe of six steps; `section={...}` adds to a section (a network replaces it), others replace."""
    values: dict[str, Any] = {
        "name": "tiny",
        "task": "denoise",
        "data": {"name": "digits"},
        "network": {"type": "small-unet", "channels": [8, 8, 8], "emb_dim": 16},
        "process": {"timesteps": 50, "clip": 1.0},
        "train": {
            "steps": 6,
            "batch_size": 16,
            "warmup_steps": 2,
            "log_every": 2,
            "previews": 0,
            "precision": "float32",
        },
    }
    for key, value in overrides.items():
        merge = isinstance(value, dict) and isinstance(values.get(key), dict) and "type" not in value
        values[key] = {**values[key], **value} if merge else value
    return values


def recipe(**overrides: Any) -> Recipe:
    """The same, read."""
    return recipe_from_dict(recipe_values(**overrides), "tiny.toml")


AUTOENCODER = {"type": "conv-autoencoder", "channels": [8, 8], "latent_channels": 2}


def network(config: NetworkConfig) -> Any:
    """A network that was not trained but answers differently to different inputs."""
    torch.manual_seed(0)
    made = build(config).eval()
    with torch.no_grad():  # the last layer starts at 0, which would make all outputs alike
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def latent_codec() -> LatentCodec:
    """8x8 pixels to 2 channels of 4x4."""
    autoencoder = network(ConvAutoencoderConfig(channels=(8, 8), latent_channels=2))
    assert isinstance(autoencoder, Autoencoder)
    return LatentCodec(autoencoder, torch.tensor([0.1, 0.2]), torch.tensor([1.5, 2.5]))


def pixel_model() -> Model:
    """Of 20 timesteps, clipped."""
    config = SmallUNetConfig(channels=(8, 8, 8), emb_dim=16)
    return Model(network(config), ProcessConfig(timesteps=20, clip=1.0), PixelCodec(1), 8, 1, {"seed": 3})


def latent_model() -> Model:
    """Of 20 timesteps, in the latents of `latent_codec`."""
    config = SmallUNetConfig(in_channels=2, out_channels=2, channels=(8, 8, 8), emb_dim=16)
    return Model(network(config), ProcessConfig(timesteps=20), latent_codec(), 8, 1)


def text_encoder() -> TextEncoder:
    """A tower that was not trained, with a tokeniser of a few captions."""
    tokenizer = Tokenizer.train(["red heart", "blue circle", "man dark skin tone"], vocab_size=530, length=8)
    config = ClipTextConfig(vocab_size=530, length=8, width=16, layers=2, num_heads=2, mlp=32)
    return TextEncoder(tokenizer, network(config))


def word_model(**unet: Any) -> Model:
    """Of 20 timesteps, in the latents of `latent_codec`, told words."""
    config = UNetConfig(
        **{
            "in_channels": 2,
            "out_channels": 2,
            "channels": (8, 16),
            "blocks": 1,
            "attention": (0, 1),
            "num_heads": 2,
            "emb_dim": 16,
            "context_dim": 16,
            **unet,
        }
    )
    return Model(network(config), ProcessConfig(timesteps=20), latent_codec(), 8, 1, text=text_encoder())


def write_recipe(path: Path, **overrides: Any) -> Path:
    """The same as a TOML file, for the command line."""
    lines, sections = [], []
    for key, value in recipe_values(**overrides).items():
        if isinstance(value, dict):
            sections += [f"[{key}]", *(f"{name} = {json.dumps(item)}" for name, item in value.items())]
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    path.write_text("\n".join([*lines, *sections]) + "\n")
    return path


def run_state(run: Path) -> dict[str, Tensor]:
    """Weights, averaged weights and optimizer of a run's newest checkpoint, by file and name."""
    folder = latest_checkpoint(run)
    assert folder is not None
    return {
        f"{file.stem}: {name}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_tensors(file).items()
    }


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names of what is not equal to the bit."""
    assert one.keys() == other.keys()
    assert one
    return [name for name in one if not torch.equal(one[name], other[name])]


def timeless(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without the clock."""
    clock = {"seconds", "images_per_second"}
    return [{key: line[key] for key in line if key not in clock} for line in read_metrics(run)]
