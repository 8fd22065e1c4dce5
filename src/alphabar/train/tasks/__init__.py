"""What is trained: to reconstruct, to denoise, to match words and pictures, to classify. The trainer knows none."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from alphabar.data import Dataset
from alphabar.errors import AlphabarError
from alphabar.train.config import Recipe
from alphabar.train.tasks.base import Loss, Task
from alphabar.train.tasks.classify import make_classify
from alphabar.train.tasks.contrast import make_contrast
from alphabar.train.tasks.denoise import make_denoise
from alphabar.train.tasks.reconstruct import make_reconstruct

__all__ = ["Loss", "Task", "make_task"]


def make_task(recipe: Recipe, dataset: Dataset, network: nn.Module, cache: Path, device: torch.device) -> Task:
    """The task of a recipe, checked against the data.

    Args:
        recipe: the recipe.
        dataset: its pictures.
        network: built from `recipe.network`.
        cache: a folder for cached moments.
        device: where the frozen networks that a task uses run.
    """
    if recipe.text is not None and recipe.task != "denoise":
        raise AlphabarError(
            f"text.encoder is for task='denoise', the {recipe.task} task does not read it; leave it out"
        )
    match recipe.task:
        case "classify":
            return make_classify(recipe, dataset, network)
        case "contrast":
            return make_contrast(recipe, dataset, network)
        case "reconstruct":
            return make_reconstruct(recipe, dataset, network, device)
        case "denoise":
            return make_denoise(recipe, dataset, network, cache, device)
