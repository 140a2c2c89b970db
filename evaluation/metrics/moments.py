"""Mean and covariance of many features in float64, one block of rows at a time.

Memory does not grow with the number of clips. Rows are taken in the order of the clips and added up in blocks of a fixed
number of rows, so the result does not know how the rows were cut into clips, batches or ranks: it is equal bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evaluation.metrics.base import FeatureSource
from imanim.errors import InputError

BLOCK_ROWS = 4096
"""Enough that adding a block's moments (a pass over dim x dim) costs little beside making them; 64 MiB at 2048 dimensions."""


class Block(NamedTuple):
    """Consecutive rows of a source: ``rows`` float32 [k,dim], and ``clips`` int64 [k], the clip that each is from."""

    rows: np.ndarray
    clips: np.ndarray


@dataclass(frozen=True)
class Moments:
    """``count`` rows, their ``mean`` float64 [dim] and ``scatter`` float64 [dim,dim], the sum of squares around the mean."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def dim(self) -> int:
        return len(self.mean)

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of rows together (Chan, Golub, LeVeque 1983)."""
        if self.dim != other.dim:
            raise InputError(f"features: {self.dim} and {other.dim} dimensions; measure both sets with one network")
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        step = other.mean - self.mean
        scatter = np.outer(step, step * (self.count * other.count / count))
        scatter += self.scatter
        scatter += other.scatter
        return Moments(count, self.mean + step * (other.count / count), scatter)

    def covariance(self, ddof: int = 1) -> np.ndarray:
        """float64 [dim,dim]: the scatter over ``count - ddof`` (1: unbiased; 0: as StyleGAN-V and cd-fvd divide)."""
        if self.count < 2:
            raise InputError(f"features: {self.count} rows have no covariance; measure at least 2")
        return self.scatter / (self.count - ddof)


def of_rows(rows: np.ndarray, times: np.ndarray | None = None) -> Moments:
    """The moments of ``rows`` [n,dim], each counted ``times`` [n] (whole numbers; None: once)."""
    rows = rows.astype(np.float64)
    if times is None:
        mean = rows.mean(0) if len(rows) else np.zeros(rows.shape[1])
        rows -= mean
        return Moments(len(rows), mean, rows.T @ rows)
    rows, times = rows[times > 0], times[times > 0]
    count = int(times.sum())
    mean = times @ rows / max(count, 1)
    rows = (rows - mean) * np.sqrt(times)[:, None]
    return Moments(count, mean, rows.T @ rows)


def of_blocks(blocks: Iterable[Block], times: np.ndarray | None = None) -> Moments:
    """The moments of all blocks, each clip counted ``times`` [clips] (None: once)."""
    total: Moments | None = None
    for rows, clips in blocks:
        here = of_rows(rows, None if times is None else times[clips])
        total = here if total is None else total.merged(here)
    if total is None:
        raise InputError("features: no clips; give at least 2 rows")
    return total


def of_source(source: FeatureSource, name: str = "features") -> Moments:
    """The moments of all features of a source; ``name`` it in errors. Raises as :func:`blocks`."""
    return of_blocks(blocks(source, name))


def blocks(source: FeatureSource, name: str = "features", rows: int = BLOCK_ROWS) -> Iterator[Block]:
    """The source's rows in its order, cut into blocks of ``rows`` whatever the clips' own lengths.

    Raises:
        InputError: features that are not finite, not [n,dim], or of another dimension than the first clip's.
    """
    waiting: list[Block] = []
    held, dim = 0, 0
    for i in range(len(source)):
        features = source.read(i)
        _check(features, dim, f"{name}: clip {i} ({source.units[i]})")
        dim = features.shape[1]
        waiting.append(Block(features, np.full(len(features), i)))
        held += len(features)
        while held >= rows:
            whole = _joined(waiting)
            yield Block(whole.rows[:rows], whole.clips[:rows])
            waiting = [Block(whole.rows[rows:], whole.clips[rows:])]
            held -= rows
    if held:
        yield _joined(waiting)


def _joined(parts: list[Block]) -> Block:
    return Block(np.concatenate([p.rows for p in parts]), np.concatenate([p.clips for p in parts]))


def _check(features: np.ndarray, dim: int, name: str) -> None:
    if features.ndim != 2 or not features.size:
        raise InputError(f"{name}: features are {list(features.shape)}; give [rows, dimensions], at least one of each")
    if dim and features.shape[1] != dim:
        raise InputError(
            f"{name}: features have {features.shape[1]} dimensions, the clips before {dim}; measure all with one network"
        )
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).sum())
        raise InputError(
            f"{name}: {bad} of {features.size} features are NaN or infinite; look at the video, or measure it in float32"
        )
