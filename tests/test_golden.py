"""The algorithm against diffusers, with one nonlinear function in the place of the network.

What makes the two comparable: no clipping and no thresholding; alpha-bar 1 after the last step (`set_alpha_to_one`,
`final_sigmas_type="zero"`), as we always have it; trailing or leading spacing (its DDIM takes a wrong stride on
linspace). Its tables are float32, so tables are compared as they are, and then DDPM and DDIM are given ours in float64,
which leaves nothing but the formulas. DPM-Solver and Heun cast to float32 inside.
"""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from alphabar.diffusion import (
    Grid,
    NoiseSchedule,
    Process,
    ddim,
    ddpm,
    dpmpp_2m,
    heun,
    make_prediction,
    make_schedule,
)
from alphabar.rng import Rng
from alphabar.types import Cond

# diffusers hands tensors to numpy in a way that numpy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled-linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
NOISE = {"set_alpha_to_one": True, "clip_sample": False}


def network(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
    """Something nonlinear that mixes pixels and depends on t; bounded, as eps-prediction enlarges x at first."""
    time = t.to(x.dtype).view(-1, 1, 1, 1) / 1000
    return torch.tanh(x + time) * (1 - 0.5 * time) + 0.3 * torch.tanh(x.roll(1, dims=3))


class OneGenerator(Rng):
    """Draws for the whole batch from one generator, as diffusers does."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.generator = n, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.n

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """[n, *shape] float64."""
        return torch.randn(self.n, *shape, generator=self.generator, dtype=torch.float64)


def start() -> Tensor:
    return torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    """Each step agrees, relative to its largest value."""
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert (a - b).abs().max() <= tolerance * max(1, b.abs().max()), f"step {k}"


def process(schedule: NoiseSchedule, prediction: str) -> Process:
    return Process(schedule, make_prediction(prediction))


def theirs(scheduler: Any, schedule: NoiseSchedule, n: int, **step: Any) -> list[Tensor]:
    """What x is after each step of diffusers' loop."""
    scheduler.alphas_cumprod = schedule.alphas_bar
    scheduler.set_timesteps(n)
    x, out = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(len(x))), int(t), x, **step).prev_sample
        out.append(x)
    return out


