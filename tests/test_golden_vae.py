"""The convolutional autoencoder against diffusers' `AutoencoderKL`, with copied weights.

diffusers has one number of groups for all its norms and ours goes by the width, so the widths here all give two.
"""

from __future__ import annotations

from dataclasses import replace

import diffusers
import pytest
import torch
from torch import Tensor, nn

from alphabar.nn import ConvAutoencoder, ConvAutoencoderConfig, build
from alphabar.nn.autoencoder import STABLE_DIFFUSION_VAE
from alphabar.nn.layers import group_count

TINY = replace(STABLE_DIFFUSION_VAE, channels=(8, 10, 14))


def reference(config: ConvAutoencoderConfig) -> diffusers.AutoencoderKL:
    """The reference of the same shape with random weights, none of them zero or one."""
    torch.manual_seed(0)
    levels = len(config.channels)
    theirs = diffusers.AutoencoderKL(
        in_channels=config.image_channels,
        out_channels=config.image_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.encoder_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=group_count(config.channels[0]),
        use_quant_conv=config.quant_convs,
        use_post_quant_conv=config.quant_convs,
    )
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return theirs.eval().requires_grad_(False)


def copy(theirs: nn.Module, ours: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def copy_block(theirs: nn.Module, ours: nn.Module) -> None:
    """A residual block; only the convolution of the skip has another name."""
    copied = {key.replace("conv_shortcut", "skip"): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(copied)


def copy_middle(theirs: nn.Module, ours: nn.Module) -> None:
    copy_block(theirs.resnets[0], ours[0])
    names = {"group_norm": "norm", "to_out.0": "to_out"}
    state = theirs.attentions[0].state_dict()
    for old, new in names.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    ours[1].load_state_dict(state)
    copy_block(theirs.resnets[1], ours[2])


def copy_half(theirs: nn.Module, ours: nn.Module, samplers: str) -> None:
    """An encoder or a decoder: ours is one row of blocks, with the change of size between the levels."""
    copy(theirs.conv_in, ours.conv_in)
    copy_middle(theirs.mid_block, ours.middle)
    row = iter(ours.levels)
    for block in getattr(theirs, "down_blocks" if samplers == "downsamplers" else "up_blocks"):
        for resnet in block.resnets:
            copy_block(resnet, next(row))
        for sampler in getattr(block, samplers) or ():
            copy(sampler, next(row))
    assert next(row, None) is None
    copy(theirs.conv_norm_out, ours.norm_out)
    copy(theirs.conv_out, ours.conv_out)


def pair(config: ConvAutoencoderConfig) -> tuple[diffusers.AutoencoderKL, ConvAutoencoder]:
    theirs, ours = reference(config), build(config)
    assert isinstance(ours, ConvAutoencoder)
    copy_half(theirs.encoder, ours.encoder, "downsamplers")
    copy_half(theirs.decoder, ours.decoder, "upsamplers")
    if config.quant_convs:
        copy(theirs.quant_conv, ours.quant)
        copy(theirs.post_quant_conv, ours.post_quant)
    return theirs, ours.eval().requires_grad_(False)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.parametrize("quant_convs", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (20, 36)])
def test_moments_and_decode_are_those_of_diffusers(quant_convs: bool, size: tuple[int, int]) -> None:
    theirs, ours = pair(replace(TINY, quant_convs=quant_convs))
    x = torch.randn(2, 3, *size).clamp(-1, 1)
    posterior, expected = ours.posterior(x), theirs.encode(x).latent_dist
    close(posterior.mean, expected.mean)
    close(posterior.std, expected.std)
    z = torch.randn(2, *ours.latent_shape(*size))
    close(ours.decode(z), theirs.decode(z).sample)


def test_where_the_zeros_stand_matters() -> None:
    """The comparison above would notice symmetric padding."""
    theirs, ours = pair(TINY)
    symmetric = build(replace(TINY, asymmetric_padding=False))
    assert isinstance(symmetric, ConvAutoencoder)
    symmetric.load_state_dict(ours.state_dict())  # the same names either way
    x = torch.randn(2, 3, 32, 32)
    expected = theirs.encode(x).latent_dist.mean
    assert (symmetric.posterior(x).mean - expected).norm() / expected.norm() > 1e-2


def test_stable_diffusions_has_its_number_of_values() -> None:
    with torch.device("meta"):
        network = build(STABLE_DIFFUSION_VAE)
    assert sum(weight.numel() for weight in network.parameters()) == 83_653_863
    assert isinstance(network, ConvAutoencoder)
    assert network.latent_shape(512, 768) == (4, 64, 96)


def test_a_plain_config_has_neither() -> None:
    """What was saved before these options loads without them."""
    names = build(ConvAutoencoderConfig()).state_dict().keys()
    assert not any("quant" in name for name in names)
