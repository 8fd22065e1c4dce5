"""U-Nets, autoencoders and the classifier at tiny sizes: shapes, gradients, rows, errors, configs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.nn import (
    CONFIGS,
    Autoencoder,
    Classifier,
    ClassifierConfig,
    ConvAutoencoder,
    ConvAutoencoderConfig,
    DenseAutoencoder,
    DenseAutoencoderConfig,
    Gaussian,
    NetworkConfig,
    SmallUNet,
    SmallUNetConfig,
    UNet,
    UNetConfig,
    build,
    config_from_dict,
    config_to_dict,
)

SMALL = SmallUNetConfig(channels=(4, 8, 12), emb_dim=8)
LARGE = UNetConfig(channels=(8, 12, 16), blocks=1, attention=(1, 2), num_heads=2, emb_dim=16, dropout=0.1)
DENSE = DenseAutoencoderConfig(image_shape=(2, 8, 6), hidden=(16, 12), latent_dim=5)
CONV = ConvAutoencoderConfig(image_channels=2, channels=(4, 8), latent_channels=3, attention=True)
CLASSES = ClassifierConfig(channels=(4, 8))
TINY: list[NetworkConfig] = [SMALL, LARGE, DENSE, CONV, CLASSES]
UNETS: list[NetworkConfig] = [SMALL, LARGE, replace(LARGE, mode="add", attention=())]


PROMPTED = replace(
    LARGE,
    num_heads=(1, 2, 4),
    dropout=0.0,
    context_dim=6,
    extra_channels=2,
    linear_projection=True,
    transformer_depth=2,
)


def awake(network: nn.Module) -> nn.Module:
    """In evaluation mode, with weights from which nothing is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("config", UNETS)
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (28, 28), (20, 4)])
def test_unets_take_any_size_that_they_divide(config: NetworkConfig, size: tuple[int, int]) -> None:
    config = replace(config, in_channels=3, out_channels=2)  # type: ignore[type-var]
    assert build(config)(torch.randn(2, 3, *size), torch.tensor([0, 999])).shape == (2, 2, *size)


@pytest.mark.parametrize(("config", "name"), [(SMALL, "SmallUNet"), (LARGE, "a UNet of 3 levels")])
def test_unets_refuse_other_sizes_and_conditions(config: NetworkConfig, name: str) -> None:
    network, t = build(config), torch.tensor([0])
    with pytest.raises(AlphabarError, match=f"{name} takes sizes that are a multiple of 4, not 8x10"):
        network(torch.randn(1, config.in_channels, 8, 10), t)  # type: ignore[union-attr]
    with pytest.raises(AlphabarError, match="unconditional: it cannot use label"):
        network(torch.randn(1, config.in_channels, 8, 8), t, {"label": t})  # type: ignore[union-attr]


def test_the_small_unet_stays_under_a_million_parameters() -> None:
    assert count(SmallUNet(SmallUNetConfig())) < 1_000_000


def test_unets_start_at_zero() -> None:
    for config in UNETS:
        out = build(config)(torch.randn(1, config.in_channels, 8, 8), torch.tensor([5]))  # type: ignore[union-attr]
        assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("config", UNETS)
def test_unets_see_the_timestep(config: NetworkConfig) -> None:
    network = awake(build(config))
    x = torch.randn(1, config.in_channels, 8, 8)  # type: ignore[union-attr]
    assert not torch.allclose(network(x, torch.tensor([0])), network(x, torch.tensor([500])), atol=1e-3)


def conditions(n: int = 3, height: int = 8, width: int = 12) -> dict[str, Tensor]:
    """What a `PROMPTED` network is told: five words and two maps."""
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(n, 2, height, width, generator=generator)
    return {"text": torch.randn(n, 5, 6, generator=generator), "concat": maps}


PROMPTED_VARIANTS = [
    PROMPTED,
    replace(PROMPTED, linear_projection=False, num_heads=2),
    replace(PROMPTED, attention=(), middle_attention=True),
    replace(PROMPTED, mode="add", middle_attention=False),
]


@pytest.mark.parametrize("config", PROMPTED_VARIANTS)
def test_a_conditional_unet_starts_at_zero_and_reaches_every_parameter(config: UNetConfig) -> None:
    network, x, t = UNet(config), torch.randn(3, 3, 8, 12), torch.tensor([0, 300, 999])
    assert torch.equal(network(x, t, conditions()), torch.zeros(3, 3, 8, 12))
    awake(network)(x, t, conditions()).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("key", ["text", "concat"])
