"""Layers and attention: against diffusers, and the properties that everything above relies on."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from alphabar.errors import AlphabarError
from alphabar.nn import Downsample, ResBlock, SelfAttention2d, TimeEmbedding, Upsample, attention, timestep_embedding
from alphabar.nn.layers import adaptive_group_norm, group_count, group_norm


def shuffle(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a random value, so that nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


def test_timestep_embedding_is_that_of_diffusers() -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0, 1, 17, 500, 999])
    theirs = get_timestep_embedding(t, 64, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_embedding(t, 64), theirs, rtol=0, atol=1e-6)


def test_timestep_embedding_of_odd_width_is_refused() -> None:
    with pytest.raises(AlphabarError, match="not 7"):
        timestep_embedding(torch.tensor([1]), 7)


def test_time_embedding_is_that_of_diffusers() -> None:
    from diffusers.models.embeddings import TimestepEmbedding

    ours, theirs = TimeEmbedding(16, 32), TimestepEmbedding(16, 32)
    shuffle(ours)
    theirs.load_state_dict({key.replace("linear", "linear_"): value for key, value in ours.state_dict().items()})
    t = torch.tensor([3, 900])
    torch.testing.assert_close(ours(t), theirs(timestep_embedding(t, 16)))


@pytest.mark.parametrize(("channels", "groups"), [(320, 32), (1920, 32), (128, 32), (64, 16), (24, 6), (3, 1), (6, 1)])
def test_group_count(channels: int, groups: int) -> None:
    assert group_count(channels) == groups


@pytest.mark.parametrize(("mode", "theirs_mode"), [("add", "default"), ("scale_shift", "scale_shift")])
@pytest.mark.parametrize("widths", [(64, 64), (64, 128)])
def test_resblock_is_that_of_diffusers(mode: str, theirs_mode: str, widths: tuple[int, int]) -> None:
    from diffusers.models.resnet import ResnetBlock2D

    ours = ResBlock(*widths, emb_dim=32, mode=mode, eps=1e-6)
    shuffle(ours)
    theirs = ResnetBlock2D(
        in_channels=widths[0],
        out_channels=widths[1],
        temb_channels=32,
        groups=group_count(widths[0]),
        groups_out=group_count(widths[1]),
        eps=1e-6,
        time_embedding_norm=theirs_mode,
    )
    rename = {"emb": "time_emb_proj", "skip": "conv_shortcut"}
    renamed = {}
    for key, value in ours.state_dict().items():
        part, rest = key.split(".")
        renamed[f"{rename.get(part, part)}.{rest}"] = value
    theirs.load_state_dict(renamed)
    x, emb = torch.randn(3, widths[0], 6, 5), torch.randn(3, 32)
    torch.testing.assert_close(ours(x, emb), theirs(x, emb), rtol=1e-4, atol=1e-4)


def test_resblock_starts_as_the_identity_and_works_without_embedding() -> None:
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResBlock(8, 8)(x), x)
    with pytest.raises(ValueError, match="needs emb"):
        ResBlock(8, 8, emb_dim=4)(x)


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm_is_torchs_in_any_layout(side: int, dtype: torch.dtype) -> None:
    norm = group_norm(64).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 64, side, side, dtype=dtype)
    expected = nn.functional.group_norm(x, norm.num_groups, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_adaptive_group_norm_is_its_formula(layout: torch.memory_format) -> None:
    norm = nn.GroupNorm(4, 16)
    shuffle(norm)
    x = torch.randn(3, 16, 5, 7).contiguous(memory_format=layout)
    scale, shift = torch.randn(3, 16), torch.randn(3, 16)
    plain = norm(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(adaptive_group_norm(x, norm, scale, shift), plain, rtol=1e-5, atol=1e-5)


def test_downsample_and_upsample_are_those_of_diffusers() -> None:
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.upsampling import Upsample2D

    x = torch.randn(2, 8, 6, 4)
    down, up = Downsample(8, 12), Upsample(8, 12)
    their_down, their_up = (
        Downsample2D(8, use_conv=True, out_channels=12),
        Upsample2D(8, use_conv=True, out_channels=12),
    )
    their_down.conv.load_state_dict(down.conv.state_dict())
    their_up.conv.load_state_dict(up.conv.state_dict())
    torch.testing.assert_close(down(x), their_down(x))
    torch.testing.assert_close(up(x), their_up(x))
    assert down(x).shape == (2, 12, 3, 2)
    assert up(x).shape == (2, 12, 12, 8)


def test_attention_is_its_formula() -> None:
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(dim=3)
    torch.testing.assert_close(attention(q, k, v), weights @ v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("piece", [1, 30, 1 << 20], ids=["one by one", "in pieces", "at once"])
def test_attention_in_bf16_is_that_of_float32(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["alphabar.nn.attention"], "PIECE", piece)
    q, k, v = torch.randn(2, 2, 13, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    low, high = attention(q.bfloat16(), k.bfloat16(), v.bfloat16()), attention(q, k, v)
    assert low.dtype == torch.bfloat16
    assert (low.float() - high).norm() / high.norm() < 0.02


def test_self_attention_is_that_of_diffusers() -> None:
    from diffusers.models.attention_processor import Attention

    ours = SelfAttention2d(64, num_heads=4)
    shuffle(ours)
    theirs = Attention(
        64, heads=4, dim_head=16, norm_num_groups=group_count(64), residual_connection=True, bias=True, eps=1e-5
    )
    theirs.load_state_dict(
        {key.replace("norm.", "group_norm.").replace("to_out.", "to_out.0."): v for key, v in ours.state_dict().items()}
    )
    x = torch.randn(2, 64, 3, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_self_attention_starts_as_the_identity_and_checks_its_heads() -> None:
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(SelfAttention2d(8, 2)(x), x)
    with pytest.raises(AlphabarError, match="3 does not divide 8"):
        SelfAttention2d(8, 3)
