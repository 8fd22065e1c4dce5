"""The key tables: what each tensor is called here, in diffusers' folders and in the original single files.

A `Rule` is one line of the table, with a column per layout, and is read in both directions. The rules are written for
the modules; a parameter's own name (`weight`, `bias`) is the same everywhere, except where a column says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from alphabar.errors import AlphabarError
from alphabar.nn import ClipTextConfig, ConvAutoencoderConfig, UNetConfig
from alphabar.stable_diffusion.files import LazyTensors

Layout: TypeAlias = Literal["diffusers", "original"]
Form: TypeAlias = Literal["same", "1x1", "transposed", "q", "k", "v"]
THIRDS = ("q", "k", "v")


class Rule(NamedTuple):
    """A module's name in each layout.

    Attributes:
        ours: here.
        diffusers: in folders; transformers' name for the text encoder.
        original: in single files. `{}` stands for the parameter's name where it is not set off by a dot.
        form: how the tensor lies in the original: as here; a linear layer written as a 1x1 convolution; transposed; or
            as the first, second or last third of a larger one.
    """

    ours: str
    diffusers: str
    original: str
    form: Form = "same"


class Place(NamedTuple):
    """Where one of our tensors is in a file: the key, and the form of `Rule`."""

    key: str
    form: Form


Table: TypeAlias = Mapping[str, Place]
"""Our key -> its place."""

RESIDUAL = (
    Rule("norm1", "norm1", "in_layers.0"),
    Rule("conv1", "conv1", "in_layers.2"),
    Rule("emb", "time_emb_proj", "emb_layers.1"),
    Rule("norm2", "norm2", "out_layers.0"),
    Rule("conv2", "conv2", "out_layers.3"),
    Rule("skip", "conv_shortcut", "skip_connection"),
)
TRANSFORMER = tuple(Rule(name, name, name) for name in ("norm", "proj_in", "proj_out"))
TRANSFORMER_BLOCK = tuple(
    Rule(ours, theirs, theirs)
    for ours, theirs in (
        ("norm1", "norm1"),
        *((f"self_attention.to_{x}", f"attn1.to_{x}") for x in THIRDS),
        ("self_attention.to_out", "attn1.to_out.0"),
        ("norm2", "norm2"),
        *((f"cross_attention.to_{x}", f"attn2.to_{x}") for x in THIRDS),
        ("cross_attention.to_out", "attn2.to_out.0"),
        ("norm3", "norm3"),
        ("feed_forward.proj_in", "ff.net.0.proj"),
        ("feed_forward.proj_out", "ff.net.2"),
    )
)
UNET = (
    Rule("time.linear1", "time_embedding.linear_1", "time_embed.0"),
    Rule("time.linear2", "time_embedding.linear_2", "time_embed.2"),
    Rule("conv_in", "conv_in", "input_blocks.0.0"),
    Rule("norm_out", "conv_norm_out", "out.0"),
    Rule("conv_out", "conv_out", "out.2"),
)
VAE_RESIDUAL = (
    *(Rule(name, name, name) for name in ("norm1", "conv1", "norm2", "conv2")),
    Rule("skip", "conv_shortcut", "nin_shortcut"),
)
VAE_ATTENTION = (
    Rule("norm", "group_norm", "norm"),
    *(Rule(f"to_{x}", f"to_{x}", x, "1x1") for x in THIRDS),
    Rule("to_out", "to_out.0", "proj_out", "1x1"),
)
VAE = (
    Rule("quant", "quant_conv", "quant_conv"),
    Rule("post_quant", "post_quant_conv", "post_quant_conv"),
    *(
        Rule(f"{side}.{ours}", f"{side}.{diffusers}", f"{side}.{ours}")
        for side in ("encoder", "decoder")
        for ours, diffusers in (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out"))
    ),
)
TEXT = (
    Rule("token_embedding", "text_model.embeddings.token_embedding", "token_embedding"),
    Rule("position_embedding.weight", "text_model.embeddings.position_embedding.weight", "positional_embedding"),
    Rule("final_norm", "text_model.final_layer_norm", "ln_final"),
    Rule("projection.weight", "text_projection.weight", "text_projection", "transposed"),
)
TEXT_LAYER = (
    Rule("norm1", "layer_norm1", "ln_1"),
    Rule("attention.to_q", "self_attn.q_proj", "attn.in_proj_{}", "q"),
    Rule("attention.to_k", "self_attn.k_proj", "attn.in_proj_{}", "k"),
    Rule("attention.to_v", "self_attn.v_proj", "attn.in_proj_{}", "v"),
    Rule("attention.to_out", "self_attn.out_proj", "attn.out_proj"),
    Rule("norm2", "layer_norm2", "ln_2"),
    Rule("mlp.linear1", "mlp.fc1", "mlp.c_fc"),
    Rule("mlp.linear2", "mlp.fc2", "mlp.c_proj"),
)


def _within(ours: str, diffusers: str, original: str, rules: Iterable[Rule]) -> Iterator[Rule]:
    """Rules of a part, for where it stands in the whole."""
    for rule in rules:
        yield Rule(f"{ours}.{rule.ours}", f"{diffusers}.{rule.diffusers}", f"{original}.{rule.original}", rule.form)


def unet_rules(config: UNetConfig) -> Iterator[Rule]:
    """Of a U-Net. Where a level has no attention, its rules find no tensor and do nothing."""
    transformer = [*TRANSFORMER]
    for index in range(config.transformer_depth):
        transformer += _within(
            f"blocks.{index}", f"transformer_blocks.{index}", f"transformer_blocks.{index}", TRANSFORMER_BLOCK
        )
    yield from UNET
    last = len(config.channels) - 1

    own = 0  # in our list; the original counts conv_in as its block 0
    for level in range(last + 1):
        down = f"down_blocks.{level}"
        for block in range(config.blocks):
            original = f"input_blocks.{own + 1}"
            yield from _within(f"encoder.{own}.res", f"{down}.resnets.{block}", f"{original}.0", RESIDUAL)
            yield from _within(f"encoder.{own}.attention", f"{down}.attentions.{block}", f"{original}.1", transformer)
            own += 1
        if level < last:
            yield Rule(f"encoder.{own}.conv", f"{down}.downsamplers.0.conv", f"input_blocks.{own + 1}.0.op")
            own += 1

    yield from _within("middle1.res", "mid_block.resnets.0", "middle_block.0", RESIDUAL)
    yield from _within("middle1.attention", "mid_block.attentions.0", "middle_block.1", transformer)
    yield from _within("middle2.res", "mid_block.resnets.1", "middle_block.2", RESIDUAL)

    own = theirs = 0  # the original lays an upsampling into the block before it, we do not
    for level in reversed(range(last + 1)):
        up = f"up_blocks.{last - level}"
        for block in range(config.blocks + 1):
            original = f"output_blocks.{theirs}"
            yield from _within(f"decoder.{own}.res", f"{up}.resnets.{block}", f"{original}.0", RESIDUAL)
            yield from _within(f"decoder.{own}.attention", f"{up}.attentions.{block}", f"{original}.1", transformer)
            own, theirs = own + 1, theirs + 1
        if level > 0:
            after = 2 if level in config.attention else 1
            yield Rule(f"decoder.{own}.conv", f"{up}.upsamplers.0.conv", f"output_blocks.{theirs - 1}.{after}.conv")
            own += 1


def vae_rules(config: ConvAutoencoderConfig) -> Iterator[Rule]:
    """Of the autoencoder. The original counts levels from full resolution; diffusers' decoder from the latent."""
    yield from VAE
    levels = range(len(config.channels))
    yield from _vae_levels("encoder", "down", levels, config.encoder_blocks, "downsample")
    yield from _vae_levels("decoder", "up", levels[::-1], config.decoder_blocks, "upsample")
    for side in ("encoder", "decoder"):
        ours, diffusers, original = f"{side}.middle", f"{side}.mid_block", f"{side}.mid"
        yield from _within(f"{ours}.0", f"{diffusers}.resnets.0", f"{original}.block_1", VAE_RESIDUAL)
        yield from _within(f"{ours}.1", f"{diffusers}.attentions.0", f"{original}.attn_1", VAE_ATTENTION)
        yield from _within(f"{ours}.2", f"{diffusers}.resnets.1", f"{original}.block_2", VAE_RESIDUAL)


