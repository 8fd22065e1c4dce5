"""What diffusers' JSON says and what our configs say, both ways; a setting that we do not have is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch

from alphabar.codec import LatentCodec
from alphabar.config import from_dict, read
from alphabar.errors import AlphabarError, nearest
from alphabar.models import Model, ProcessConfig
from alphabar.nn import ClipTextConfig, ConvAutoencoder, ConvAutoencoderConfig, UNet, UNetConfig
from alphabar.stable_diffusion.pipeline import PipelineConfig, say

T = TypeVar("T")

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULES = {
    "scaled_linear": ("scaled-linear", 0.00085, 0.012),
    "linear": ("linear", 1e-4, 0.02),
    "squaredcos_cap_v2": ("cosine", None, None),
}
"""Their name -> ours, and the first and last beta that ours has."""
BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
"""What a scheduler_config.json means that leaves them out."""

UNET_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "mid_block_only_cross_attention": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
VAE_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
"""Settings that would change the numbers but not the tensors, and which all of 1.x and 2.x share."""
OUR_FIXED: dict[type, dict[str, Any]] = {
    UNetConfig: {"mode": "add", "dropout": 0.0, "middle_attention": True},
    ConvAutoencoderConfig: {
        "border": 0,
        "middle_blocks": 2,
        "attention": True,
        "variational": True,
        "eps": 1e-6,
        "asymmetric_padding": True,
        "quant_convs": True,
    },
}
"""The same, as our configs say it."""

OLD_END = 2
"""The id of end-of-text in old text settings, where it means the highest id of each text."""


def unet_from(values: Mapping[str, Any], where: str) -> UNetConfig:
    """A U-Net's config.json -> its shape."""
    _check_fixed(values, UNET_FIXED, where)
    channels = tuple(_numbers(values, "block_out_channels", where))
    kinds = _list(values, "down_block_types", where)
    for key, blocks, own in (("down_block_types", "Down", kinds), ("up_block_types", "Up", kinds[::-1])):
        expected = [f"CrossAttn{blocks}Block2D" if "CrossAttn" in kind else f"{blocks}Block2D" for kind in own]
        if _list(values, key, where) != expected:
            raise AlphabarError(f"{where}: {key} should be {expected}, got {values[key]}")
    heads = "num_attention_heads" if values.get("num_attention_heads") is not None else "attention_head_dim"
    out_channels = read(values, "out_channels", int, where)
    shape = {
        "in_channels": out_channels,
        "out_channels": out_channels,
        "channels": channels,
        "blocks": _same(_numbers(values, "layers_per_block", where), "layers_per_block", where),
        "attention": tuple(level for level, kind in enumerate(kinds) if "CrossAttn" in kind),
        "num_heads": _number_or_each(_numbers(values, heads, where, 8)),
        "emb_dim": 4 * channels[0],
        "mode": "add",
        "context_dim": read(values, "cross_attention_dim", int, where),
        "transformer_depth": _same(_numbers(values, "transformer_layers_per_block", where, 1), "its depth", where),
        "linear_projection": optional(values, "use_linear_projection", False, where),
        "extra_channels": read(values, "in_channels", int, where) - out_channels,
        "middle_attention": True,
    }
    return from_dict(UNetConfig, shape, where)


def unet_to(pipeline: PipelineConfig, groups: int) -> dict[str, Any]:
    """The way back from `unet_from`."""
    config = pipeline.unet
    kinds = ["CrossAttn" if level in config.attention else "" for level in range(len(config.channels))]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": pipeline.size // 2 ** (len(pipeline.vae.channels) - 1),
        "in_channels": config.in_channels + config.extra_channels,
        "out_channels": config.out_channels,
        "block_out_channels": config.channels,
        "layers_per_block": config.blocks,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "attention_head_dim": config.num_heads,  # the name is diffusers' slip: it holds the number of heads
        "cross_attention_dim": config.context_dim,
        "transformer_layers_per_block": config.transformer_depth,
        "use_linear_projection": config.linear_projection,
        "upcast_attention": config.linear_projection,  # 2.1 in fp16 overflows without; in float32 it changes nothing
        "norm_num_groups": groups,
        **UNET_FIXED,
    }