@pytest.mark.parametrize("timesteps", [1000, 100])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules(name: str, timesteps: int) -> None:
    scheduler = diffusers.DDPMScheduler(timesteps, **SCHEDULES[name])
    ours = make_schedule(name, timesteps)
    torch.testing.assert_close(ours.alphas_bar, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)
    torch.testing.assert_close(ours.betas, scheduler.betas.double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_zero_terminal_snr(name: str) -> None:
    scheduler = diffusers.DDIMScheduler(1000, **SCHEDULES[name], rescale_betas_zero_snr=True)
    ours = make_schedule(name, zero_terminal_snr=True)
    torch.testing.assert_close(ours.alphas_bar, scheduler.alphas_cumprod.double(), rtol=2e-3, atol=1e-6)
    assert ours.alphas_bar[-1] == scheduler.alphas_cumprod[-1] == 0


def test_noising_and_the_v_target() -> None:
    scheduler = diffusers.DDPMScheduler(1000, **SCHEDULES["scaled-linear"])
    x0, eps, t = start(), start().flip(0), torch.tensor([0, 500, 999])
    p = process(make_schedule("scaled-linear"), "v")
    scheduler.alphas_cumprod = p.schedule.alphas_bar
    torch.testing.assert_close(p.noise(x0, eps, t), scheduler.add_noise(x0, eps, t), rtol=1e-12, atol=1e-12)
    target = p.prediction.target(x0, eps, *p.schedule.gather(t, x0))
    torch.testing.assert_close(target, scheduler.get_velocity(x0, eps, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(name: str, prediction: str, variance: str) -> None:
    """Leading from 0: on other grids diffusers adds the large variance on the last step too."""
    schedule = make_schedule(name)
    scheduler = diffusers.DDPMScheduler(
        1000,
        **SCHEDULES[name],
        prediction_type=PREDICTIONS[prediction],
        clip_sample=False,
        variance_type=f"fixed_{variance}",
        timestep_spacing="leading",
    )
    expected = theirs(scheduler, schedule, 20, generator=torch.Generator().manual_seed(2))
    denoise = process(schedule, prediction).denoiser(network)
    steps = ddpm(denoise, start(), Grid.leading(20), schedule, rng=OneGenerator(3, 2), variance=variance)
    same([step.x for step in steps], expected, 1e-10)


@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(name: str, prediction: str, eta: float, spacing: str) -> None:
    schedule = make_schedule(name)
    offset = 1 if spacing == "leading" else 0
    scheduler = diffusers.DDIMScheduler(
        1000,
        **SCHEDULES[name],
        **NOISE,
        prediction_type=PREDICTIONS[prediction],
        timestep_spacing=spacing,
        steps_offset=offset,
    )
    expected = theirs(scheduler, schedule, 20, eta=eta, generator=torch.Generator().manual_seed(2))
    grid = Grid.leading(20, offset=1) if spacing == "leading" else Grid.trailing(20)
    assert list(grid.timesteps) == scheduler.timesteps.tolist()
    denoise = process(schedule, prediction).denoiser(network)
    steps = ddim(denoise, start(), grid, schedule, rng=OneGenerator(3, 2), eta=eta)
    same([step.x for step in steps], expected, 1e-10)


def test_ddim_at_zero_terminal_snr() -> None:
    schedule = make_schedule("scaled-linear", zero_terminal_snr=True)
    scheduler = diffusers.DDIMScheduler(
        1000,
        **SCHEDULES["scaled-linear"],
        **NOISE,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    expected = theirs(scheduler, schedule, 20)
    steps = ddim(process(schedule, "v").denoiser(network), start(), Grid.trailing(20), schedule)
    same([step.x for step in steps], expected, 1e-10)


@pytest.mark.parametrize("prediction", sorted(PREDICTIONS))
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_dpm_solver(name: str, prediction: str) -> None:
    """20 steps: below 15, diffusers lowers the order at the end, which it would do at our last step anyway."""
    schedule = make_schedule(name)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        1000,
        **SCHEDULES[name],
        prediction_type=PREDICTIONS[prediction],
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        timestep_spacing="trailing",
    )
    expected = theirs(scheduler, schedule, 20)
    steps = dpmpp_2m(process(schedule, prediction).denoiser(network), start(), Grid.trailing(20), schedule)
    same([step.x for step in steps], expected, 1e-5)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_heun(name: str) -> None:
    """There, x / alpha is walked instead of x; its network is shown the x that ours is shown.

    From the first timestep with 1% of signal on: before, ours takes DDIM's step on purpose.
    """
    schedule = make_schedule(name)
    scheduler = diffusers.HeunDiscreteScheduler(
        1000, **SCHEDULES[name], prediction_type="epsilon", timestep_spacing="trailing"
    )
    scheduler.alphas_cumprod = schedule.alphas_bar
    scheduler.set_timesteps(20)
    whole = Grid.trailing(20)
    skipped = sum(schedule.coefficients(t)[0] < 0.01 for t in whole.timesteps)
    grid = whole[skipped:]
    scheduler.set_begin_index(2 * skipped)
    timesteps = scheduler.timesteps[2 * skipped :]
    x = start() / schedule.coefficients(grid.timesteps[0])[0]
    expected = []
    for k, t in enumerate(timesteps):
        alpha, _ = schedule.coefficients(int(t))
        x = scheduler.step(network(x * alpha, t.expand(len(x))), t, x).prev_sample
        if k % 2 == 0 and k + 1 < len(timesteps):
            continue  # half of a step
        expected.append(x)
    steps = heun(process(schedule, "eps").denoiser(network), start(), grid, schedule)
    same([step.x / schedule.coefficients(step.s)[0] for step in steps], expected, 1e-5)


def test_heun_starts_as_ddim_where_there_is_no_signal() -> None:
    schedule = make_schedule("cosine")
    denoise = process(schedule, "v").denoiser(network)
    first, second = (next(walk(denoise, start(), Grid.trailing(20), schedule)) for walk in (heun, ddim))
    same([first.x], [second.x], 1e-6)
