"""The registry of motion families and the draws that every family shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_pipeline.doubles.motions.score import Score

Array = np.ndarray
Family = Callable[["Draw", np.ndarray], Score]

FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Register a family under its function's name. A family must draw its random numbers independently of len(t)."""
    FAMILIES[function.__name__] = function
    return function


@dataclass
class Draw:
    """What a seed varies in every family."""

    rng: np.random.Generator
    side: str  # the leading side, "L" or "R"
    other: str
    hz: float  # cycles a second
    phase: float  # where in its cycle the motion starts, 0..1
    amp: float  # 0.8..1.15 of the family's nominal size

    @classmethod
    def from_rng(cls, rng: np.random.Generator) -> Draw:
        side = "LR"[int(rng.integers(2))]
        other = "R" if side == "L" else "L"
        return cls(
            rng, side, other, float(rng.uniform(0.55, 0.95)), float(rng.uniform(0, 1)), float(rng.uniform(0.8, 1.15))
        )

    def cycles(self, t: Array, tempo: float = 1.0) -> Array:
        """Cycles done by time t, starting at this draw's phase."""
        return t * self.hz * tempo + self.phase

    def pick(self, *names: str) -> str:
        return str(self.rng.choice(names))
