"""Distances between feature sets: closed forms, a reference implementation, properties, bad input."""

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alphabar.errors import AlphabarError
from alphabar.evaluate import frechet_distance, kernel_distance

Array = npt.NDArray[np.float64]


def reference(a: Array, b: Array) -> float:
    """The formula as it is written, with the matrix square root of scipy."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root.real))


def with_moments(n: int, mean: Array, cov: Array, seed: int) -> Array:
    """Samples [n, D] whose mean and covariance are exactly these."""
    white = np.random.default_rng(seed).normal(size=(n, len(mean)))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return white @ np.linalg.cholesky(cov).T + mean


def test_gaussians_with_commuting_covariances() -> None:
    # With diagonal covariances the trace is the sum of (sigma_a - sigma_b)^2.
    a = with_moments(200, np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), 0)
    b = with_moments(300, np.array([3.0, 1.0, -2.0]), np.diag([4.0, 4.0, 0.25]), 1)
    assert frechet_distance(a, b) == pytest.approx(9 + 0 + 16 + 1 + 0 + 6.25, abs=1e-9)


def test_gaussians_with_covariances_that_do_not_commute() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 6, 6))
    a = with_moments(100, rng.normal(size=6), x @ x.T + np.eye(6), 3)
    b = with_moments(150, rng.normal(size=6), y @ y.T + np.eye(6), 4)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-10)


def test_fewer_samples_than_features() -> None:
    # Rank 1 against rank 1 along unit vectors at an angle: tr((S_a S_b)^(1/2)) = s_a s_b |cos|.
    direction_a, direction_b = np.eye(50)[0], np.array([0.6, 0.8] + [0.0] * 48)
    a = np.stack([-direction_a, direction_a])  # variance 2
    b = np.stack([-3 * direction_b, 3 * direction_b])  # variance 18
    assert frechet_distance(a, b) == pytest.approx(2 + 18 - 2 * np.sqrt(2 * 18) * 0.6, abs=1e-12)


def test_equal_sets_are_at_zero() -> None:
    a = np.random.default_rng(5).normal(size=(500, 64)) * 1000
    assert 0 <= frechet_distance(a, a) < 1e-6
    assert 0 <= frechet_distance(a, a[::-1]) < 1e-6


def test_float32_features_are_computed_in_float64() -> None:
    rng = np.random.default_rng(6)
    a, b = (100 + rng.normal(size=(2, 400, 8))).astype(np.float32)
    assert frechet_distance(a, b) == pytest.approx(reference(a.astype(np.float64), b.astype(np.float64)), abs=1e-8)


sets = hnp.arrays(np.float64, st.tuples(st.integers(2, 12), st.just(4)), elements=st.floats(-100, 100, width=32))


@settings(max_examples=60, deadline=None)
@given(a=sets, b=sets, shift=st.floats(-10, 10))
def test_frechet_is_a_symmetric_distance(a: Array, b: Array, shift: float) -> None:
    distance = frechet_distance(a, b)
    assert distance >= 0
    assert frechet_distance(b, a) == pytest.approx(distance, abs=1e-8)
    assert frechet_distance(a + shift, b + shift) == pytest.approx(distance, abs=1e-7)
    assert frechet_distance(a, a + shift) == pytest.approx(4 * shift**2, abs=1e-7)


def test_kernel_distance_by_hand() -> None:
    a, b = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])

    def k(x: float, y: float) -> float:
        return (x * y + 1) ** 3

    expected = k(1, 2) + k(0, 3) - 2 * (k(1, 0) + k(1, 3) + k(2, 0) + k(2, 3)) / 4
    result = kernel_distance(a, b, subsets=3, subset_size=2, seed=0)
    assert result == pytest.approx((expected, 0.0))


def test_kernel_distance_is_unbiased_on_equal_distributions() -> None:
    # 400 independent estimates at n = 20, where a biased one is far above zero.
    rng = np.random.default_rng(7)
    means = [
        kernel_distance(rng.normal(size=(20, 8)), rng.normal(size=(20, 8)), subsets=2, subset_size=20, seed=0).mean
        for _ in range(400)
    ]
    assert abs(np.mean(means)) < 4 * np.std(means) / np.sqrt(len(means))
    assert min(means) < 0 < max(means)


def test_kernel_distance_sees_a_difference_and_the_seed() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(200, 8)), rng.normal(size=(200, 8)) + 0.5
    near = kernel_distance(a, rng.normal(size=(200, 8)), subsets=20, subset_size=50, seed=1)
    far = kernel_distance(a, b, subsets=20, subset_size=50, seed=1)
    assert far.mean > 10 * abs(near.mean)
    assert far.error > 0
    assert far == kernel_distance(a, b, subsets=20, subset_size=50, seed=1)
    assert far != kernel_distance(a, b, subsets=20, subset_size=50, seed=2)


GOOD = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (GOOD[:1], GOOD, "at least 2 samples on each side, got 1 and 4"),
        (GOOD, GOOD[:0], "at least 2 samples on each side, got 4 and 0"),
        (GOOD, np.zeros((4, 2)), r"with the same D, got \[4, 3\] and \[4, 2\]"),
        (GOOD[0], GOOD, r"with the same D, got \[3\]"),
        (np.full((4, 3), np.nan), GOOD, "features are not finite"),
        (GOOD, np.full((4, 3), np.inf), "features are not finite"),
    ],
)
def test_bad_features(a: Array, b: Array, message: str) -> None:
    with pytest.raises(AlphabarError, match=message):
        frechet_distance(a, b)
    with pytest.raises(AlphabarError, match=message):
        kernel_distance(a, b, subsets=2, subset_size=2, seed=0)


@pytest.mark.parametrize(("subsets", "subset_size"), [(1, 2), (2, 1), (2, 5)])
def test_bad_subsets(subsets: int, subset_size: int) -> None:
    with pytest.raises(AlphabarError, match=r"2 or more subsets of 2\.\.4"):
        kernel_distance(GOOD, GOOD, subsets=subsets, subset_size=subset_size, seed=0)
