"""The conditioned U-Net against diffusers, with every weight random, and against the sizes of the published ones.

The widths are multiples of 128, where `group_count` gives 32 groups: diffusers has one number for the whole network.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from alphabar.nn import UNet, UNetConfig

SD1 = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(320, 640, 1280, 1280),
    blocks=2,
    attention=(0, 1, 2),
    num_heads=8,
    emb_dim=1280,
    mode="add",
    context_dim=768,
    middle_attention=True,
)
SD2 = replace(SD1, num_heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True)

SMALL = replace(SD1, channels=(128, 128, 256, 128), blocks=1, num_heads=4, emb_dim=512, context_dim=24)
CASES = {
    "Stable Diffusion 1": SMALL,
    "Stable Diffusion 2": replace(SMALL, num_heads=(2, 4, 8, 1), context_dim=40, linear_projection=True),
    "inpainting": replace(SMALL, extra_channels=5),
    "two blocks, two transformer blocks each": replace(
        SMALL, channels=(128, 256), attention=(1,), blocks=2, transformer_depth=2
    ),
}

PARTS = [  # ours -> diffusers', within a block
    (r"res\.norm", "resnet.norm"),
    (r"res\.conv", "resnet.conv"),
    (r"res\.emb", "resnet.time_emb_proj"),
    (r"res\.skip", "resnet.conv_shortcut"),
    (r"attention\.blocks", "attention.transformer_blocks"),
    (r"self_attention", "attn1"),
    (r"cross_attention", "attn2"),
    (r"to_out", "to_out.0"),
    (r"feed_forward\.proj_in", "ff.net.0.proj"),
    (r"feed_forward\.proj_out", "ff.net.2"),
    (r"^time\.linear", "time_embedding.linear_"),
    (r"^norm_out", "conv_norm_out"),
]


def places(config: UNetConfig) -> dict[str, str]:
    """The start of each of our blocks' keys -> (the start of diffusers', where "{}" is resnets or attentions)."""
    levels, out = len(config.channels), {}
    down = up = 0
    for level in range(levels):
        for i in range(config.blocks):
            out[f"encoder.{down + i}."] = f"down_blocks.{level}.{{}}s.{i}."
        out[f"encoder.{down + config.blocks}."] = f"down_blocks.{level}.downsamplers.0."
        down += config.blocks + 1
        for i in range(config.blocks + 1):
            out[f"decoder.{up + i}."] = f"up_blocks.{level}.{{}}s.{i}."
        out[f"decoder.{up + config.blocks + 1}."] = f"up_blocks.{level}.upsamplers.0."
        up += config.blocks + 2
    return out | {"middle1.": "mid_block.{}s.0.", "middle2.": "mid_block.{}s.1."}


def to_diffusers(config: UNetConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under diffusers' keys."""
    starts, made = places(config), {}
    for key, value in state.items():
        start = next((start for start in starts if key.startswith(start)), "")
        rest = key.removeprefix(start)
        for ours, theirs in PARTS:
            rest = re.sub(ours, theirs, rest)
        kind = re.match(r"(resnet|attention)\.", rest)
        if kind:
            made[starts[start].format(kind[1]) + rest.removeprefix(kind[0])] = value
        else:
            made[starts.get(start, "") + rest] = value
    return made


def pair(config: UNetConfig) -> tuple[UNet, UNet2DConditionModel]:
    """Our network and diffusers', with the same weights, none of them zero."""
    ours, generator = UNet(config).eval(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in ours.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.2
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1) * 0.5)
    cross = [level in config.attention for level in range(len(config.channels))]
    theirs = UNet2DConditionModel(
        in_channels=config.in_channels + config.extra_channels,
        out_channels=config.out_channels,
        block_out_channels=config.channels,
        layers_per_block=config.blocks,
        down_block_types=[f"{'CrossAttn' * here}DownBlock2D" for here in cross],
        up_block_types=[f"{'CrossAttn' * here}UpBlock2D" for here in reversed(cross)],
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.num_heads,  # the number of heads, in spite of its name
        transformer_layers_per_block=config.transformer_depth,
        use_linear_projection=config.linear_projection,
    ).eval()
    theirs.load_state_dict(to_diffusers(config, ours.state_dict()))
    return ours, theirs


def epsilons(network: nn.Module) -> Counter[tuple[str, float]]:
    """How often each kind of norm has each eps."""
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)]
    return Counter((type(norm).__name__, norm.eps) for norm in norms)


@pytest.mark.parametrize("size", [(8, 16), (16, 8), (8, 24)])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_unet_is_that_of_diffusers(name: str, size: tuple[int, int]) -> None:
    config, generator = CASES[name], torch.Generator().manual_seed(4)
    ours, theirs = pair(config)
    assert epsilons(ours) == epsilons(theirs)  # too small to show in the numbers
    x = torch.randn(2, 4, *size, generator=generator)
    concat = torch.randn(2, config.extra_channels, *size, generator=generator)
    text = torch.randn(2, 7, config.context_dim or 0, generator=generator)
    t = torch.tensor([0, 961])
    cond = {"text": text, "concat": concat}
    mine = ours(x, t, {key: cond[key] for key in ours.cond_keys})
    reference = theirs(torch.cat([x, concat], dim=1), t, encoder_hidden_states=text).sample
    assert reference.std() > 0.1
    assert (mine - reference).norm() / reference.norm() < 1e-5


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (SD1, 859_520_964),
        (SD2, 865_910_724),
        (replace(SD1, extra_channels=5), 859_535_364),
        (replace(SD2, extra_channels=5), 865_925_124),
    ],
)
def test_the_published_networks_have_as_many_parameters(config: UNetConfig, parameters: int) -> None:
    with torch.device("meta"):
        network = UNet(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
