"""Every recipe that ships can be read, and its network and task fit together."""

from __future__ import annotations

import pytest
import torch

from alphabar.models import PRETRAINED, load_autoencoder, load_classifier, load_model, read_card, shipped
from alphabar.nn import Autoencoder, Classifier, build
from alphabar.train import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipe_builds_its_network(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    network = build(recipe.network)
    kinds = {"reconstruct": Autoencoder, "classify": Classifier}
    assert isinstance(network, kinds.get(recipe.task, torch.nn.Module))


@pytest.mark.parametrize("name", shipped())
def test_shipped_weights_load_and_say_how_they_were_made(name: str) -> None:
    kind = {"vae": load_autoencoder, "classifier": load_classifier}.get(name.rpartition("-")[2], load_model)
    assert kind(name) is not None
    card = read_card(name)
    assert {"recipe", "seed", "data_sha256", "commit", "metrics", "train_seconds"} <= card.keys()


def test_shipped_weights_are_small() -> None:
    sizes = [file.stat().st_size for file in PRETRAINED.rglob("*.safetensors")]
    assert max(sizes) <= 16 * 2**20
    assert sum(sizes) <= 48 * 2**20
