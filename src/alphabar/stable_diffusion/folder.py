"""Folders in the diffusers layout: one folder per component, each with its settings as JSON."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from alphabar.codec import LatentCodec
from alphabar.config import from_dict, read
from alphabar.errors import AlphabarError
from alphabar.io import atomic_folder, read_json, write_json
from alphabar.models import Model
from alphabar.stable_diffusion.files import STEMS, LazyTensors, component_tensors, write_file
from alphabar.stable_diffusion.keys import write_tensors
from alphabar.stable_diffusion.pipeline import (
    SCALING_FACTOR,
    SD1_CONTEXT,
    Pipeline,
    PipelineConfig,
    Stage,
    Stored,
    group_count,
    on_meta,
    stage_table,
)
from alphabar.stable_diffusion.settings import (
    config_of,
    optional,
    process_from,
    scheduler_to,
    text_from,
    text_to,
    unet_from,
    unet_to,
    vae_from,
    vae_to,
)
from alphabar.tokenizer import Tokenizer

COMPONENTS: dict[Stage, str] = {"unet": "unet", "vae": "vae", "text": "text_encoder"}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def open_folder(root: Path, prediction: str | None = None) -> Pipeline:
    """A folder with a model_index.json; nothing but its settings is read yet."""
    index = read_json(root / "model_index.json")
    for name in ("text_encoder_2", "text_encoder_3", "transformer", "image_encoder"):
        if (index.get(name) or [None])[0] is not None:
            raise AlphabarError(f"{root / 'model_index.json'} has a {name}: only Stable Diffusion 1.x and 2.x are read")
    text_files = component_tensors(root, "text_encoder").renamed(_text_name)
    stored: dict[Stage, Stored] = {
        "unet": Stored(component_tensors(root, "unet"), "diffusers"),
        "vae": Stored(component_tensors(root, "vae").renamed(_vae_name), "diffusers"),
        "text": Stored(text_files, "diffusers"),
    }
    config = _read_config(root, text_files, prediction)
    for stage in ("unet", "vae"):
        path = root / COMPONENTS[stage] / "config.json"
        try:
            groups = group_count(on_meta(config, stage)[0])
        except AlphabarError as error:
            raise AlphabarError(f"{path}: {error}") from error
        if (found := read_json(path).get("norm_num_groups", 32)) != groups:
            raise AlphabarError(f"{path}: norm_num_groups is {found}; at these widths ours is {groups}")
    return Pipeline(str(root), config, stored, lambda: Tokenizer.from_folder(root / "tokenizer", config.text.length))


def _text_name(key: str) -> str | None:
    """Transformers' newest files leave out `text_model.`, its old ones hold the positions' numbers."""
    if key.endswith("embeddings.position_ids"):
        return None
    bare = key.startswith(("embeddings.", "encoder.", "final_layer_norm."))
    return f"text_model.{key}" if bare else key


def _vae_name(key: str) -> str:
    """Old diffusers files have other names in the attention."""
    old = re.fullmatch(rf"(.*\.attentions\.0)\.({'|'.join(OLD_ATTENTION)})\.(weight|bias)", key)
    return f"{old[1]}.{OLD_ATTENTION[old[2]]}.{old[3]}" if old else key


def _read_config(root: Path, text_files: LazyTensors, prediction: str | None) -> PipelineConfig:
    where = {stage: f"{root / component / 'config.json'}" for stage, component in COMPONENTS.items()}
    values = {stage: read_json(Path(path)) for stage, path in where.items()}
    unet, vae = unet_from(values["unet"], where["unet"]), vae_from(values["vae"], where["vae"])
    projected = text_files.shape("text_projection.weight")[0] if "text_projection.weight" in text_files else None
    scheduler_path = root / "scheduler" / "scheduler_config.json"
    scheduler = read_json(scheduler_path)
    shape = {
        "unet": unet,
        "vae": vae,
        "text": text_from(values["text"], projected, where["text"]),
        "process": process_from(scheduler, prediction, unet.context_dim == SD1_CONTEXT, str(scheduler_path)),
        "size": read(values["unet"], "sample_size", int, where["unet"]) * 2 ** (len(vae.channels) - 1),
        "scaling_factor": optional(values["vae"], "scaling_factor", SCALING_FACTOR, where["vae"]),
        "shift_factor": optional(values["vae"], "shift_factor", 0.0, where["vae"]),
        "spacing": optional(scheduler, "timestep_spacing", "leading", str(scheduler_path)),
        "steps_offset": optional(scheduler, "steps_offset", 0, str(scheduler_path)),
    }
    return from_dict(PipelineConfig, shape, str(root))


def save_folder(model: Model, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder in the diffusers layout.

    Where the text encoder takes an output before its last layer, the layers after it are not written: the layout cannot
    say "the one before the last", so published folders leave them out too.

    Args:
        model: with a U-Net that reads text, the latents of an autoencoder, a text encoder.
        out: the folder; one that is there is replaced.
        dtype: of the tensors in the files.
    """
    config = config_of(model)
    assert model.text is not None
    assert isinstance(model.codec, LatentCodec)
    text = replace(config.text, layers=config.text.layers + 1 + config.layer)
    config = replace(config, text=text, layer=-1)
    states = {
        "unet": model.network.state_dict(),
        "vae": model.codec.autoencoder.state_dict(),
        "text": model.text.tower.state_dict(),
    }
    settings = {
        "unet": unet_to(config, group_count(model.network)),
        "vae": vae_to(config, group_count(model.codec.autoencoder)),
        "text": text_to(config.text),
    }
    with atomic_folder(out) as temporary:
        for stage, component in COMPONENTS.items():
            folder = temporary / component
            folder.mkdir()
            table = stage_table(config, stage, on_meta(config, stage)[1], "diffusers")
            write_file(folder / f"{STEMS[component]}.safetensors", write_tensors(table, states[stage], dtype))
            write_json(folder / "config.json", settings[stage])
        (temporary / "scheduler").mkdir()
        write_json(temporary / "scheduler" / "scheduler_config.json", scheduler_to(config))
        model.text.tokenizer.save_folder(temporary / "tokenizer")
        kind = "StableDiffusionInpaintPipeline" if config.unet.extra_channels else "StableDiffusionPipeline"
        write_json(
            temporary / "model_index.json",
            {
                "_class_name": kind,
                "feature_extractor": [None, None],
                "requires_safety_checker": False,
                "safety_checker": [None, None],
                "scheduler": ["diffusers", "DDIMScheduler"],
                "text_encoder": ["transformers", settings["text"]["architectures"][0]],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
            },
        )
