"""What the tests share: one thread, repeatable examples, tiny recipes, and no way to the user's own cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: sums are then made in one order on every machine

import hypothesis
import pytest
import torch

from alphabar.train import Recipe, recipe_from_dict

torch.set_num_threads(1)
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")

MakeRecipe = Callable[..., Recipe]


def tiny(**overrides: Any) -> dict[str, Any]:
    """A denoising recipe of a second: digits of 8x8, six steps; `section={...}` adds to a section, others replace."""
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


@pytest.fixture
def tiny_recipe() -> MakeRecipe:
    """Make a tiny recipe; see `tiny`."""
    return lambda **overrides: recipe_from_dict(tiny(**overrides), "tiny.toml")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or left in the cache of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    monkeypatch.delenv("ALPHABAR_DATA", raising=False)
