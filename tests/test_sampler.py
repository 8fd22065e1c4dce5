"""Samplers against closed forms: the end of a run is a number, and it must be that number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.diffusion import (
    CLEAN,
    SCHEDULES,
    Grid,
    NoiseSchedule,
    Step,
    ddim,
    ddpm,
    dpmpp_2m,
    heun,
    make_schedule,
    one_shot,
)
from alphabar.errors import AlphabarError
from alphabar.rng import Rng
from oracle import (
    Impulses,
    gaussian_denoiser,
    impulses,
    karras,
    reference_ddim,
    reference_ddpm,
    reference_grid,
    reference_ode,
    stable_diffusion_table,
)

C = 0.5
SPACINGS: dict[str, Callable[[int], Grid]] = {
    "leading": lambda n: Grid.leading(n, offset=1),
    "trailing": Grid.trailing,
    "linspace": Grid.linspace,
}
CASES = [(s, n) for s in SPACINGS for n in (10, 50, 1000) if (s, n) != ("leading", 1000)]  # that one would start at T


def end(steps: Iterator[Step]) -> torch.Tensor:
    return list(steps)[-1].x


def end_std_ddpm(grid: Grid, schedule: NoiseSchedule, c: float, variance: str = "small") -> float:
    x, rng = impulses(len(grid) - 1)
    out = end(ddpm(gaussian_denoiser(schedule, c), x, grid, schedule, rng=rng, variance=variance))
    assert rng.asked == len(grid) - 1  # none on the last step
    return math.sqrt(out.square().sum().item())


def end_std_ddim(grid: Grid, schedule: NoiseSchedule, c: float) -> float:
    x = torch.ones(1, 1, dtype=torch.float64)
    return end(ddim(gaussian_denoiser(schedule, c), x, grid, schedule)).item()


@pytest.mark.parametrize(("spacing", "n"), CASES)
@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
def test_end_standard_deviation(spacing: str, n: int, c: float) -> None:
    schedule, table = NoiseSchedule.scaled_linear(), stable_diffusion_table()
    grid, steps = SPACINGS[spacing](n), reference_grid(spacing, n)
    assert [*grid.timesteps, CLEAN] == steps
    assert end_std_ddim(grid, schedule, c) == pytest.approx(reference_ddim(table, steps, c), rel=1e-10)
    assert end_std_ddpm(grid, schedule, c) == pytest.approx(reference_ddpm(table, steps, c), rel=1e-6)
    large = reference_ddpm(table, steps, c, large=True)
    assert end_std_ddpm(grid, schedule, c, "large") == pytest.approx(large, rel=1e-6)


@pytest.mark.parametrize(
    ("sampler", "spacing", "n", "expected"),
    [
        ("ddim", "leading", 10, 0.40480),
        ("ddim", "leading", 50, 0.47648),
        ("ddim", "trailing", 10, 0.38529),
        ("ddim", "trailing", 50, 0.46987),
        ("ddim", "trailing", 1000, 0.49866),
        ("ddim", "linspace", 50, 0.47482),  # 0.48196, which looks better, is what a wrong stride gives
        ("ddpm", "trailing", 10, 0.35820),
        ("ddpm", "trailing", 50, 0.45076),
        ("ddpm", "trailing", 1000, 0.49518),
    ],
)
def test_known_values(sampler: str, spacing: str, n: int, expected: float) -> None:
    """The same as literal numbers, computed elsewhere: Stable Diffusion's schedule, c = 0.5, start N(0, 1)."""
    measure = end_std_ddim if sampler == "ddim" else end_std_ddpm
    assert measure(SPACINGS[spacing](n), NoiseSchedule.scaled_linear(), C) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_variances_are_exact_where_the_paper_says(variance: str) -> None:
    """Section 3.2: small is exact for a data set of one point, large for data of N(0, 1)."""
    grid, schedule = Grid.trailing(10), NoiseSchedule.cosine()
    c = {"small": 0.0, "large": 1.0}[variance]
    x, rng = impulses(9)
    start = x * math.sqrt(schedule.alpha_bar(999) * c**2 + 1 - schedule.alpha_bar(999))  # the exact marginal
    for step in ddpm(gaussian_denoiser(schedule, c), start, grid, schedule, rng=rng, variance=variance):
        a, s = schedule.coefficients(step.s)
        if step.s != CLEAN:
            assert step.x.square().sum().item() == pytest.approx(a**2 * c**2 + s**2, rel=1e-6)


