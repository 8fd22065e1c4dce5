"""A tiny captioned set and a tiny CLIP, for the tests of what is trained on words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import tiny
from alphabar import models
from alphabar.nn.clip import Clip, ClipConfig
from alphabar.tokenizer import Tokenizer
from alphabar.train import Recipe

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 200), "black": (0, 0, 0)}
SIZES = {"tiny": 2, "small": 5, "middle": 8, "large": 11, "huge": 14}
CLIP: dict[str, Any] = {
    "type": "clip",
    "text": {
        "vocab_size": 600,
        "length": 12,
        "width": 16,
        "layers": 2,
        "num_heads": 2,
        "mlp": 32,
        "activation": "gelu",
        "projection_dim": 16,
    },
    "image": {"channels": [8, 16], "projection_dim": 16},
}
UNET: dict[str, Any] = {
    "type": "unet",
    "in_channels": 2,
    "out_channels": 2,
    "channels": [8, 8],
    "blocks": 1,
    "attention": [0, 1],
    "num_heads": 2,
    "emb_dim": 16,
    "context_dim": 16,
}


def captioned_folder(folder: Path) -> Path:
    """Twenty pictures of 16x16, a coloured square on white, and their captions."""
    folder.mkdir()
    lines = []
    for colour, rgb in COLOURS.items():
        for size, side in SIZES.items():
            pixels = np.full((16, 16, 3), 255, dtype=np.uint8)
            pixels[1 : 1 + side, 1 : 1 + side] = rgb
            name = f"{colour}-{size}.png"
            Image.fromarray(pixels).save(folder / name)
            lines.append(json.dumps({"file_name": name, "text": f"{size} {colour} square"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def data(folder: Path) -> dict[str, Any]:
    """The section of a recipe, of a folder that is made where it is not there yet."""
    name = folder if folder.is_dir() else captioned_folder(folder)
    return {"name": str(name), "size": 16, "channels": 3}


def contrast_recipe(folder: Path, **train: Any) -> Recipe:
    """Six steps of CLIP."""
    return tiny.recipe(task="contrast", network=CLIP, data=data(folder), train=train)


def save_clip(folder: Path) -> Path:
    """An untrained CLIP, as a model folder."""
    torch.manual_seed(1)
    config = ClipConfig.from_dict({key: value for key, value in CLIP.items() if key != "type"})
    captions = [f"{size} {colour} square" for colour in COLOURS for size in SIZES]
    models.save_clip(Clip(config), Tokenizer.train(captions, 600, 12), 16, 3, {}, folder)
    return folder


def save_vae(folder: Path) -> Path:
    """An untrained autoencoder of 16x16 in colour to 2x8x8, as a model folder."""
    torch.manual_seed(2)
    codec = models.LatentCodec(tiny.build(tiny.ConvAutoencoderConfig(3, (8, 8), 2)))
    models.save_autoencoder(codec, 16, 3, {}, folder)
    return folder


def words_recipe(tmp_path: Path, text: dict[str, Any] | None = None, **overrides: Any) -> Recipe:
    """Six steps of stage 2 on both, which are made in `tmp_path` where they are not there yet."""
    clip, vae = tmp_path / "clip", tmp_path / "vae"
    for path, save in ((clip, save_clip), (vae, save_vae)):
        if not path.is_dir():
            save(path)
    values: dict[str, Any] = {
        "network": UNET,
        "codec": str(vae),
        "text": {"encoder": str(clip), **(text or {})},
        "data": data(tmp_path / "pictures"),
        "process": {"clip": None},
    }
    return tiny.recipe(**{**values, **overrides})
