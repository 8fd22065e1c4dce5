"""The forward process both ways, the loss, and the denoiser."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alphabar.diffusion import PREDICTIONS, Process, make_prediction, make_schedule, make_weight, min_snr
from alphabar.errors import AlphabarError
from alphabar.types import Cond


def process(schedule: str = "linear", prediction: str = "v", weight: str = "uniform", timesteps: int = 1000) -> Process:
    return Process(make_schedule(schedule, timesteps), make_prediction(prediction), make_weight(weight))


def at(t: int, n: int = 1) -> Tensor:
    return torch.full((n,), t)


@given(st.sampled_from(["linear", "cosine", "scaled-linear", "constant"]), st.integers(0, 299))
def test_walking_is_teleporting(schedule: str, steps: int) -> None:
    """Both are linear in x0 and Gaussian noise, so mean and variance say it all; they are propagated, not sampled."""
    p = process(schedule, timesteps=300)
    one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    mean, variance = one, none
    for t in range(steps + 1):
        keep, fresh = p.walk(one, at(t), none), p.walk(none, at(t), one)
        mean, variance = keep * mean, keep**2 * variance + fresh**2
    assert mean.item() == pytest.approx(p.noise(one, none, at(steps)).item(), rel=1e-10)
    assert variance.item() == pytest.approx(p.noise(none, one, at(steps)).item() ** 2, rel=1e-10)
    assert p.walk(one, at(steps), none) ** 2 + p.walk(none, at(steps), one) ** 2 == pytest.approx(1)


def test_the_exploding_walk_keeps_the_signal_and_adds_every_beta() -> None:
    p = process("linear")
    one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    assert all(p.walk_exploding(one, at(t), none) == 1 for t in (0, 500, 999))
    variance = sum(p.walk_exploding(none, at(t), one).item() ** 2 for t in range(1000))
    assert variance == pytest.approx(p.schedule.betas.sum().item())
    assert variance > 10


def test_timesteps_are_per_sample() -> None:
    p = process()
    x0, eps = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    together = p.noise(x0, eps, t)
    alone = torch.cat([p.noise(x0[k : k + 1], eps[k : k + 1], t[k : k + 1]) for k in range(3)])
    assert torch.equal(together, alone)


class Shifted:
    """A network that is wrong by exactly `by` everywhere."""

    def __init__(self, p: Process, x0: Tensor, eps: Tensor, by: float) -> None:
        self.p, self.x0, self.eps, self.by = p, x0, eps, by

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        alpha, sigma = self.p.schedule.gather(t, x)
        torch.testing.assert_close(x, alpha * self.x0 + sigma * self.eps)
        return self.p.prediction.target(self.x0, self.eps, alpha, sigma) + self.by


@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
def test_the_loss_is_the_squared_error_per_sample(prediction: str) -> None:
    p = process(prediction=prediction)
    x0, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = p.loss(Shifted(p, x0, eps, 0.5), x0, torch.tensor([0, 500, 999]), eps)
    assert loss.dtype == torch.float32
    assert loss.tolist() == pytest.approx([0.25] * 3)


@given(st.integers(0, 999))
def test_min_snr_weighs_the_same_x0_error_alike(timestep: int) -> None:
    """Whatever is predicted, an x0 error of d costs min(SNR, 5) * d^2."""
    schedule, delta = make_schedule("cosine"), 0.1
    x0, eps = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = schedule.gather(at(timestep, 2), x0)
    snr = schedule.snr[timestep].item()
    error = {"x0": delta, "eps": -alpha / sigma * delta, "v": -delta / sigma}  # of the output, for that x0 error
    for name, by in error.items():
        p = Process(schedule, make_prediction(name), min_snr)
        x = p.noise(x0, eps, at(timestep, 2))
        output = p.prediction.target(x0, eps, alpha, sigma) + by
        off = p.prediction.estimate(output, x, alpha, sigma).x0 - x0
        torch.testing.assert_close(off, torch.full_like(off, delta), rtol=1e-6, atol=1e-6)
        squared = (output - p.prediction.target(x0, eps, alpha, sigma)).square().mean()
        weight = p.weight(schedule.snr[at(timestep, 1)], p.prediction)
        assert (weight * squared).item() == pytest.approx(min(snr, 5.0) * delta**2, rel=1e-6)


def test_min_snr_in_the_loss() -> None:
    p = process(prediction="eps", weight="min-snr")
    x0, eps = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 999])
    loss = p.loss(Shifted(p, x0, eps, 1.0), x0, t, eps)
    assert loss.tolist() == pytest.approx([5 / p.schedule.snr[0].item(), 1.0], rel=1e-4)
    with pytest.raises(AlphabarError, match="unknown loss weight 'min-srn'; did you mean 'min-snr'"):
        make_weight("min-srn")


@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
def test_a_perfect_network_gives_a_perfect_denoiser(prediction: str) -> None:
    p = process(prediction=prediction)
    x0, eps = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([10, 700])
    estimate = p.denoiser(Shifted(p, x0, eps, 0.0))(p.noise(x0, eps, t), t)
    torch.testing.assert_close(estimate.x0, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(estimate.eps, eps, rtol=1e-4, atol=1e-4)


def test_clip_keeps_x0_inside_and_eps_consistent() -> None:
    p = process(prediction="x0")
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([10, 700])
    estimate = p.denoiser(lambda x, t, cond: 3 * torch.ones_like(x), clip=1.0)(x, t)
    assert (estimate.x0 == 1).all()
    alpha, sigma = p.schedule.gather(t, x)
    torch.testing.assert_close(alpha * estimate.x0 + sigma * estimate.eps, x)


def test_eps_prediction_refuses_a_schedule_without_signal() -> None:
    schedule = make_schedule("linear", zero_terminal_snr=True)
    with pytest.raises(AlphabarError, match="with zero terminal SNR use v"):
        Process(schedule, make_prediction("eps"))
    Process(schedule, make_prediction("v"))
