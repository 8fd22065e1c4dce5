"""Single files in the original layout: every stage in one safetensors file, told apart by what keys begin with."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alphabar import config as typed
from alphabar.codec import LatentCodec
from alphabar.diffusion import make_schedule
from alphabar.errors import AlphabarError
from alphabar.models import Model
from alphabar.stable_diffusion.files import LazyTensors, metadata, write_file
from alphabar.stable_diffusion.keys import write_tensors
from alphabar.stable_diffusion.pipeline import (
    SD1_CONTEXT,
    SD2_CONTEXT,
    Pipeline,
    PipelineConfig,
    Stage,
    Stored,
    group_count,
    say,
    sd15,
    sd21,
    stage_table,
)
from alphabar.stable_diffusion.settings import config_of
from alphabar.tokenizer import END, SD2_PADDING, Tokenizer, clip_vocabulary, find_clip_vocabulary

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
NOTE = "alphabar"
"""The metadata in which our files hold what the original layout leaves out: shapes, process, scale."""
CONTEXT = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
FIRST = f"{UNET}input_blocks.0.0.weight"
GROUPS = 32
"""Of every group norm in the original code."""
PENULTIMATE = 23
"""Of OpenCLIP's 24 layers, 2.x reads the output of this one; some files leave the last out."""

IGNORED = (
    r"betas|alphas_cumprod|alphas_cumprod_prev|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod",
    r"log_one_minus_alphas_cumprod|sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod",
    r"posterior_variance|posterior_log_variance_clipped|posterior_mean_coef1|posterior_mean_coef2|logvar|scale_factor",
    r"model_ema\..*",
    r"first_stage_model\.loss\..*",
    r"cond_stage_model\.transformer\.(text_model\.)?embeddings\.position_ids",
    r"cond_stage_model\.(model\.)?logit_scale",
    r"cond_stage_model\.model\.attn_mask",
)
"""Keys that are read over and not written: tables that follow from the schedule (`alphas_cumprod` is checked), a
second, averaged set of weights, the loss of the autoencoder's training, what a text tower does not compute with."""
_ignored = re.compile("|".join(IGNORED))


def open_single_file(path: Path, prediction: str | None = None, tokenizer: Path | None = None) -> Pipeline:
    """A file in the original layout; nothing but its keys and shapes is read yet.

    Args:
        path: a .safetensors file.
        prediction: eps or v, where the file does not say; 1.x is eps.
        tokenizer: a tokenizer folder; where not given, CLIP's vocabulary is looked for on this machine.
    """
    notes = metadata(path)
    files = LazyTensors.of(path, [path]).renamed(_name)
    if CONTEXT not in files or FIRST not in files:
        raise AlphabarError(f"{path} is not a Stable Diffusion 1.x or 2.x file: it lacks {CONTEXT!r}")
    text_prefix = OPEN_CLIP if any(key.startswith(OPEN_CLIP) for key in files) else TEXT
    prefixes: dict[Stage, str] = {"unet": UNET, "vae": VAE, "text": text_prefix}
    for key in sorted(files):
        if not key.startswith(tuple(prefixes.values())) and not _ignored.fullmatch(key):
            raise AlphabarError(f"{path} has an unknown key {key!r}")
    if NOTE in notes:
        config = _own_config(notes[NOTE], path)
        if prediction is not None:
            config = replace(config, process=replace(config.process, prediction=prediction))
    else:
        config = _foreign_config(files, text_prefix, prediction, path)
    _check_schedule(files, config, path)
    stored = {
        stage: Stored(
            files.renamed(_only(prefix)),
            "diffusers" if prefix == TEXT else "original",
            prefix,
        )
        for stage, prefix in prefixes.items()
    }
    return Pipeline(str(path), config, stored, lambda: _tokenizer(tokenizer, text_prefix, config.text.length))


def _name(key: str) -> str:
    """Some files of 1.x leave `text_model.` out."""
    return re.sub(rf"^{re.escape(TEXT)}(embeddings|encoder|final_layer_norm)\.", rf"{TEXT}text_model.\1.", key)


def _only(prefix: str) -> Any:
    return lambda key: key if key.startswith(prefix) and not _ignored.fullmatch(key) else None


def _own_config(note: str, path: Path) -> PipelineConfig:
    where = f"{path}: its {NOTE} metadata"
    try:
        values = json.loads(note)
    except ValueError as error:
        raise AlphabarError(f"{where} is not valid JSON: {error}") from error
    return typed.from_dict(PipelineConfig, values, where)


