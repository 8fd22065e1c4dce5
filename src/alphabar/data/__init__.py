"""Images: named sets and folders, verified and cached, and the resumable loader. Knows files and numpy only."""

from alphabar.data.convert import to_uint8, to_unit
from alphabar.data.datasets import ArrayDataset, Dataset, fallback_dataset, open_dataset
from alphabar.data.folder import ImageFolder
from alphabar.data.loader import Batch, Loader, Rows
from alphabar.data.sources import NAMED_SETS, NamedSet

__all__ = [
    "NAMED_SETS",
    "ArrayDataset",
    "Batch",
    "Dataset",
    "ImageFolder",
    "Loader",
    "NamedSet",
    "Rows",
    "fallback_dataset",
    "open_dataset",
    "to_uint8",
    "to_unit",
]
