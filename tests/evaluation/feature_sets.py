"""Features made up for tests: unlike in mean and covariance, clips of one unit alike."""

from collections.abc import Sequence

import numpy as np


class Features:
    """A feature source in memory."""

    def __init__(self, clips: Sequence[np.ndarray], units: Sequence[str] | None = None):
        self.clips = list(clips)
        self.units = [f"u{i}" for i in range(len(self.clips))] if units is None else list(units)

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, i: int) -> np.ndarray:
        return self.clips[i]


def rows(count: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """float32 [count,dim]: correlated, standard deviations from 1 to 0.01 (as networks' features are), mean ``shift``."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed % 2).normal(size=(dim, dim)))
    scaled = rng.normal(size=(count, dim)) * np.geomspace(1, 0.01, dim)
    return (scaled @ turn + shift).astype(np.float32)


def cut(all_rows: np.ndarray, lengths: Sequence[int], units: Sequence[str] | None = None) -> Features:
    """The rows as clips of these lengths."""
    assert sum(lengths) == len(all_rows)
    return Features(np.split(all_rows, np.cumsum(lengths)[:-1]), units)


def single(all_rows: np.ndarray, units: Sequence[str] | None = None) -> Features:
    """A clip a row."""
    return Features([row[None] for row in all_rows], units)
