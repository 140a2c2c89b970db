"""The kernel distance between two sets of features (KID, Binkowski et al. 2018): unbiased MMD^2, polynomial kernel, float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from evaluation.metrics import intervals, moments
from evaluation.metrics.base import FeatureSource, Spread
from evaluation.metrics.moments import Block
from imanim.errors import InputError

if TYPE_CHECKING:
    import torch

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
TILE_ROWS = 1024
BUDGET_SEC = 600.0
"""Work that the interval may take, as seconds of one core."""


def distance(
    made: FeatureSource,
    truth: FeatureSource,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1,
    bootstrap: int = 0,
    seed: int | torch.Generator = 0,
) -> dict[str, Spread]:
    """The mean and the standard deviation (over ``subsets``, not unbiased) of MMD^2 between random subsets of both sets.

    The kernel is ``(gamma x.y + coef0) ** degree``. Subsets are drawn as torchmetrics 1.9 draws them: a ``torch.randperm`` over
    the true rows, then one over the made rows, for each subset. All features are held in memory.

    The interval of the mean is :func:`evaluation.metrics.intervals.normal` of its draws; a draw is MMD^2 over *all* pairs of
    different rows, weighted by how often their units were drawn: what the mean over subsets estimates. "std" has none.

    Args:
        made, truth: the same clips in the same order.
        gamma: None: 1 / dim.
        bootstrap: draws of units; 0: no interval.
        seed: of the subsets and of the draws; a generator goes on from where it is.

    Returns:
        "mean" and "std". The mean of equal distributions lies around zero and may be negative.

    Raises:
        InputError: as :func:`evaluation.metrics.frechet.distance`, or subsets larger than the sets.
    """
    units = intervals.paired_units(made, truth)
    x, y = (_rows(source, name) for source, name in ((made, "made"), (truth, "true")))
    if x.rows.shape[1] != y.rows.shape[1]:
        raise InputError(
            f"features: {x.rows.shape[1]} dimensions made, {y.rows.shape[1]} true; measure both with one network"
        )
    few = min(len(x.rows), len(y.rows))
    if not 2 <= subset_size <= few:
        raise InputError(
            f"KID subset size: {subset_size}, with {few} rows of features; set it between 2 and {few} (one size for all "
            "that is compared), or measure more clips"
        )
    if subsets < 1 or degree < 1:
        raise InputError(f"KID: {subsets} subsets of degree {degree}; give at least 1 of both")
    kernel = partial(_kernel, degree=degree, gamma=1 / x.rows.shape[1] if gamma is None else gamma, coef0=coef0)
    values = _over_subsets(x.rows, y.rows, kernel, subsets, subset_size, seed)
    mean, std = Spread(float(values.mean()), n=few), Spread(float(values.std()), n=few)
    if subset_size == max(len(x.rows), len(y.rows)) and subsets > 1:
        std.warnings.append("subsets are as large as the sets, so all are alike: how they scatter says nothing")
    if bootstrap:
        mean.warnings += intervals.doubts(units)
        if _seconds(x.rows, y.rows) > BUDGET_SEC:
            mean.warnings.append(f"no interval: with {few} rows it would take over {BUDGET_SEC / 60:g} minutes")
        elif len(set(units)) > 1:
            times = intervals.draw_units(units, bootstrap, seed if isinstance(seed, int) else seed.initial_seed())
            mean.draws = _over_all_pairs(x, y, kernel, times).tolist()
            mean.low, mean.high = intervals.normal(mean.value, mean.draws, len(set(units)))
    return {"mean": mean, "std": std}


def _rows(source: FeatureSource, name: str) -> Block:
    blocks = list(moments.blocks(source, name))
    if not blocks:
        raise InputError(f"{name}: no clips; give at least two")
    return Block(*(np.concatenate(part) for part in zip(*blocks)))


def _kernel(x: np.ndarray, y: np.ndarray, *, degree: int, gamma: float, coef0: float) -> np.ndarray:
    return (x @ y.T * gamma + coef0) ** degree


def _over_subsets(
    x: np.ndarray, y: np.ndarray, kernel: Kernel, subsets: int, size: int, seed: int | torch.Generator
) -> np.ndarray:
    """MMD^2 of each pair of subsets, float64 [subsets]."""
    import torch

    random = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    values = []
    for _ in range(subsets):
        true = y[torch.randperm(len(y), generator=random)[:size].numpy()].astype(np.float64)
        made = x[torch.randperm(len(x), generator=random)[:size].numpy()].astype(np.float64)
        within = 0.0
        for rows in (made, true):
            products = kernel(rows, rows)
            within += products.sum() - products.trace()
        values.append(within / (size * (size - 1)) - 2 * kernel(made, true).mean())
    return np.array(values)


def _over_all_pairs(x: Block, y: Block, kernel: Kernel, times: np.ndarray) -> np.ndarray:
    """MMD^2 over all pairs of different rows, each clip counted ``times`` [draws,clips]: float64 [draws].

    A row drawn twice makes no pair with itself: such pairs would count as perfect likeness and bias every draw.
    """
    made, true = times.T[x.clips].astype(np.float64), times.T[y.clips].astype(np.float64)
    within = np.zeros(len(times))
    for rows, weights in ((x.rows, made), (y.rows, true)):
        own = np.array([kernel(row[None], row[None]).item() for row in rows.astype(np.float64)])
        total = _weighted_sums(rows, weights, rows, weights, kernel) - (weights**2).T @ own
        within += total / (weights.sum(0) ** 2 - (weights**2).sum(0))
    across = _weighted_sums(x.rows, made, y.rows, true, kernel)
    return within - 2 * across / (made.sum(0) * true.sum(0))


def _weighted_sums(x: np.ndarray, u: np.ndarray, y: np.ndarray, v: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Of the kernel over all pairs of rows, weighted by ``u`` [n,draws] and ``v`` [m,draws]: [draws], a tile at a time."""
    total = np.zeros(u.shape[1])
    for i in range(0, len(x), TILE_ROWS):
        here = x[i : i + TILE_ROWS].astype(np.float64)
        for j in range(0, len(y), TILE_ROWS):
            products = kernel(here, y[j : j + TILE_ROWS].astype(np.float64))
            total += (u[i : i + TILE_ROWS] * (products @ v[j : j + TILE_ROWS])).sum(0)
    return total


def _seconds(x: np.ndarray, y: np.ndarray) -> float:
    """The work of an interval, from sizes alone, as seconds of one core."""
    n, m = len(x), len(y)
    return (n * n + m * m + n * m) * (4e-11 * x.shape[1] + 2e-8)
