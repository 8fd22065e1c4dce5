"""Three parameterisations of the same knowledge, and the way back from each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.diffusion import PREDICTIONS, NoiseSchedule, make_prediction
from alphabar.errors import AlphabarError


@given(st.sampled_from(sorted(PREDICTIONS)), st.integers(0, 999), st.integers(0, 2**32))
def test_the_target_gives_back_x0_and_eps(name: str, timestep: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64, generator=generator)
    alpha, sigma = NoiseSchedule.scaled_linear().gather(torch.full((3,), timestep), x0)
    prediction = make_prediction(name)
    x = alpha * x0 + sigma * eps
    estimate = prediction.estimate(prediction.target(x0, eps, alpha, sigma), x, alpha, sigma)
    torch.testing.assert_close(estimate.x0, x0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(estimate.eps, eps, rtol=1e-10, atol=1e-10)


@given(st.sampled_from(sorted(PREDICTIONS)), st.integers(0, 999))
def test_any_answer_is_consistent_with_x(name: str, timestep: int) -> None:
    """Whatever a network says, alpha * x0 + sigma * eps is the x it was shown: samplers may use either."""
    x, output = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(timestep))
    alpha, sigma = NoiseSchedule.cosine().gather(torch.full((3,), timestep), x)
    estimate = make_prediction(name).estimate(output, x, alpha, sigma)
    torch.testing.assert_close(alpha * estimate.x0 + sigma * estimate.eps, x, rtol=1e-9, atol=1e-9)


def test_v_needs_no_signal() -> None:
    """At zero terminal SNR x is pure noise, v is -x0, and both come back exactly."""
    x0, eps = torch.randn(2, 4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = NoiseSchedule.linear().zero_terminal_snr().gather(torch.full((4,), 999), x0)
    prediction = make_prediction("v")
    target = prediction.target(x0, eps, alpha, sigma)
    assert torch.equal(target, -x0)
    estimate = prediction.estimate(target, alpha * x0 + sigma * eps, alpha, sigma)
    assert torch.equal(estimate.x0, x0)
    assert torch.equal(estimate.eps, eps)


def test_names() -> None:
    assert all(make_prediction(name).name == name for name in PREDICTIONS)
    with pytest.raises(AlphabarError, match="unknown prediction 'velocity'; known: eps, v, x0"):
        make_prediction("velocity")