def _vae_levels(side: str, way: str, levels: range, blocks: int, resample: str) -> Iterator[Rule]:
    own = 0
    for order, level in enumerate(levels):
        diffusers, original = f"{side}.{way}_blocks.{order}", f"{side}.{way}.{level}"
        for block in range(blocks):
            yield from _within(
                f"{side}.levels.{own}", f"{diffusers}.resnets.{block}", f"{original}.block.{block}", VAE_RESIDUAL
            )
            own += 1
        if order < len(levels) - 1:
            yield Rule(f"{side}.levels.{own}.conv", f"{diffusers}.{resample}rs.0.conv", f"{original}.{resample}.conv")
            own += 1


def text_rules(config: ClipTextConfig) -> Iterator[Rule]:
    """Of the text tower: transformers' names, which 1.x single files have too, and OpenCLIP's of 2.x single files."""
    yield from TEXT
    for index in range(config.layers):
        yield from _within(
            f"layers.{index}", f"text_model.encoder.layers.{index}", f"transformer.resblocks.{index}", TEXT_LAYER
        )


def make_table(rules: Iterable[Rule], own: Iterable[str], layout: Layout, prefix: str = "") -> Table:
    """The place of each of our keys.

    Raises:
        AlphabarError: a key that no rule names, so the network is not shaped like Stable Diffusion's.
    """
    by_name = {rule.ours: rule for rule in rules}
    table = {}
    for name in own:
        module, _, parameter = name.rpartition(".")
        rule = by_name.get(name) or by_name.get(module)
        if rule is None:
            raise AlphabarError(f"Stable Diffusion's layouts have no place for the tensor {name!r} of this network")
        theirs = rule.diffusers if layout == "diffusers" else rule.original
        if rule.ours == module:
            theirs = theirs.format(parameter) if "{}" in theirs else f"{theirs}.{parameter}"
        table[name] = Place(prefix + theirs, rule.form if layout == "original" else "same")
    return table


