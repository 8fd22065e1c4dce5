"""Images: named sets and folders, verified and cached, and the resumable loader. Knows files and numpy only."""

from alphabar.data.convert import to_uint8, to_unit
from alphabar.data.datasets import ArrayDataset, Dataset, fallback_dataset, open_dataset
from alphabar.data.emoji import EmojiDataset
from alphabar.data.folder import ImageFolder, read_image
from alphabar.data.loader import Batch, Loader, Rows
from alphabar.data.sources import NAMED_SETS, NamedSet

__all__ = [
    "NAMED_SETS",
    "ArrayDataset",
    "Batch",
    "Dataset",
    "EmojiDataset",
    "ImageFolder",
    "Loader",
    "NamedSet",
    "Rows",
    "fallback_dataset",
    "open_dataset",
    "read_image",
    "to_uint8",
    "to_unit",
]