def vae_from(values: Mapping[str, Any], where: str) -> ConvAutoencoderConfig:
    """An autoencoder's config.json -> its shape."""
    _check_fixed(values, VAE_FIXED, where)
    blocks = read(values, "layers_per_block", int, where)
    shape = {
        "image_channels": read(values, "out_channels", int, where),
        "channels": tuple(_numbers(values, "block_out_channels", where)),
        "latent_channels": read(values, "latent_channels", int, where),
        "encoder_blocks": blocks,
        "decoder_blocks": blocks + 1,
        **OUR_FIXED[ConvAutoencoderConfig],
    }
    return from_dict(ConvAutoencoderConfig, shape, where)


def vae_to(config: PipelineConfig, groups: int) -> dict[str, Any]:
    """The way back from `vae_from`."""
    vae = config.vae
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": config.size,
        "in_channels": vae.image_channels,
        "out_channels": vae.image_channels,
        "block_out_channels": vae.channels,
        "layers_per_block": vae.encoder_blocks,
        "down_block_types": ["DownEncoderBlock2D"] * len(vae.channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(vae.channels),
        "latent_channels": vae.latent_channels,
        "norm_num_groups": groups,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor or None,
        **VAE_FIXED,
    }


def text_from(values: Mapping[str, Any], projection_dim: int | None, where: str) -> ClipTextConfig:
    """A text encoder's config.json -> its shape; whether it has a projection is seen from its tensors."""
    end = optional(values, "eos_token_id", OLD_END, where)
    shape = {
        "vocab_size": read(values, "vocab_size", int, where),
        "length": read(values, "max_position_embeddings", int, where),
        "width": read(values, "hidden_size", int, where),
        "layers": read(values, "num_hidden_layers", int, where),
        "num_heads": read(values, "num_attention_heads", int, where),
        "mlp": read(values, "intermediate_size", int, where),
        "activation": known(values, "hidden_act", {"quick_gelu": "quick_gelu", "gelu": "gelu"}, where, "quick_gelu"),
        "projection_dim": projection_dim,
        "end_token": None if end == OLD_END else end,
        "eps": optional(values, "layer_norm_eps", 1e-5, where),
    }
    return from_dict(ClipTextConfig, shape, where)


def text_to(config: ClipTextConfig) -> dict[str, Any]:
    """The way back from `text_from`."""
    return {
        "architectures": ["CLIPTextModel" if config.projection_dim is None else "CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.length,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp,
        "hidden_act": config.activation,
        "projection_dim": config.projection_dim or config.width,
        "layer_norm_eps": config.eps,
        "bos_token_id": config.vocab_size - 2,
        "eos_token_id": OLD_END if config.end_token is None else config.end_token,
        "pad_token_id": 1,
    }


def process_from(values: Mapping[str, Any], prediction: str | None, is_sd1: bool, where: str) -> ProcessConfig:
    """A scheduler_config.json -> the process; `prediction` takes the place of what it says."""
    kind = read(values, "beta_schedule", str, where)
    schedule, *ends = known(values, "beta_schedule", SCHEDULES, where)
    for (key, default), own in zip(BETAS.items(), ends, strict=True):
        if own is not None and (found := values.get(key, default)) != own:
            raise AlphabarError(f"{where}: {key} is {found}; alphabar's {schedule} schedule has {own}")
    if values.get("trained_betas") is not None:
        raise AlphabarError(f"{where}: trained_betas are not supported; name a beta_schedule instead of {kind}")
    if prediction is None:
        if "prediction_type" not in values and not is_sd1:
            say(f"{where} names no prediction_type, which in this format means epsilon")
        prediction = known(values, "prediction_type", PREDICTIONS, where, "epsilon")
    shape = {
        "schedule": schedule,
        "timesteps": optional(values, "num_train_timesteps", 1000, where),
        "zero_terminal_snr": optional(values, "rescale_betas_zero_snr", False, where),
        "prediction": prediction,
        "clip": optional(values, "clip_sample_range", 1.0, where) if values.get("clip_sample") else None,
    }
    return from_dict(ProcessConfig, shape, where)


def scheduler_to(config: PipelineConfig) -> dict[str, Any]:
    """The way back from `process_from`, for a DDIM sampler."""
    process = config.process
    theirs = {ours: (name, *ends) for name, (ours, *ends) in SCHEDULES.items()}
    if process.schedule not in theirs:
        raise AlphabarError(f"diffusers has no word for the schedule {process.schedule!r}{nearest('', theirs)}")
    name, start, end = theirs[process.schedule]
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": process.timesteps,
        "beta_schedule": name,
        **({} if start is None else {"beta_start": start, "beta_end": end}),
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[process.prediction],
        "rescale_betas_zero_snr": process.zero_terminal_snr,
        "timestep_spacing": config.spacing,
        "steps_offset": config.steps_offset,
        "set_alpha_to_one": False,
        "clip_sample": process.clip is not None,
        **({} if process.clip is None else {"clip_sample_range": process.clip}),
    }


