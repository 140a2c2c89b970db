"""Random keys reached one after another: for families that move between poses drawn."""

from __future__ import annotations

import numpy as np

from data_pipeline.doubles.motions import rotations as rot
from data_pipeline.doubles.motions.score import ease

Array = np.ndarray
COUNT = 24  # keys drawn for a motion; they repeat after that many


class Keys:
    """When keys follow each other: one a ``period`` (seconds), the first ``offset`` of a period before time 0. The next one is
    reached smoothly after the share ``moving`` of a period and held for the rest."""

    def __init__(self, t: Array, period: float, offset: float, moving: float):
        x = t / period + offset + 4
        self._at = np.floor(x).astype(int)
        self._progress = ease((x - self._at) / moving)

    def numbers(self, keys: Array) -> Array:
        """Keys [COUNT] to [T]."""
        a, b = self._around(keys)
        return a + (b - a) * self._progress

    def directions(self, keys: Array) -> Array:
        """Unit keys [COUNT,3] to [T,3], along great circles."""
        a, b = self._around(keys)
        way = rot.to_vector(rot.shortest(a, b)) * self._progress[:, None]
        return rot.apply(rot.from_vector(way), a)

    def _around(self, keys: Array) -> tuple[Array, Array]:
        return keys[self._at % len(keys)], keys[(self._at + 1) % len(keys)]
