"""Two-stage training: recipes, tasks and one trainer."""

from alphabar.train.cache import MomentsCache, encode_dataset
from alphabar.train.config import Recipe, load_recipe, recipe_from_dict, recipe_names
from alphabar.train.roads import train_latent_road, train_pixel_road
from alphabar.train.trainer import RunStoppedError, read_metrics, read_recipe, train

__all__ = [
    "MomentsCache",
    "Recipe",
    "RunStoppedError",
    "encode_dataset",
    "load_recipe",
    "read_metrics",
    "read_recipe",
    "recipe_from_dict",
    "recipe_names",
    "train",
    "train_latent_road",
    "train_pixel_road",
]
