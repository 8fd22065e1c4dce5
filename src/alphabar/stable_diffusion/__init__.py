"""Stable Diffusion 1.x and 2.x in and out: diffusers' folders, the original single files, the hub.

`load(save(model))` gives every tensor back. What is read over is listed: `single_file.IGNORED`, and in folders the
positions' numbers of old text encoders.
"""

from __future__ import annotations

from pathlib import Path

from alphabar.engine import Precision
from alphabar.errors import AlphabarError
from alphabar.io import PICKLES
from alphabar.models import Model
from alphabar.stable_diffusion.files import download, refuse_pickle
from alphabar.stable_diffusion.folder import open_folder, save_folder
from alphabar.stable_diffusion.low_memory import LowMemory
from alphabar.stable_diffusion.pipeline import Pipeline, PipelineConfig, random_pipeline, sd15, sd21
from alphabar.stable_diffusion.single_file import open_single_file, save_single_file

__all__ = [
    "LowMemory",
    "Pipeline",
    "PipelineConfig",
    "is_stable_diffusion",
    "load",
    "open_pipeline",
    "random_pipeline",
    "save_folder",
    "save_single_file",
    "sd15",
    "sd21",
]


def is_stable_diffusion(name: str | Path) -> bool:
    """Whether a name is one of `open_pipeline`'s: a folder with model_index.json, a weights file, an id of the hub."""
    path = Path(name)
    if path.is_dir():
        return (path / "model_index.json").is_file()
    return path.suffix == ".safetensors" or path.suffix in PICKLES or _is_hub_id(str(name))


def _is_hub_id(name: str) -> bool:
    """`organisation/name`, with nothing of that name here."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~") and not Path(parts[0]).exists()


def open_pipeline(name: str | Path, *, prediction: str | None = None, tokenizer: Path | None = None) -> Pipeline:
    """Read a pipeline's settings, and its tensors when a stage is asked for.

    Args:
        name: a folder in the diffusers layout, a .safetensors file in the original layout, or an id of the hub, whose
            folder is downloaded.
        prediction: eps, v or x0 in the place of what the files say; a single file of 2.x does not say it.
        tokenizer: a tokenizer folder, for single files, which have none.

    Raises:
        AlphabarError: naming the file, setting or key that is missing, broken or unknown.
    """
    path = Path(name)
    refuse_pickle(path)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise AlphabarError(f"{path} has no model_index.json, so it is not a folder in the diffusers layout")
        return open_folder(path, prediction)
    if path.suffix == ".safetensors":
        return open_single_file(path, prediction, tokenizer)
    if not path.exists() and _is_hub_id(str(name)):
        return open_folder(download(str(name)), prediction)
    raise AlphabarError(f"{name} is not a folder, a .safetensors file or an id of the hub such as organisation/name")


def load(
    name: str | Path,
    *,
    precision: Precision = "float32",
    prediction: str | None = None,
    tokenizer: Path | None = None,
) -> Model:
    """All of a pipeline as a `Model`; see `open_pipeline`. Files in fp16 are widened to float32.

    Args:
        name, prediction, tokenizer: see `open_pipeline`.
        precision: of the U-Net; in bf16 it takes half the memory and can sample but not be saved.
    """
    return open_pipeline(name, prediction=prediction, tokenizer=tokenizer).load(precision)
