"""Guidance and inpainting: denoisers around denoisers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alphabar.diffusion import CFG, PREDICTIONS, Grid, Inpaint, Process, ddim, ddpm, dpmpp_2m, make_prediction
from alphabar.diffusion import make_schedule as schedule_of
from alphabar.errors import AlphabarError
from alphabar.rng import Rng
from alphabar.types import Cond, Estimate
from oracle import gaussian_denoiser

SCHEDULE = schedule_of("scaled-linear")


class Widths:
    """Knows data of N(0, c^2), c being the condition; counts its calls and remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, Cond]] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        assert cond is not None
        self.calls.append((len(x), cond))
        rows = [gaussian_denoiser(SCHEDULE, c)(x[k : k + 1], t[k : k + 1]) for k, c in enumerate(cond["c"].tolist())]
        return Estimate(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def told(*c: float) -> Cond:
    return {"c": torch.tensor(c, dtype=torch.float64)}


def test_a_guided_walk_ends_where_the_closed_form_says() -> None:
    """Guided slopes are linear in x, so DDIM's end is a product; the reference is plain Python."""
    scale, c, null, grid = 3.0, 0.5, 1.2, Grid.trailing(20)
    x = torch.ones(1, 1, dtype=torch.float64)
    *_, last = ddim(CFG(Widths(), told(null), scale), x, grid, SCHEDULE, told(c))
    expected = 1.0
    for t, s in grid.pairs():
        bar_t, bar_s = SCHEDULE.alpha_bar(t), SCHEDULE.alpha_bar(s)
        x0, eps = 0.0, 0.0
        for width, weight in ((c, scale), (null, 1 - scale)):
            variance = bar_t * width**2 + 1 - bar_t
            x0 += weight * math.sqrt(bar_t) * width**2 / variance
            eps += weight * math.sqrt(1 - bar_t) / variance
        expected *= math.sqrt(bar_s) * x0 + math.sqrt(1 - bar_s) * eps
    assert last.x.item() == pytest.approx(expected, rel=1e-5)  # alpha and sigma meet a tensor in float32


def test_scales_one_and_zero_cost_one_call_and_others_one_of_twice_the_batch() -> None:
    x, t = torch.ones(2, 1, dtype=torch.float64), torch.tensor([500, 500])
    for scale, rows, seen in ((1.0, 2, 0.5), (0.0, 2, 2.0), (2.0, 4, None)):
        denoise = Widths()
        guided = CFG(denoise, told(2.0), scale)(x, t, told(0.5, 0.5))
        assert [n for n, _ in denoise.calls] == [rows]
        if seen is not None:
            assert torch.equal(guided.x0, gaussian_denoiser(SCHEDULE, seen)(x, t).x0)


def test_guidance_acts_inside_its_interval_only() -> None:
    x = torch.ones(3, 1, dtype=torch.float64)
    cond, null = told(0.5, 0.5, 0.5), told(2.0)
    everywhere, within = CFG(Widths(), null, 4.0), CFG(Widths(), null, 4.0, interval=(200, 400))
    t = torch.tensor([199, 200, 401])
    one, other, plain = everywhere(x, t, cond), within(x, t, cond), Widths()(x, t, cond)
    assert torch.equal(other.eps[1], one.eps[1])
    assert not torch.equal(plain.eps[1], one.eps[1])
    torch.testing.assert_close(other.eps[[0, 2]], plain.eps[[0, 2]], rtol=1e-12, atol=0)
    quiet = CFG(denoise := Widths(), null, 4.0, interval=(200, 400))
    quiet(x, torch.tensor([900, 900, 900]), cond)
    assert denoise.calls[0][0] == 3  # no second half where it would change nothing


@pytest.mark.parametrize("name", PREDICTIONS)
def test_what_the_network_predicts_does_not_matter(name: str) -> None:
    """The same belief, told as eps, x0 or v, is guided to the same estimate."""
    g = torch.Generator().manual_seed(0)
    x, eps_cond, eps_null = torch.randn(3, 2, 1, 4, 4, generator=g, dtype=torch.float64)
    t = torch.tensor([300, 700])
    alpha, sigma = SCHEDULE.gather(t, x)
    process = Process(SCHEDULE, make_prediction(name))

    def network(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        assert cond is not None
        wide = cond["c"].view(-1, 1, 1, 1)
        eps = torch.where(wide == 1, eps_cond.repeat(2, 1, 1, 1), eps_null.repeat(2, 1, 1, 1))
        a, s = SCHEDULE.gather(t, x)
        return process.prediction.target((x - s * eps) / a, eps, a, s)

    guided = CFG(process.denoiser(network), told(0.0), 7.5)(x, t, told(1.0, 1.0))
    eps = eps_null + 7.5 * (eps_cond - eps_null)
    torch.testing.assert_close(guided.eps, eps, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(guided.x0, (x - sigma * eps) / alpha, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["eps", "v"])
def test_rescaling_is_that_of_diffusers(name: str) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    g = torch.Generator().manual_seed(0)
    x, answer_null, answer_cond = torch.randn(3, 2, 4, 8, 8, generator=g, dtype=torch.float64)
    t = torch.tensor([400, 400])
    process = Process(SCHEDULE, make_prediction(name))

    def network(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return torch.cat([answer_null, 0.5 * answer_cond])

    found = CFG(process.denoiser(network), told(0.0), 5.0, rescale=0.7, process=process)(x, t, told(1.0, 1.0))
    guided = answer_null + 5.0 * (0.5 * answer_cond - answer_null)
    answer = rescale_noise_cfg(guided, 0.5 * answer_cond, 0.7)
    alpha, sigma = SCHEDULE.gather(t, x)
    expected = process.prediction.estimate(answer, x, alpha, sigma)
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.eps, expected.eps, rtol=1e-5, atol=1e-5)


def test_what_the_null_condition_does_not_name_stays() -> None:
    denoise = Widths()
    cond = {**(told(0.5, 0.6) or {}), "concat": torch.arange(2.0)}
    CFG(denoise, told(2.0), 3.0)(torch.ones(2, 1, dtype=torch.float64), torch.tensor([5, 5]), cond)
    _, seen = denoise.calls[0]
    assert seen is not None
    assert seen["concat"].tolist() == [0, 1, 0, 1]
    assert seen["c"].tolist() == [2.0, 2.0, 0.5, 0.6]


def test_a_rescale_out_of_range_is_one_line() -> None:
    with pytest.raises(AlphabarError, match=r"^guidance rescale must lie in 0\.\.1, got 1\.5$"):
        CFG(Widths(), told(1.0), 3.0, rescale=1.5)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmpp"])
def test_inpainting_keeps_what_is_known_and_makes_the_rest(name: str) -> None:
    process = Process(SCHEDULE, make_prediction("eps"))
    g = torch.Generator().manual_seed(0)
    known, x = torch.randn(2, 2, 1, 4, 4, generator=g)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    denoise = Inpaint(gaussian_denoiser(SCHEDULE, 0.5), known, mask, process)
    grid = Grid.trailing(12)
    walks = {
        "ddpm": lambda: ddpm(denoise, x, grid, SCHEDULE, rng=Rng(0, range(2), "sampler")),
        "ddim": lambda: ddim(denoise, x, grid, SCHEDULE),
        "dpmpp": lambda: dpmpp_2m(denoise, x, grid, SCHEDULE),
    }
    *_, last = walks[name]()
    torch.testing.assert_close(last.x[..., :2], known[..., :2], rtol=1e-5, atol=1e-5)
    assert not torch.isclose(last.x[..., 2:], known[..., 2:], atol=1e-2).all()