@pytest.mark.parametrize("config", PROMPTED_VARIANTS)
@torch.no_grad()
def test_a_row_of_a_conditional_unet_sees_its_own_condition_only(config: UNetConfig, key: str) -> None:
    network, x, t, cond = awake(UNet(config)), torch.randn(3, 3, 8, 12), torch.tensor([0, 300, 999]), conditions()
    together = network(x, t, cond)
    alone = network(x[1:2], t[1:2], {name: value[1:2] for name, value in cond.items()})
    torch.testing.assert_close(alone, together[1:2], rtol=1e-5, atol=1e-5)
    other = network(x, t, {**cond, key: torch.cat([-cond[key][:1], cond[key][1:]])})
    assert (other[0] - together[0]).abs().max() > 1e-3
    torch.testing.assert_close(other[1:], together[1:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_conditional_unet_in_bf16_takes_conditions_in_float32() -> None:
    network, x, t = awake(UNet(PROMPTED)), torch.randn(3, 3, 8, 12), torch.tensor([0, 300, 999])
    expected = network(x, t, conditions())
    out = network.bfloat16()(x.bfloat16(), t, conditions())
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() / expected.norm() < 0.05


def test_a_unet_says_what_it_is_told() -> None:
    variants = [LARGE, replace(LARGE, context_dim=6), replace(LARGE, extra_channels=5), PROMPTED]
    assert [UNet(c).cond_keys for c in variants] == [(), ("text",), ("concat",), ("text", "concat")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "this UNet needs cond 'text' of shape [3, L, 6]"),
        ({"concat": None}, "this UNet needs cond 'concat' of shape [3, 2, 8, 12]"),
        ({"txt": torch.zeros(3)}, "this UNet cannot use cond 'txt'; did you mean 'text'?"),
        ({"label": torch.zeros(3)}, "this UNet cannot use cond 'label'; known: concat, text"),
        ({"text": torch.zeros(3, 5, 8)}, "cond 'text' of this UNet should have shape [3, L, 6], not [3, 5, 8]"),
        ({"text": torch.zeros(1, 5, 6)}, "cond 'text' of this UNet should have shape [3, L, 6], not [1, 5, 6]"),
        ({"text": torch.zeros(3, 0, 6)}, "cond 'text' of this UNet should have shape [3, L, 6], not [3, 0, 6]"),
        ({"text": torch.zeros(3, 6)}, "cond 'text' of this UNet should have shape [3, L, 6], not [3, 6]"),
        (
            {"concat": torch.zeros(3, 5, 8, 12)},
            "cond 'concat' of this UNet should have shape [3, 2, 8, 12], not [3, 5, 8, 12]",
        ),
        (
            {"concat": torch.zeros(3, 2, 64, 96)},
            "cond 'concat' of this UNet should have shape [3, 2, 8, 12], not [3, 2, 64, 96]",
        ),
    ],
)
def test_wrong_conditions_are_one_clear_line(change: dict[str, Tensor | None], message: str) -> None:
    cond = {key: value for key, value in {**conditions(), **change}.items() if value is not None}
    with pytest.raises(AlphabarError) as caught:
        UNet(PROMPTED)(torch.randn(3, 3, 8, 12), torch.tensor([0, 300, 999]), cond)
    assert str(caught.value) == message


@pytest.mark.parametrize("cond", [None, {}])
def test_a_conditional_unet_does_not_go_without_text(cond: dict[str, Tensor] | None) -> None:
    with pytest.raises(AlphabarError, match="needs cond 'text'"):
        UNet(PROMPTED)(torch.randn(1, 3, 8, 8), torch.tensor([0]), cond)


@pytest.mark.parametrize(
    ("attention", "middle", "expected"),
    [((1, 2), None, True), ((0, 1), None, False), ((0, 1), True, True), ((1, 2), False, False)],
)
def test_attention_in_the_middle(attention: tuple[int, ...], middle: bool | None, expected: bool) -> None:
    network = UNet(replace(LARGE, attention=attention, middle_attention=middle))
    assert (sum(p.numel() for p in network.middle1.attention.parameters()) > 0) == expected


def test_heads_are_one_number_or_one_per_level() -> None:
    assert UNetConfig.from_dict({"num_heads": 4}) == UNetConfig(num_heads=4)
    assert UNetConfig.from_dict({"num_heads": [2, 4, 8]}) == UNetConfig(num_heads=(2, 4, 8))
    assert [UNetConfig(num_heads=(2, 4, 8)).heads(level) for level in range(3)] == [2, 4, 8]
    with pytest.raises(AlphabarError, match="3 does not divide 16"):
        UNet(replace(LARGE, num_heads=(2, 2, 3)))
    UNet(replace(LARGE, num_heads=(3, 2, 4)))  # 3 does not divide 8, but level 0 has no attention


