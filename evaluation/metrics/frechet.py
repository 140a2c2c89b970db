"""The Frechet distance between two sets of features, as FID (Heusel et al. 2017) and FVD (Unterthiner et al. 2018) use it.

Everything is float64. No matrix square root is taken: with S = A A^T for both covariances, tr sqrt(S1 S2) is the nuclear
norm (sum of singular values) of A1^T A2. A can be made of eigenvectors or, with S = Xc^T Xc / (n - ddof), of the centred
features themselves, which makes it the nuclear norm of the small matrix Xc Yc^T when there are few rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import scipy.linalg

from evaluation.metrics import intervals, moments
from evaluation.metrics.base import FeatureSource, Spread
from evaluation.metrics.moments import Block
from imanim.errors import InputError

HELD_BYTES = 1 << 30
"""Features that a bootstrap holds in memory, a set."""
BUDGET_SEC = 600.0
"""Work that all draws of a bootstrap may take together, as seconds of one core."""
MIN_DRAWS = 20
NEGATIVE = 1e-6
"""An eigenvalue this far below zero, beside the largest, is no rounding of float64."""


def frechet(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """The squared Frechet (2-Wasserstein) distance of two Gaussians: |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)).

    Covariances may be singular. Symmetric; never negative: rounding below zero is cut off.

    Args:
        mean1, mean2: [dim].
        cov1, cov2: [dim,dim], symmetric, no eigenvalue below zero but for rounding.

    Raises:
        InputError: sizes that do not match, numbers that are not finite, or a matrix that is no covariance.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(a, np.float64) for a in (mean1, cov1, mean2, cov2))
    dim = mean1.size
    given = {"mean1": (mean1, (dim,)), "cov1": (cov1, (dim, dim)), "mean2": (mean2, (dim,)), "cov2": (cov2, (dim, dim))}
    for name, (array, shape) in given.items():
        if array.shape != shape:
            raise InputError(
                f"frechet: {name} is {list(array.shape)}, expected {list(shape)}; use features of one network"
            )
        if not np.isfinite(array).all():
            raise InputError(f"frechet: {name} holds NaN or infinite numbers; look at the features")
    shift = mean1 - mean2
    overlap = _singular_values(_factor(cov1).T @ _factor(cov2)).sum()
    return max(0.0, float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * overlap))


def distance(made: FeatureSource, truth: FeatureSource, *, ddof: int = 1, bootstrap: int = 0, seed: int = 0) -> Spread:
    """The Frechet distance of the made features from the true ones.

    Up to ``dim`` rows a set it is taken from the features themselves, else from their moments; both give one number. Memory
    does not grow with the number of clips, but a bootstrap holds up to 1 GiB of features a set (above that it reads them
    again for each draw).

    The interval is :func:`evaluation.metrics.intervals.normal` of ``draws``, which draw the units of made and truth together. The
    draws themselves lie higher: repeated clips are less varied than new ones, and the distance is biased upwards the more
    the fewer rows there are. So they are good for differences (of two methods on the same units), not as values.

    Args:
        made, truth: the same clips in the same order.
        ddof: 1: unbiased covariance, as pytorch-fid has it; 0: as StyleGAN-V and cd-fvd have it.
        bootstrap: draws; 0: no interval. Fewer are made, and a warning says so, where they would take over ten minutes.
        seed: of the draws, see :func:`evaluation.metrics.intervals.draw_units`.

    Raises:
        InputError: made and truth that are not the same units, features that are not finite (the clip is named) or of
            different dimensions, fewer than two rows.
    """
    if ddof not in (0, 1):
        raise InputError(f"ddof: {ddof}; give 1 (unbiased) or 0")
    units = intervals.paired_units(made, truth)
    one, other = (_Side(s, name, hold=bootstrap > 0) for s, name in ((made, "made"), (truth, "truth")))
    if one.total.dim != other.total.dim:
        raise InputError(
            f"features: {one.total.dim} dimensions made, {other.total.dim} true; measure both with one network"
        )
    few, dim = min(one.total.count, other.total.count), one.total.dim
    pair: _Pair = (_Products if max(one.total.count, other.total.count) <= dim else _Covariances)(one, other, ddof)
    spread = Spread(pair.value(), n=few)
    if few <= dim:
        spread.warnings.append(
            f"{few} rows of features in {dim} dimensions: the covariance is rank-deficient and the distance biased upwards; "
            "compare only at equal n"
        )
    if bootstrap:
        _add_interval(spread, pair, units, bootstrap, seed)
    return spread


def _add_interval(spread: Spread, pair: _Pair, units: list[str], bootstrap: int, seed: int) -> None:
    spread.warnings += intervals.doubts(units)
    if len(set(units)) < 2:
        return
    affordable = max(MIN_DRAWS, int(BUDGET_SEC / pair.seconds_a_draw()))
    if affordable < bootstrap:
        minutes = f"{BUDGET_SEC / 60:g} minutes"
        spread.warnings.append(f"{affordable} draws instead of {bootstrap}: more would take over {minutes}")
    times = intervals.draw_units(units, min(bootstrap, affordable), seed)
    spread.draws = [pair.draw(each) for each in times]
    spread.low, spread.high = intervals.normal(spread.value, spread.draws, len(set(units)))


