"""Model folders: what is saved comes back bit for bit, and nothing else is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alphabar import models
from alphabar.config import to_dict
from alphabar.errors import AlphabarError
from alphabar.generate import SamplerConfig, sample
from alphabar.models import Model, ProcessConfig, load_autoencoder, load_classifier, load_model
from alphabar.nn import ClassifierConfig
from tiny import latent_codec, latent_model, network, pixel_model

FEW = SamplerConfig("ddpm", 5)


@pytest.mark.parametrize("make", [pixel_model, latent_model])
def test_a_model_comes_back_bit_for_bit(make: Callable[[], Model], tmp_path: Path) -> None:
    model = make()
    model.save(tmp_path / "run" / "model")
    for name in (tmp_path / "run", tmp_path / "run" / "model"):
        back = load_model(name)
        assert (back.settings, back.size, back.channels) == (model.settings, 8, 1)
        assert back.codec.fingerprint == model.codec.fingerprint
        assert not back.network.training
        assert torch.equal(sample(back, 3, FEW), sample(model, 3, FEW))
    assert models.kind_of(tmp_path / "run") == "denoiser"
    assert models.read_card(tmp_path / "run") == dict(model.card)


def test_saving_replaces_the_folder(tmp_path: Path) -> None:
    latent_model().save(tmp_path / "m")
    pixel_model().save(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["model.json", "network.safetensors"]


def test_autoencoder_and_classifier(tmp_path: Path) -> None:
    codec = latent_codec()
    models.save_autoencoder(codec, 8, 1, {}, tmp_path / "a")
    assert load_autoencoder(tmp_path / "a").fingerprint == codec.fingerprint
    classifier = network(ClassifierConfig())
    models.save_classifier(classifier, 28, 1, {"accuracy": 0.5}, tmp_path / "c")
    x = torch.zeros(2, 1, 28, 28)
    assert torch.equal(load_classifier(tmp_path / "c")(x), classifier(x))
    assert models.kind_of(tmp_path / "c") == "classifier"
    assert models.read_card(tmp_path / "c") == {"accuracy": 0.5}


def test_the_process_is_what_the_settings_say() -> None:
    settings = ProcessConfig("linear", 50, zero_terminal_snr=True, prediction="v", weight="min-snr", clip=2.0)
    process = settings.build()
    assert process.schedule.timesteps == 50
    assert process.schedule.alphas_bar[-1] == 0
    assert (process.prediction.name, process.weight.__name__) == ("v", "min_snr")
    assert to_dict(settings)["clip"] == 2.0


def test_preparing_changes_the_answer_by_rounding_only() -> None:
    model = pixel_model()
    fast = model.prepared("float32")
    assert fast.network is not model.network
    assert fast.device == model.to("cpu").device == torch.device("cpu")
    torch.testing.assert_close(sample(fast, 2, FEW), sample(model, 2, FEW), rtol=0, atol=1e-4)


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("key", models.KEYS["denoiser"])
def test_every_key_is_needed(tmp_path: Path, key: str) -> None:
    pixel_model().save(tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    description = json.loads(path.read_text())
    del description[key]
    path.write_text(json.dumps(description))
    with pytest.raises(AlphabarError) as error:
        load_model(tmp_path / "m")
    assert str(error.value) == f"{path}: {key}: this key is required"


def test_a_wrong_process_is_named(tmp_path: Path) -> None:
    pixel_model().save(tmp_path / "m")
    edited(tmp_path / "m", process={"schedule": "cosin"})
    with pytest.raises(AlphabarError, match=r"m/model\.json: \[process\] unknown schedule 'cosin'; did you mean"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    "changes",
    [
        {"image": {"size": "8", "channels": 1}},
        {"image": 8},
        {"image": {"size": 8}},
        {"network": 3},
        {"codec": {}},
        {"codec": {"type": "wavelet"}},
        {"codec": {"type": "latent"}},
        {"codec": {"type": "pixel", "channels": "1"}},
        {"process": []},
        {"card": 3},
    ],
    ids=str,
)
def test_a_damaged_description_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    pixel_model().save(tmp_path / "m")
    edited(tmp_path / "m", **changes)
    with pytest.raises(AlphabarError) as error:
        load_model(tmp_path / "m")
    assert str(tmp_path / "m") in str(error.value)
    assert "\n" not in str(error.value)