def run(network: nn.Module, n: int = 3, seed: int = 2) -> tuple[tuple[Tensor, ...], Tensor]:
    """The inputs of a network of TINY, one row per sample, and what it makes of them."""
    generator = torch.Generator().manual_seed(seed)
    config = network.config
    if isinstance(network, UNet | SmallUNet):
        inputs = (torch.randn(n, config.in_channels, 8, 8, generator=generator), torch.arange(n) * 300)
        return inputs, network(*inputs)
    if isinstance(network, Classifier):
        inputs = (torch.randn(n, config.in_channels, 16, 16, generator=generator),)
        return inputs, network(*inputs)
    assert isinstance(network, Autoencoder)
    inputs = (torch.randn(n, 2, 8, 6, generator=generator),)
    noise = torch.ones(n, *network.latent_shape(8, 6))
    reconstruction, posterior = network(*inputs, noise)
    return inputs, torch.cat([reconstruction.flatten(1), posterior.mean.flatten(1)], dim=1)


@pytest.mark.parametrize("config", TINY)
def test_a_gradient_reaches_every_parameter(config: NetworkConfig) -> None:
    network = awake(build(config))
    run(network)[1].square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Adding one number to all keys of a query cancels in the softmax.
    assert [name for name in without if not name.endswith("to_k.bias")] == []


@pytest.mark.parametrize("config", TINY)
def test_a_row_does_not_depend_on_its_batch(config: NetworkConfig) -> None:
    network = awake(build(config))
    inputs, together = run(network)
    for k in range(3):
        row = [value[k : k + 1] for value in inputs]
        if isinstance(network, Autoencoder):
            reconstruction, posterior = network(row[0], torch.ones(1, *network.latent_shape(8, 6)))
            alone = torch.cat([reconstruction.flatten(1), posterior.mean.flatten(1)], dim=1)
        else:
            alone = network(*row)
        torch.testing.assert_close(alone, together[k : k + 1], rtol=1e-5, atol=1e-5)


def test_kl_is_that_of_torch() -> None:
    from torch.distributions import Normal, kl_divergence

    mean, std = torch.randn(4, 3, 2, 2), torch.rand(4, 3, 2, 2) + 0.05
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).flatten(1).sum(dim=1)
    torch.testing.assert_close(Gaussian(mean, std).kl(), expected)
    assert Gaussian(torch.zeros(2, 3), torch.ones(2, 3)).kl().tolist() == [0.0, 0.0]


def test_sampling_a_gaussian_is_mean_plus_std_times_noise() -> None:
    moments = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    assert Gaussian.from_moments(moments).sample(torch.tensor([[2.0, 5.0]])).tolist() == [[7.0, 2.0]]


@pytest.mark.parametrize("config", [DENSE, CONV])
def test_a_plain_autoencoder_is_a_gaussian_of_no_width(config: DenseAutoencoderConfig | ConvAutoencoderConfig) -> None:
    network = awake(build(replace(config, variational=False)))
    assert isinstance(network, Autoencoder)
    posterior = network.posterior(torch.randn(2, 2, 8, 6))
    assert torch.equal(posterior.std, torch.zeros_like(posterior.mean))
    assert torch.equal(posterior.sample(torch.randn_like(posterior.mean)), posterior.mean)


@pytest.mark.parametrize("variational", [True, False])
@pytest.mark.parametrize("config", [DENSE, CONV])
def test_moments_hold_mean_and_std(config: DenseAutoencoderConfig | ConvAutoencoderConfig, variational: bool) -> None:
    network = awake(build(replace(config, variational=variational)))
    assert isinstance(network, Autoencoder)
    x = torch.randn(2, 2, 8, 6)
    moments, posterior, shape = network.moments(x), network.posterior(x), network.latent_shape(8, 6)
    assert moments.shape == (2, 2 * shape[0], *shape[1:])
    assert torch.equal(torch.cat(posterior, dim=1), moments)
    assert network.decode(posterior.mean).shape == x.shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network.moments(x).dtype == torch.float32


def test_log_variance_is_clamped() -> None:
    network = DenseAutoencoder(replace(DENSE, variational=True))
    with torch.no_grad():
        last = network.encoder[-1]
        last.bias[5:] = torch.tensor([-1000.0, 1000.0, 0.0, 0.0, 0.0])
    posterior = network.posterior(torch.zeros(1, 2, 8, 6))
    assert posterior.std.min().item() == pytest.approx(torch.tensor(-15.0).exp().item())
    assert posterior.std.max().item() == pytest.approx(torch.tensor(10.0).exp().item())
    assert posterior.kl().isfinite().all()