def _check_fixed(values: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    for key, expected in fixed.items():
        if key in values and values[key] != expected:
            raise AlphabarError(f"{where}: {key} is {values[key]!r}; Stable Diffusion 1.x and 2.x have {expected!r}")


def known(values: Mapping[str, Any], key: str, words: Mapping[str, T], where: str, default: str | None = None) -> T:
    """What a word among known ones stands for."""
    word = read(values, key, str, where) if default is None or key in values else default
    if word not in words:
        raise AlphabarError(f"{where}: {key} is {word!r}, which alphabar does not have{nearest(word, words)}")
    return words[word]


def optional(values: Mapping[str, Any], key: str, default: T, where: str) -> T:
    """A value of the default's type; the default where it is missing or null."""
    return default if values.get(key) is None else read(values, key, type(default), where)


def _list(values: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """A required list of a JSON object."""
    if not isinstance(values.get(key), list):
        raise AlphabarError(f"{where}: {key} should be a list, got {values.get(key)!r}")
    return list(values[key])


def _numbers(values: Mapping[str, Any], key: str, where: str, default: int | None = None) -> list[int]:
    """A whole number, or a list of them."""
    value = values.get(key, default)
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(type(number) is int for number in numbers):
        raise AlphabarError(f"{where}: {key} should be a whole number or a list of them, got {value!r}")
    return numbers


def _number_or_each(numbers: list[int]) -> int | tuple[int, ...]:
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _same(numbers: list[int], key: str, where: str) -> int:
    if len(set(numbers)) != 1:
        raise AlphabarError(f"{where}: {key} should be the same at every level, got {numbers}")
    return numbers[0]


def config_of(model: Model) -> PipelineConfig:
    """What a model would be as a pipeline.

    Raises:
        AlphabarError: naming what Stable Diffusion's files have no place for.
    """
    if not isinstance(model.network, UNet) or model.network.config.context_dim is None:
        raise AlphabarError(
            f"only a U-Net that reads text has Stable Diffusion's layout, not {type(model.network).__name__}"
        )
    if not isinstance(model.codec, LatentCodec) or not isinstance(model.codec.autoencoder, ConvAutoencoder):
        raise AlphabarError("only a model of the latents of a convolutional autoencoder has Stable Diffusion's layout")
    if model.text is None or not model.text.final_norm:
        raise AlphabarError("only a model with a text encoder and its final norm has Stable Diffusion's layout")
    unet, vae = model.network.config, model.codec.autoencoder.config
    if unet.middle_attention is None:
        unet = replace(unet, middle_attention=len(unet.channels) - 1 in unet.attention)
    fixed = {"emb_dim": 4 * unet.channels[0], "in_channels": unet.out_channels, **OUR_FIXED[UNetConfig]}
    for shape, wanted in (
        (unet, fixed),
        (vae, {"decoder_blocks": vae.encoder_blocks + 1, **OUR_FIXED[ConvAutoencoderConfig]}),
    ):
        for key, value in wanted.items():
            if getattr(shape, key) != value:
                raise AlphabarError(
                    f"Stable Diffusion's {shape.type_name}.{key} is {value!r}, not {getattr(shape, key)!r}"
                )
    return PipelineConfig(
        unet=unet,
        vae=vae,
        text=model.text.tower.config,
        process=model.settings,
        size=model.size,
        layer=model.text.layer,
        scaling_factor=_shortest(1 / _single(model.codec.scale, "scale"), model.codec.scale),
        shift_factor=_single(model.codec.shift, "shift"),
        spacing=model.card.get("spacing", "leading"),
        steps_offset=model.card.get("steps_offset", 1),
    )


def _single(values: torch.Tensor, what: str) -> float:
    if len(values.unique()) != 1:
        raise AlphabarError(f"Stable Diffusion's files hold one latent {what} for all channels, not {values.tolist()}")
    return float(values[0])


def _shortest(factor: float, scale: torch.Tensor) -> float:
    """The shortest decimal whose inverse is the very scale: 0.18215, not 0.18214999."""
    short = (round(factor, digits) for digits in range(1, 16))
    return next((value for value in short if value and torch.tensor(1 / value) == scale[0].cpu()), factor)