class _Side:
    """One set, read once: its moments, and its blocks where they may be wanted again and are not too large."""

    def __init__(self, source: FeatureSource, name: str, hold: bool):
        self.source, self.name = source, name
        self.held: list[Block] | None = []
        self.total = moments.of_blocks(self._holding(hold))
        if self.total.count < 2:
            raise InputError(f"{name}: {self.total.count} rows of features; measure at least 2")

    def _holding(self, hold: bool) -> Iterator[Block]:
        rows = 0
        for block in moments.blocks(self.source, self.name):
            rows += len(block.rows)
            most = HELD_BYTES // block.rows[0].nbytes if hold else block.rows.shape[1]
            if self.held is not None:
                self.held = [*self.held, block] if rows <= most else None
            yield block

    def blocks(self) -> Iterable[Block]:
        return moments.blocks(self.source, self.name) if self.held is None else self.held


class _Pair(Protocol):
    """Two sets whose distance is wanted once as they are and many times with clips left out and repeated."""

    def value(self) -> float: ...

    def draw(self, times: np.ndarray) -> float:
        """With each clip counted ``times`` [clips]."""

    def seconds_a_draw(self) -> float:
        """A rough count of the work, from sizes alone (so that no number depends on the machine), as seconds of one core."""


class _Covariances:
    """From moments: for more rows than dimensions."""

    def __init__(self, made: _Side, truth: _Side, ddof: int):
        self.sides, self.ddof = (made, truth), ddof

    def value(self) -> float:
        (m1, c1), (m2, c2) = ((s.total.mean, s.total.covariance(self.ddof)) for s in self.sides)
        return frechet(m1, c1, m2, c2)

    def draw(self, times: np.ndarray) -> float:
        one, other = (moments.of_blocks(s.blocks(), times) for s in self.sides)
        cov1, cov2 = one.covariance(self.ddof), other.covariance(self.ddof)
        shift = one.mean - other.mean
        return max(0.0, float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * _quick_overlap(cov1, cov2)))

    def seconds_a_draw(self) -> float:
        dim = self.sides[0].total.dim
        return 2e-11 * dim**2 * sum(s.total.count for s in self.sides) + 1e-10 * dim**3


class _Products:
    """From the features' inner products: for fewer rows than dimensions."""

    def __init__(self, made: _Side, truth: _Side, ddof: int):
        (self.x, self.clips_x), (self.y, self.clips_y) = (_centred(s) for s in (made, truth))
        self.shift, self.ddof = made.total.mean - truth.total.mean, ddof
        self.xy = self.x @ self.y.T
        self.xx, self.yy = (self.x**2).sum(1), (self.y**2).sum(1)

    def value(self) -> float:
        return self.draw(np.ones(max(self.clips_x.max(), self.clips_y.max()) + 1, np.int64))

    def draw(self, times: np.ndarray) -> float:
        w, v = times[self.clips_x].astype(np.float64), times[self.clips_y].astype(np.float64)
        n, m = w.sum(), v.sum()
        mean_x, mean_y = w @ self.x / n, v @ self.y / m
        shift = self.shift + mean_x - mean_y
        traces = (w @ self.xx - n * mean_x @ mean_x) / (n - self.ddof)
        traces += (v @ self.yy - m * mean_y @ mean_y) / (m - self.ddof)
        i, j = np.flatnonzero(w), np.flatnonzero(v)
        product = self.xy[np.ix_(i, j)] - (self.x @ mean_y)[i, None] - (self.y @ mean_x)[j] + mean_x @ mean_y
        product *= np.sqrt(w[i])[:, None] * np.sqrt(v[j])
        overlap = _singular_values(product).sum() / np.sqrt((n - self.ddof) * (m - self.ddof))
        return max(0.0, float(shift @ shift + traces - 2 * overlap))

    def seconds_a_draw(self) -> float:
        # A draw leaves out about a third of the clips: 0.63**3 of the work.
        n, m = self.xy.shape
        return 5e-11 * n * m * min(n, m) + 1e-3


def _centred(side: _Side) -> tuple[np.ndarray, np.ndarray]:
    rows, clips = (np.concatenate(part) for part in zip(*side.blocks()))
    return rows - side.total.mean, clips


def _factor(covariance: np.ndarray) -> np.ndarray:
    """A [dim,rank] with A A^T = covariance. Eigenvalues within rounding of zero are dropped: their roots would be noise."""
    values, vectors = scipy.linalg.eigh(covariance)
    if values[0] < -NEGATIVE * values[-1]:
        raise InputError(
            f"frechet: a covariance has the eigenvalue {values[0]:.3g} (the largest is {values[-1]:.3g}); take it in float64"
        )
    real = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, real] * np.sqrt(values[real])


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    return scipy.linalg.svdvals(matrix) if matrix.size else np.zeros(0)


def _quick_overlap(covariance1: np.ndarray, covariance2: np.ndarray) -> float:
    """tr sqrt(S1 S2) to 1e-5 in a quarter of the time, from a pivoted Cholesky factor: good enough for draws."""
    dim = len(covariance1)
    tolerance = dim * np.finfo(np.float64).eps * covariance1.diagonal().max()
    lower, pivots, rank, _ = scipy.linalg.lapack.dpstrf(covariance1, tol=tolerance, lower=1)
    factor = np.empty((dim, rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    values = scipy.linalg.eigvalsh(factor.T @ covariance2 @ factor) if rank else np.zeros(0)
    return float(np.sqrt(values.clip(0)).sum())
