"""What a denoiser knows at each noise level: its loss there, and what a single prediction recovers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alphabar.diffusion import Process
from alphabar.errors import AlphabarError
from alphabar.evaluate.mode import evaluating
from alphabar.rng import Rng
from alphabar.types import Cond, Denoiser


class LevelLoss(NamedTuple):
    """The loss on timesteps `first`..`last`, both included."""

    first: int
    last: int
    mean: float
    error: float
    """Standard error of the mean over the samples."""


class SinglePrediction(NamedTuple):
    """What one call of the denoiser makes of x0 noised to each of K timesteps."""

    timesteps: tuple[int, ...]
    x_t: Tensor
    """[K, N, ...], the same noise per sample at every timestep."""
    x0: Tensor
    """[K, N, ...], the estimates."""
    mse: tuple[float, ...]
    """K mean squared errors of the estimates against the truth."""


def loss_by_timestep(
    process: Process,
    network: nn.Module,
    x0: Tensor,
    bins: int | Sequence[int] = 4,
    seed: int = 0,
    cond: Cond = None,
    batch_size: int = 256,
) -> list[LevelLoss]:
    """The training loss split by noise level. The mean over all timesteps hides where a network still learns.

    Every sample is noised once for each level, so levels differ in t only.

    Args:
        process: gives the loss.
        network: in any mode; evaluated in eval mode.
        x0: [N, ...] in the space in which the network works.
        bins: this many equal ranges of timesteps (4: quartiles), in each of which every sample draws its t; or the
            exact timesteps.
        seed: of the noise and the timesteps, keyed per sample.
        cond: one row per sample.
        batch_size: samples per call.

    Raises:
        AlphabarError: bins or timesteps that the schedule does not have.
    """
    _check_samples(x0)
    levels = _levels(bins, process.schedule.timesteps)
    losses: list[list[Tensor]] = [[] for _ in levels]
    with evaluating(network):
        for rows in _batches(len(x0), batch_size):
            x, given = x0[rows.start : rows.stop], _rows(cond, rows)
            eps = _noise(x, rows, seed)
            for level, (first, last) in zip(losses, levels, strict=True):
                offset = Rng(seed, rows, f"evaluate/t/{first}-{last}").integers(last - first + 1, x.device)
                level.append(process.loss(network, x, first + offset, eps, given).double())
    return [_level_loss(*ends, torch.cat(level)) for ends, level in zip(levels, losses, strict=True)]


def single_prediction(
    denoise: Denoiser, process: Process, x0: Tensor, timesteps: Sequence[int], seed: int = 0, cond: Cond = None
) -> SinglePrediction:
    """Noise x0 [N, ...] to each timestep and ask once: shows that a network learns before its samples do.

    Args:
        denoise: such as `process.denoiser(network)`; put the network into eval mode first.
        process: noises x0.
        x0: the clean samples.
        timesteps: in 0..T-1.
        seed: of the noise, keyed per sample.
        cond: one row per sample.

    Raises:
        AlphabarError: no timesteps, or one outside the schedule.
    """
    _check_samples(x0)
    levels = [first for first, _ in _levels(list(timesteps), process.schedule.timesteps)]
    eps = _noise(x0, range(len(x0)), seed)
    noised, estimates = [], []
    with torch.inference_mode():
        for level in levels:
            t = torch.full((len(x0),), level, dtype=torch.int64, device=x0.device)
            noised.append(process.noise(x0, eps, t))
            estimates.append(denoise(noised[-1], t, cond).x0)
    mse = tuple(float((estimate - x0).double().square().mean()) for estimate in estimates)
    return SinglePrediction(tuple(levels), torch.stack(noised), torch.stack(estimates), mse)


def _levels(bins: int | Sequence[int], timesteps: int) -> list[tuple[int, int]]:
    if isinstance(bins, int):
        if not 1 <= bins <= timesteps:
            raise AlphabarError(f"{timesteps} timesteps can be split into 1..{timesteps} bins, got {bins}")
        edges = [timesteps * i // bins for i in range(bins + 1)]
        return [(first, end - 1) for first, end in itertools.pairwise(edges)]
    wrong = [t for t in bins if not 0 <= t < timesteps]
    if wrong or not bins:
        raise AlphabarError(f"timesteps must be some of 0..{timesteps - 1}, got {wrong[0] if wrong else 'none'}")
    return [(int(t), int(t)) for t in bins]


def _level_loss(first: int, last: int, losses: Tensor) -> LevelLoss:
    error = float(losses.std() / len(losses) ** 0.5) if len(losses) > 1 else float("nan")
    return LevelLoss(first, last, float(losses.mean()), error)


def _noise(x: Tensor, rows: range, seed: int) -> Tensor:
    return Rng(seed, rows, "evaluate/eps").normal(*x.shape[1:], device=x.device).to(x.dtype)


def _batches(n: int, batch_size: int) -> Iterator[range]:
    return (range(start, min(start + batch_size, n)) for start in range(0, n, batch_size))


def _rows(cond: Cond, rows: range) -> Cond:
    return None if cond is None else {key: value[rows.start : rows.stop] for key, value in cond.items()}


def _check_samples(x0: Tensor) -> None:
    if len(x0) == 0:
        raise AlphabarError("there are no samples to evaluate: x0 is empty")
