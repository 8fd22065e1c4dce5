"""Every recipe that ships can be read, and its network and task fit together."""

from __future__ import annotations

import pytest
import torch

from alphabar.models import PRETRAINED, load_autoencoder, load_classifier, load_clip, load_model, read_card, shipped
from alphabar.nn import Autoencoder, Classifier, Clip, ClipConfig, ConvAutoencoderConfig, UNetConfig, build
from alphabar.train import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipe_builds_its_network(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    network = build(recipe.network)
    kinds = {"reconstruct": Autoencoder, "classify": Classifier, "contrast": Clip}
    assert isinstance(network, kinds.get(recipe.task, torch.nn.Module))


def test_the_stages_of_the_emoji_recipes_fit() -> None:
    """They train one upon the other; sizes that differ would show only after hours."""
    vae, clip, latent = (load_recipe(f"emoji-{stage}") for stage in ("vae", "clip", "latent"))
    assert isinstance(vae.network, ConvAutoencoderConfig)
    assert isinstance(clip.network, ClipConfig)
    assert isinstance(latent.network, UNetConfig)
    assert vae.data == latent.data
    assert clip.data.name == latent.data.name  # the text tower learned the words; it never sees these pictures
    assert latent.network.in_channels == latent.network.out_channels == vae.network.latent_channels
    assert latent.network.context_dim == clip.network.text.width
    assert vae.network.image_channels == clip.network.image.image_channels == vae.data.channels


@pytest.mark.parametrize("name", shipped())
def test_shipped_weights_load_and_say_how_they_were_made(name: str) -> None:
    kinds = {"vae": load_autoencoder, "classifier": load_classifier, "clip": load_clip}
    assert kinds.get(name.rpartition("-")[2], load_model)(name) is not None  # type: ignore[operator]
    card = read_card(name)
    assert {"recipe", "seed", "data_sha256", "commit", "metrics", "train_seconds"} <= card.keys()


def test_shipped_weights_are_small() -> None:
    sizes = [file.stat().st_size for file in PRETRAINED.rglob("*.safetensors")]
    assert max(sizes) <= 16 * 2**20
    assert sum(sizes) <= 48 * 2**20
