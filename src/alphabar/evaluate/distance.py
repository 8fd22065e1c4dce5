"""Distances between two sets of feature vectors, in float64: how far generated images are from real ones.

They are taken on the features of our own classifier, so their values compare with nothing but themselves. Both depend
on the features and the Fréchet distance also on the number of samples: compare at equal n only, beside the floor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from alphabar.errors import AlphabarError

Floats = npt.NDArray[np.floating]


class KernelDistance(NamedTuple):
    """Mean of the estimates over the subsets, and the standard error of that mean."""

    mean: float
    error: float


def frechet_distance(a: Floats, b: Floats) -> float:
    """Fréchet distance of the Gaussians fitted to a [N, D] and b [M, D] (arXiv:1706.08500, eq. 6).

    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), with unbiased covariances S.

    With S = R^T R from a QR decomposition of the centred data, the last trace is the sum of the singular values of
    R_a R_b^T. No root is taken of a covariance, so sets of fewer samples than features lose no digits.

    Raises:
        AlphabarError: fewer than 2 samples, different D, or numbers that are not finite.
    """
    a, b = _check(a, b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    root_a, root_b = _covariance_root(a - mean_a), _covariance_root(b - mean_b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = np.square(mean_a - mean_b).sum() + np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross
    return max(0.0, float(distance))  # equal sets can come out at -1e-15


def _covariance_root(centred: Floats) -> Floats:
    """Some R [min(N, D), D] with R^T R = the unbiased covariance."""
    root: Floats = np.linalg.qr(centred, mode="r") / np.sqrt(len(centred) - 1)
    return root


def kernel_distance(a: Floats, b: Floats, subsets: int, subset_size: int, seed: int) -> KernelDistance:
    """Unbiased squared MMD of a [N, D] and b [M, D] under k(x, y) = (x.y / D + 1)^3 (arXiv:1801.01401, section 4).

    Its expectation is 0 for equal distributions at any number of samples, so single values can be negative. The error
    is taken over random subsets, which overlap: where `subset_size` is close to N it is too small.

    Args:
        a, b: the feature vectors.
        subsets: how many pairs of subsets to average, at least 2.
        subset_size: samples in each, at least 2 and at most the smaller set.
        seed: of the choice of the subsets.

    Raises:
        AlphabarError: as for `frechet_distance`, and for counts that do not fit.
    """
    a, b = _check(a, b)
    most = min(len(a), len(b))
    if subsets < 2 or not 2 <= subset_size <= most:
        raise AlphabarError(f"a kernel distance needs 2 or more subsets of 2..{most}, got {subsets} of {subset_size}")
    random = np.random.default_rng(seed)
    estimates = [
        _squared_mmd(
            a[random.choice(len(a), subset_size, replace=False)], b[random.choice(len(b), subset_size, replace=False)]
        )
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(estimates)), float(np.std(estimates, ddof=1) / np.sqrt(subsets)))


def _squared_mmd(a: Floats, b: Floats) -> float:
    """The unbiased estimate: within each set the kernel of a sample with itself is left out."""
    n, width = a.shape

    def kernel(x: Floats, y: Floats) -> Floats:
        value: Floats = (x @ y.T / width + 1) ** 3
        return value

    within = sum(k.sum() - np.trace(k) for k in (kernel(a, a), kernel(b, b)))
    return float(within / (n * (n - 1)) - 2 * kernel(a, b).mean())


def _check(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise AlphabarError(
            f"features must be [N, D] of one classifier, with the same D, got {list(a.shape)} and {list(b.shape)}"
        )
    if min(len(a), len(b)) < 2:
        raise AlphabarError(f"a distance needs at least 2 samples on each side, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise AlphabarError("features are not finite: the images hold NaN or infinity; look at the samples")
    return a, b