@pytest.mark.parametrize(("levels", "factor"), [(1, 1), (2, 2), (3, 4), (4, 8)])
def test_each_level_but_the_last_halves_the_size(levels: int, factor: int) -> None:
    network = ConvAutoencoder(ConvAutoencoderConfig(channels=(4,) * levels, latent_channels=2))
    assert network.factor == factor
    assert network.latent_shape(16, 24) == (2, 16 // factor, 24 // factor)
    assert network.moments(torch.randn(1, 1, 16, 24)).shape == (1, 4, 16 // factor, 24 // factor)


def test_a_border_makes_a_size_fit_and_is_cut_off_again() -> None:
    network = ConvAutoencoder(replace(CONV, channels=(4, 4, 4, 4), border=2))
    posterior = network.posterior(torch.randn(1, 2, 28, 28))
    assert network.latent_shape(28, 28) == posterior.mean.shape[1:] == (3, 4, 4)
    assert network.decode(posterior.mean).shape == (1, 2, 28, 28)


def test_autoencoders_refuse_sizes_that_do_not_fit() -> None:
    with pytest.raises(AlphabarError, match="a multiple of 2, not 8x7"):
        ConvAutoencoder(CONV).moments(torch.randn(1, 2, 8, 7))
    with pytest.raises(AlphabarError, match="takes 2x8x6 images, not 2x8x8"):
        DenseAutoencoder(DENSE).moments(torch.randn(1, 2, 8, 8))


def test_classifier_features_are_as_wide_as_its_last_stage() -> None:
    network = Classifier(ClassifierConfig()).eval()
    for size in (16, 28, 33):
        assert network.features(torch.randn(2, 1, size, size)).shape == (2, 64)
        assert network(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_every_config_survives_json() -> None:
    for config in [*TINY, PROMPTED, *(kind() for kind in CONFIGS.values())]:
        assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "a network config needs a 'type', one of unet, "),
        ({"type": "unit"}, "unknown network type 'unit'; did you mean 'unet'?"),
        ({"type": ["unet"]}, "unknown network type ['unet']; did you mean 'unet'?"),
        ({"type": "unet", "chanels": [8]}, "chanels: unknown key; did you mean 'channels'?"),
        ({"type": "unet", "blocks": 1.5}, "blocks should be a whole number, got 1.5"),
        ({"type": "unet", "blocks": True}, "blocks should be a whole number, got True"),
        ({"type": "unet", "blocks": 0}, "unet.blocks must be at least 1, not 0"),
        ({"type": "unet", "channels": []}, "unet.channels must name at least one level"),
        ({"type": "unet", "channels": [8, "16"]}, "channels should be a whole number, got '16'"),
        ({"type": "unet", "channels": [8, -16]}, "unet.channels must be at least 1, not -16"),
        ({"type": "unet", "channels": [7, 8, 8]}, "unet.channels must start with an even width, not 7"),
        ({"type": "small-unet", "emb_dim": 6}, "small-unet.emb_dim must be a multiple of 4, not 6"),
        ({"type": "unet", "channels": 8}, "channels should be a list, each a whole number, got 8"),
        ({"type": "unet", "mode": "film"}, "mode cannot be 'film'; known: add, scale_shift"),
        ({"type": "unet", "attention": [3]}, "attention names level 3; the levels are 0..2"),
        ({"type": "unet", "dropout": 1}, "unet.dropout must be at least 0 and below 1, not 1.0"),
        ({"type": "unet", "num_heads": [4, 0, 4]}, "unet.num_heads must be at least 1, not 0"),
        ({"type": "unet", "num_heads": [4, 4]}, "unet.num_heads must be one number or one per level: 3, not 2"),
        ({"type": "unet", "num_heads": [4, "4", 4]}, "num_heads should be a whole number, got '4'"),
        ({"type": "unet", "num_heads": None}, "num_heads should be a whole number, got None"),
        ({"type": "unet", "context_dim": 0}, "unet.context_dim must be at least 1, not 0"),
        ({"type": "unet", "transformer_depth": 0}, "unet.transformer_depth must be at least 1, not 0"),
        ({"type": "unet", "extra_channels": -1}, "unet.extra_channels must be at least 0, not -1"),
        ({"type": "unet", "context_dim": 8, "attention": []}, "unet.context_dim needs attention that reads the text"),
        ({"type": "small-unet", "channels": [8, 16]}, "channels needs 3 values, got 2"),
        (
            {"type": "conv-autoencoder", "encoder_blocks": 0},
            "conv-autoencoder.encoder_blocks must be at least 1, not 0",
        ),
        ({"type": "conv-autoencoder", "variational": 1}, "variational should be true or false, got 1"),
    ],
)
def test_bad_configs_are_one_clear_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(AlphabarError) as caught:
        config_from_dict(values)
    assert str(caught.value).startswith(message)
