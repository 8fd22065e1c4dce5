"""Images out of noise: image k of a seed is the same alone and in any batch."""

from __future__ import annotations

import pytest
import torch

from alphabar.diffusion import CLEAN
from alphabar.errors import AlphabarError
from alphabar.generate import SamplerConfig, generate, sample
from alphabar.models import Model
from tiny import latent_model, pixel_model

CONFIGS = [
    SamplerConfig("ddpm", 8),
    SamplerConfig("ddpm", 8, variance="large", spacing="leading"),
    SamplerConfig("ddim", 8),
    SamplerConfig("ddim", 8, eta=0.5, spacing="linspace"),
    SamplerConfig("heun", 8),
    SamplerConfig("dpmpp-2m", 8),
]


@pytest.fixture(params=["pixels", "latents"])
def model(request: pytest.FixtureRequest) -> Model:
    return pixel_model() if request.param == "pixels" else latent_model()


@pytest.mark.parametrize("sampler", CONFIGS, ids=lambda s: f"{s.name}-{s.eta}-{s.variance}")
def test_an_image_alone_is_the_image_in_a_batch(model: Model, sampler: SamplerConfig) -> None:
    """The noise is the same to the bit. The networks are not: at another batch size, the convolutions' kernels add the
    same products in another order: 1e-6 was measured, and 1e-5 for Heun, on values of [-1, 1].
    """
    together = sample(model, 64, sampler, seed=5)
    for k in (0, 31, 63):
        alone = sample(model, 1, sampler, seed=5, first=k)
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-4)
    others = sample(model, 64, sampler, seed=6)
    assert (others - together).abs().max() > 0.1


@pytest.mark.parametrize("sampler", CONFIGS, ids=lambda s: f"{s.name}-{s.eta}-{s.variance}")
def test_an_image_alone_is_bitwise_the_image_in_a_batch_of_one(model: Model, sampler: SamplerConfig) -> None:
    """With kernels of one batch size nothing is left that could differ."""
    together = sample(model, 5, sampler, seed=5, first=10, batch_size=1)
    alone = torch.cat([sample(model, 1, sampler, seed=5, first=k) for k in range(10, 15)])
    assert torch.equal(alone, together)


def test_every_step_is_yielded() -> None:
    model = pixel_model()
    steps = list(generate(model, [3, 1], SamplerConfig("ddim", 5)))
    assert [(step.t, step.s) for step in steps] == [(19, 15), (15, 11), (11, 7), (7, 3), (3, CLEAN)]
    assert all(step.x.shape == step.estimate.x0.shape == (2, 1, 8, 8) for step in steps)
    swapped = list(generate(model, [1, 3], SamplerConfig("ddim", 5)))
    torch.testing.assert_close(swapped[-1].x.flip(0), steps[-1].x)


def test_sampling_in_batches_reports_each_step() -> None:
    calls: list[int] = []
    images = sample(pixel_model(), 5, SamplerConfig("ddim", 4), batch_size=2, on_step=lambda: calls.append(1))
    assert images.shape == (5, 1, 8, 8)
    assert images.abs().max() <= 1
    assert len(calls) == 12
    assert sample(pixel_model(), 0).shape == (0, 1, 8, 8)


def test_the_default_is_fifty_ancestral_steps() -> None:
    assert SamplerConfig() == SamplerConfig("ddpm", 50, "trailing", 0.0, "small")
    with pytest.raises(AlphabarError, match="steps must be positive, got 0"):
        SamplerConfig(steps=0)
    with pytest.raises(AlphabarError, match=r"a grid needs 1\.\.20 steps, got 50"):
        sample(pixel_model(), 1)