def _foreign_config(files: LazyTensors, text_prefix: str, prediction: str | None, path: Path) -> PipelineConfig:
    """The version by the width of its context; its shapes are checked when a stage is read."""
    width = files.shape(CONTEXT)[1]
    if width not in (SD1_CONTEXT, SD2_CONTEXT):
        raise AlphabarError(f"{path}: {CONTEXT!r} is {width} wide; Stable Diffusion 1.x has 768, 2.x 1024")
    left_open = [] if "alphas_cumprod" in files else ["schedule (taking Stable Diffusion's scaled-linear)"]
    if width == SD1_CONTEXT:
        if prediction is None:
            left_open.append("prediction (taking eps, as all of 1.x was published)")
        config = sd15()
        if prediction is not None:
            config = replace(config, process=replace(config.process, prediction=prediction))
    else:
        if prediction is None:
            left_open.append("prediction (taking v, of the 768x768 models; the 512x512 base models need eps)")
        config = _with_tower(sd21(prediction=prediction or "v"), files)
    if left_open:
        say(f"{path} does not name its {' nor its '.join(left_open)}")
    extra = files.shape(FIRST)[1] - config.unet.in_channels
    return replace(config, unet=replace(config.unet, extra_channels=extra))


def _with_tower(config: PipelineConfig, files: LazyTensors) -> PipelineConfig:
    """As many of OpenCLIP's layers as the file has, and its projection if it has one."""
    layers = 1 + max(
        (int(key.removeprefix(OPEN_CLIP).split(".")[2]) for key in files if ".resblocks." in key), default=0
    )
    projection = f"{OPEN_CLIP}text_projection"
    projected = files.shape(projection)[1] if projection in files else None
    text = replace(config.text, layers=layers, projection_dim=projected)
    return replace(config, text=text, layer=-1 if layers <= PENULTIMATE else PENULTIMATE - 1 - layers)


def _check_schedule(files: LazyTensors, config: PipelineConfig, path: Path) -> None:
    """The table in the file, where it has one, must be the schedule's."""
    if "alphas_cumprod" not in files:
        return
    process = config.process
    own = make_schedule(process.schedule, process.timesteps, zero_terminal_snr=process.zero_terminal_snr).alphas_bar
    found = files["alphas_cumprod"].double()
    if found.shape != own.shape or not torch.allclose(found, own, rtol=1e-3, atol=1e-3):
        raise AlphabarError(
            f"{path}: its alphas_cumprod is not the {process.schedule} schedule of {process.timesteps} timesteps"
        )


def _tokenizer(folder: Path | None, text_prefix: str, length: int) -> Tokenizer:
    if folder is not None:
        return Tokenizer.from_folder(folder, length)
    with tempfile.TemporaryDirectory() as temporary:
        padding = SD2_PADDING if text_prefix == OPEN_CLIP else END
        clip_vocabulary(find_clip_vocabulary(), Path(temporary), padding)
        return Tokenizer.from_folder(Path(temporary), length)


def save_single_file(model: Model, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a file in the original layout, with what the layout leaves out (shapes, process, scale) as metadata.

    The tokenizer is not written: the layout has no place for it.

    Args:
        model: with a U-Net that reads text, the latents of an autoencoder, a text encoder.
        path: the file; one that is there is replaced.
        dtype: of the tensors in the file.
    """
    config = config_of(model)
    assert model.text is not None
    assert isinstance(model.codec, LatentCodec)
    for module in (model.network, model.codec.autoencoder):
        if (groups := group_count(module)) != GROUPS:
            name = type(module).__name__
            raise AlphabarError(f"this {name} has group norms of {groups} groups; the original layout means {GROUPS}")
    text_prefix = OPEN_CLIP if config.text.activation == "gelu" else TEXT
    stages: tuple[tuple[Stage, str, torch.nn.Module], ...] = (
        ("unet", UNET, model.network),
        ("vae", VAE, model.codec.autoencoder),
        ("text", text_prefix, model.text.tower),
    )
    out: dict[str, torch.Tensor] = {}
    for stage, prefix, module in stages:
        state = module.state_dict()
        table = stage_table(config, stage, state, "diffusers" if prefix == TEXT else "original", prefix)
        out |= write_tensors(table, state, dtype)
    write_file(path, out, **{NOTE: json.dumps(typed.to_dict(config))})
