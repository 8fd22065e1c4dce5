"""Loss by noise level and single predictions, on networks whose loss is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from alphabar.diffusion import NoiseSchedule, Process, make_prediction
from alphabar.errors import AlphabarError
from alphabar.evaluate import loss_by_timestep, single_prediction
from alphabar.types import Cond

SCHEDULE = NoiseSchedule.cosine(100)
EPS, X0, V = (Process(SCHEDULE, make_prediction(name)) for name in ("eps", "x0", "v"))


class Zero(nn.Module):
    """Answers 0 and remembers which timesteps it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        self.asked.append(t)
        return torch.zeros_like(x) if cond is None else cond["answer"]


class ToTime(nn.Module):
    """Answers t."""

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return t.to(x.dtype).view(-1, 1, 1, 1).expand_as(x)


def samples(n: int) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_network_that_knows_nothing_has_loss_one_in_each_quartile() -> None:
    levels = loss_by_timestep(EPS, Zero(), samples(200))
    assert [(level.first, level.last) for level in levels] == [(0, 24), (25, 49), (50, 74), (75, 99)]
    for level in levels:  # the mean of 12,800 squared normal numbers
        assert level.mean == pytest.approx(1, abs=4 * math.sqrt(2 / 12_800))
        assert level.error == pytest.approx(math.sqrt(2 / 12_800), rel=0.3)


def test_the_loss_of_v_at_exact_timesteps_is_the_closed_form() -> None:
    x0 = torch.ones(1000, 1, 2, 2)  # v = alpha eps - sigma: E v^2 = alpha^2 + sigma^2 = 1; x0-loss is exactly 1
    assert [level.mean for level in loss_by_timestep(X0, Zero(), x0, [0, 50, 99])] == [1, 1, 1]
    # x0 = 2: E v^2 = alpha^2 + 4 sigma^2
    for t, level in zip([0, 50, 99], loss_by_timestep(V, Zero(), 2 * x0, [0, 50, 99]), strict=True):
        alpha, sigma = SCHEDULE.coefficients(t)
        assert (level.first, level.last) == (t, t)
        assert level.mean == pytest.approx(alpha**2 + 4 * sigma**2, abs=4 * level.error + 1e-6)


def test_the_network_is_asked_within_each_bin() -> None:
    network = Zero()
    loss_by_timestep(EPS, network, samples(300), bins=3)
    for asked, (first, last) in zip(network.asked[:3], [(0, 32), (33, 65), (66, 99)], strict=True):
        assert (int(asked.min()), int(asked.max())) == (first, last)


def test_noise_belongs_to_the_sample_and_not_to_the_batch() -> None:
    x0 = samples(10)
    whole = loss_by_timestep(EPS, ToTime(), x0, seed=3)
    for left, right in zip(whole, loss_by_timestep(EPS, ToTime(), x0, seed=3, batch_size=4), strict=True):
        assert left == pytest.approx(right)
    assert whole != loss_by_timestep(EPS, ToTime(), x0, seed=4)


def test_conditions_go_with_their_rows() -> None:
    x0 = samples(5)
    levels = loss_by_timestep(X0, Zero(), x0, cond={"answer": x0}, batch_size=2)
    assert [level.mean for level in levels] == [0, 0, 0, 0]


def test_one_sample_has_no_error_bar() -> None:
    assert math.isnan(loss_by_timestep(EPS, Zero(), samples(1))[0].error)


def test_single_prediction_of_an_exact_denoiser_recovers_everything() -> None:
    x0 = samples(4)
    result = single_prediction(X0.denoiser(lambda x, t, cond=None: x0), X0, x0, [0, 50, 99])
    assert result.timesteps == (0, 50, 99)
    assert result.mse == (0, 0, 0)
    assert torch.equal(result.x0, x0.expand(3, *x0.shape))


def test_single_prediction_of_an_ignorant_denoiser() -> None:
    x0 = samples(4)
    result = single_prediction(X0.denoiser(Zero()), X0, x0, [10, 90], seed=1)
    assert result.mse == pytest.approx([float(x0.square().mean())] * 2)
    assert result.x_t.shape == (2, 4, 1, 8, 8)
    # One noise per sample, the same at both levels.
    noises = []
    for t, x_t in zip(result.timesteps, result.x_t, strict=True):
        alpha, sigma = SCHEDULE.coefficients(t)
        noises.append((x_t - alpha * x0) / sigma)
    torch.testing.assert_close(noises[0], noises[1], atol=1e-4, rtol=1e-4)
    alone = single_prediction(X0.denoiser(Zero()), X0, x0[:1], [10, 90], seed=1)
    assert torch.equal(alone.x_t[:, 0], result.x_t[:, 0])


@pytest.mark.parametrize("bins", [0, 101, [100], [-1], []])
def test_bad_levels(bins: int | list[int]) -> None:
    with pytest.raises(AlphabarError, match=r"1\.\.100 bins|some of 0\.\.99"):
        loss_by_timestep(EPS, Zero(), samples(2), bins=bins)


def test_bad_samples() -> None:
    with pytest.raises(AlphabarError, match="x0 is empty"):
        loss_by_timestep(EPS, Zero(), samples(0))
    with pytest.raises(AlphabarError, match="x0 is empty"):
        single_prediction(EPS.denoiser(Zero()), EPS, samples(0), [0])
    with pytest.raises(AlphabarError, match=r"some of 0\.\.99, got none"):
        single_prediction(EPS.denoiser(Zero()), EPS, samples(1), [])
