"""Noise schedules: the numbers of the papers, and what every table must satisfy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.diffusion import CLEAN, SCHEDULES, NoiseSchedule, make_schedule
from alphabar.errors import AlphabarError

names = st.sampled_from(sorted(SCHEDULES))


@given(names, st.integers(2, 2000), st.booleans())
def test_signal_to_noise_falls_strictly(name: str, timesteps: int, zero: bool) -> None:
    schedule = make_schedule(name, timesteps, zero_terminal_snr=zero)
    assert schedule.timesteps == timesteps
    assert schedule.alphas_bar.dtype == torch.float64
    assert (torch.diff(schedule.snr) < 0).all()
    assert ((schedule.betas > 0) & (schedule.betas <= 1)).all()
    assert (schedule.snr[-1] == 0) == zero


def test_published_values() -> None:
    linear, scaled, cosine = NoiseSchedule.linear(), NoiseSchedule.scaled_linear(), NoiseSchedule.cosine()
    product = 1.0
    for t in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
    assert linear.alpha_bar(0) == pytest.approx(1 - 1e-4, abs=1e-15)
    assert linear.alpha_bar(999) == pytest.approx(product, rel=1e-10)
    assert linear.alpha_bar(999) == pytest.approx(4.0358e-5, rel=1e-4)  # DDPM, section 4
    assert scaled.betas[[0, -1]].tolist() == pytest.approx([0.00085, 0.012], rel=1e-9)
    assert scaled.alpha_bar(999) == pytest.approx(0.0046602, rel=1e-4)  # SNR is not 0 in Stable Diffusion
    assert cosine.betas.max().item() == pytest.approx(0.999)

    def f(t: float) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 250, 500, 998):  # up to where beta is capped
        assert cosine.alpha_bar(t) == pytest.approx(f(t + 1) / f(0), rel=1e-9)
    assert NoiseSchedule.constant(10, 0.5).alphas_bar.tolist() == [0.5**k for k in range(1, 11)]


def test_the_first_entry_stays_and_the_last_becomes_zero() -> None:
    before, after = NoiseSchedule.scaled_linear(), NoiseSchedule.scaled_linear().zero_terminal_snr()
    assert after.alpha_bar(0) == pytest.approx(before.alpha_bar(0), rel=1e-12)
    assert after.alpha_bar(999) == 0


def test_clean_is_the_image_itself() -> None:
    schedule = NoiseSchedule.linear()
    assert schedule.alpha_bar(CLEAN) == 1.0
    assert schedule.coefficients(CLEAN) == (1.0, 0.0)
    for t in (-2, 1000):
        with pytest.raises(AlphabarError, match=rf"timestep {t} is outside -1\.\.999"):
            schedule.alpha_bar(t)


@given(names, st.lists(st.integers(0, 49), min_size=1, max_size=5), st.sampled_from([2, 4]))
def test_gather_is_coefficients_per_sample(name: str, timesteps: list[int], ndim: int) -> None:
    schedule = make_schedule(name, 50)
    like = torch.zeros(len(timesteps), *[3] * (ndim - 1), dtype=torch.float64)
    alpha, sigma = schedule.gather(torch.tensor(timesteps), like)
    assert alpha.shape == sigma.shape == (len(timesteps), *[1] * (ndim - 1))
    shares = torch.tensor([schedule.coefficients(t) for t in timesteps], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([alpha.flatten(), sigma.flatten()], dim=1), shares, rtol=0, atol=1e-15)
    single, _ = schedule.gather(torch.tensor(timesteps), like.float())
    assert single.dtype == torch.float32


@pytest.mark.parametrize(
    "table",
    [[0.5, 0.5], [0.4, 0.5], [1.0, 0.5], [0.5, -0.1], [float("nan")], [0.5, float("nan")], []],
    ids=["level", "rising", "starts at 1", "below 0", "nan", "nan later", "empty"],
)
def test_a_table_that_is_no_schedule(table: list[float]) -> None:
    with pytest.raises(AlphabarError, match="alphas_bar must"):
        NoiseSchedule(torch.tensor(table, dtype=torch.float64))


def test_a_table_of_another_type() -> None:
    with pytest.raises(AlphabarError, match=r"alphas_bar must be float64 \[T\], got torch.float32 \[2\]"):
        NoiseSchedule(torch.tensor([0.9, 0.5]))
    with pytest.raises(AlphabarError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        make_schedule("cosin")