def read_tensors(
    table: Table, files: LazyTensors, shapes: Mapping[str, torch.Size], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Their tensors under our names, one at a time in memory beside the result.

    A linear layer may be written as a 1x1 convolution and the other way around: old files do.

    Raises:
        AlphabarError: naming the first of their keys that is missing, unknown or of another shape.
    """
    known = {place.key for place in table.values()}
    missing, unknown = sorted(known - files.keys()), sorted(files.keys() - known)
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has an unknown key {unknown[0]!r}"
        raise AlphabarError(f"{files.where} {what} ({len(missing) + len(unknown)} keys differ)")
    out = {}
    for name, place in table.items():
        tensor = _taken(files[place.key], place.form)
        if _stripped(tensor.shape) != _stripped(shapes[name]):
            shape = f"{list(files.shape(place.key))}, which does not fit {list(shapes[name])} here"
            raise AlphabarError(f"{files.where}: {place.key!r} has shape {shape}")
        out[name] = tensor.reshape(shapes[name]).to(dtype, copy=True, memory_format=torch.contiguous_format)
    return out


def write_tensors(table: Table, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Our tensors under their names: the way back from `read_tensors`."""
    out: dict[str, Tensor] = {}
    for name, (key, form) in table.items():
        tensor = tensors[name].detach().to("cpu", dtype)
        if form == "1x1" and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        elif form == "transposed":
            tensor = tensor.T
        elif form in THIRDS:
            if key not in out:
                out[key] = tensor.new_empty(3 * len(tensor), *tensor.shape[1:])
            out[key].chunk(3)[THIRDS.index(form)].copy_(tensor)
            continue
        out[key] = tensor.contiguous()
    return out


def _taken(tensor: Tensor, form: Form) -> Tensor:
    """A tensor as the file holds it -> ours."""
    if form == "transposed":
        return tensor.T
    return tensor.chunk(3)[THIRDS.index(form)] if form in THIRDS else tensor


def _stripped(shape: torch.Size) -> tuple[int, ...]:
    """A matrix's shape without the 1x1 of a convolution."""
    return tuple(shape[:2]) if len(shape) > 2 and set(shape[2:]) == {1} else tuple(shape)