def karras_schedule(n: int) -> tuple[list[float], NoiseSchedule]:
    """The Karras grid as a schedule of its own: t = 0 is its smallest sigma."""
    sigmas = karras(n)
    return sigmas, NoiseSchedule(torch.tensor([1 / (1 + s**2) for s in reversed(sigmas)], dtype=torch.float64))


def error(sampler: str, n: int) -> float:
    """How far one value is from the exact solution, relatively, when t = 0 is reached; checked with the reference."""
    sigmas, schedule = karras_schedule(n)
    walk = {"ddim": ddim, "heun": heun, "dpmpp-2m": dpmpp_2m}[sampler]
    start = torch.full((1, 1), schedule.coefficients(n - 1)[0], dtype=torch.float64)
    steps = walk(gaussian_denoiser(schedule, C), start, Grid.full(n), schedule)
    at_zero = next(step.x for step in steps if step.s == 0).item() / schedule.coefficients(0)[0]
    assert at_zero == pytest.approx(reference_ode(sampler, sigmas, C), rel=1e-6)
    exact = math.sqrt((C**2 + sigmas[-1] ** 2) / (C**2 + sigmas[0] ** 2))
    return abs(at_zero / exact - 1)


@pytest.mark.parametrize(("sampler", "low", "high"), [("ddim", 1.95, 2.02), ("heun", 3.9, 4.6), ("dpmpp-2m", 3.9, 4.8)])
def test_order_of_convergence(sampler: str, low: float, high: float) -> None:
    """Twice the steps: half the error at first order, a quarter at second."""
    errors = [error(sampler, n) for n in (20, 40, 80, 160, 320)]
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(low < ratio < high for ratio in ratios), ratios


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 40), st.sampled_from(["trailing", "linspace"]))
def test_ddim_with_eta_1_is_ddpm(name: str, n: int, spacing: str) -> None:
    schedule = make_schedule(name, 100)
    grid = Grid.trailing(n, 100) if spacing == "trailing" else Grid.linspace(n, 100)
    denoise = gaussian_denoiser(schedule, 0.7)
    (x, first), (_, second) = impulses(n - 1), impulses(n - 1)
    ancestral = list(ddpm(denoise, x, grid, schedule, rng=first))
    implicit = list(ddim(denoise, x, grid, schedule, rng=second, eta=1.0))
    for a, b in zip(ancestral, implicit, strict=True):
        assert (a.t, a.s) == (b.t, b.s)
        torch.testing.assert_close(a.x, b.x, rtol=1e-9, atol=1e-9)


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 5))
def test_grids_fall_strictly_inside_the_schedule(n: int, timesteps: int, offset: int) -> None:
    grids = [Grid.full(timesteps)]
    if n <= timesteps:
        grids += [Grid.trailing(n, timesteps), Grid.linspace(n, timesteps), Grid.leading(n, timesteps)]
        assert [len(grid) for grid in grids] == [timesteps, n, n, n]
        if (n - 1) * (timesteps // n) + offset < timesteps:
            grids.append(Grid.leading(n, timesteps, offset))
        else:
            with pytest.raises(AlphabarError, match="would start at timestep"):
                Grid.leading(n, timesteps, offset)
    for grid in grids:
        pairs = grid.pairs()
        assert all(t > s for t, s in pairs)
        assert pairs[0][0] < timesteps
        assert pairs[-1][1] == CLEAN
        assert [s for _, s in pairs[:-1]] == [t for t, _ in pairs[1:]]
    assert all(grid.timesteps[0] == timesteps - 1 for grid in grids[:3])


def test_grids_can_be_cut() -> None:
    grid = Grid.trailing(10)
    assert grid.timesteps == (999, 899, 799, 699, 599, 499, 399, 299, 199, 99)
    assert grid[7:].pairs() == [(299, 199), (199, 99), (99, CLEAN)]
    assert Grid.leading(4, 10, offset=1).timesteps == (7, 5, 3, 1)
    assert Grid.linspace(1, 10).timesteps == (9,)


@pytest.mark.parametrize("steps", [(), (3, 3), (1, 2), (5, -1)])
def test_a_grid_that_does_not_fall(steps: tuple[int, ...]) -> None:
    with pytest.raises(AlphabarError, match="a grid must fall strictly and end at 0 or above"):
        Grid(steps)


def all_samplers(schedule: NoiseSchedule, x: torch.Tensor, grid: Grid) -> dict[str, list[Step]]:
    denoise = gaussian_denoiser(schedule, C)
    return {
        "ddpm": list(ddpm(denoise, x, grid, schedule, rng=Rng(0, range(len(x)), "sampler"))),
        "ddim": list(ddim(denoise, x, grid, schedule)),
        "ddim noisy": list(ddim(denoise, x, grid, schedule, rng=Rng(0, range(len(x)), "sampler"), eta=0.5)),
        "heun": list(heun(denoise, x, grid, schedule)),
        "dpmpp-2m": list(dpmpp_2m(denoise, x, grid, schedule)),
    }


def test_every_sampler_yields_its_steps_and_ends_on_the_last_estimate() -> None:
    """No noise and nothing of x is left after the last step: it is x0 as estimated there."""
    schedule, grid = NoiseSchedule.cosine(), Grid.trailing(10)
    x = Rng(0, range(3), "initial").normal(1, 2, 2).double()
    for name, steps in all_samplers(schedule, x, grid).items():
        assert [(step.t, step.s) for step in steps] == grid.pairs(), name
        torch.testing.assert_close(steps[-1].x, steps[-1].estimate.x0, rtol=1e-12, atol=1e-12)
        assert all(step.x.shape == x.shape and step.x.dtype == x.dtype for step in steps)


def test_every_sampler_survives_zero_terminal_snr() -> None:
    """The first step touches no signal: alpha is 0 there, and neither logarithm nor quotient may see it."""
    schedule, grid = NoiseSchedule.scaled_linear().zero_terminal_snr(), Grid.trailing(50)
    x = torch.ones(2, 1, dtype=torch.float64)
    ends = {name: steps[-1].x for name, steps in all_samplers(schedule, x, grid).items()}
    assert all(torch.isfinite(out).all() for out in ends.values())
    for name in ("heun", "dpmpp-2m"):  # from exact N(0, 1) the solution is c itself
        assert ends[name][0].item() == pytest.approx(C, rel=0.05)


def test_one_shot_finds_the_mean() -> None:
    """From pure noise a single step knows next to nothing: the average of all data, here 0."""
    schedule = NoiseSchedule.cosine()
    x = torch.ones(1, 1, dtype=torch.float64)
    (step,) = one_shot(gaussian_denoiser(schedule, C), x, schedule)
    assert (step.t, step.s) == (999, CLEAN)
    assert abs(step.x.item()) < 0.01


def test_what_samplers_refuse() -> None:
    schedule, grid = NoiseSchedule.linear(), Grid.trailing(2)
    denoise, x = gaussian_denoiser(schedule, C), torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(AlphabarError, match="variance must be 'small' or 'large', got 'medium'"):
        next(ddpm(denoise, x, grid, schedule, rng=Impulses(1), variance="medium"))
    with pytest.raises(AlphabarError, match=r"eta must lie in 0\.\.1, got 1\.5"):
        next(ddim(denoise, x, grid, schedule, eta=1.5))
    with pytest.raises(AlphabarError, match="needs an rng"):
        next(ddim(denoise, x, grid, schedule, eta=0.5))
    for make in (Grid.leading, Grid.trailing, Grid.linspace):
        for n in (0, 1001):
            with pytest.raises(AlphabarError, match=rf"a grid needs 1\.\.1000 steps, got {n}"):
                make(n)
