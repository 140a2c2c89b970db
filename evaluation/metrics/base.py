"""What a metric is: values with names, directions and digits, and everything that they depend on.

A *clip metric* gives numbers for one clip; a table shows their mean over clips. A *set metric* turns every clip into features
once and gives one number for all clips together (FID, KID, FVD): features are cached by content and network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from evaluation.clip import Clip


@dataclass(frozen=True)
class Value:
    """One number that a metric gives.

    ``better`` is ``higher``, ``lower`` or ``none`` (a fact that is neither). ``needs_truth``: NaN without a true video.
    """

    name: str
    label: str
    better: str
    digits: int = 3
    unit: str = ""
    needs_truth: bool = True

    @property
    def sign(self) -> int:
        """+1, -1 or 0: what a difference is multiplied with so that positive is better."""
        return {"higher": 1, "lower": -1, "none": 0}[self.better]


@dataclass(frozen=True)
class Machine:
    """Where networks run, and how many pictures (or clips) at a time. Neither may change a result by more than 1e-6."""

    device: str = "cpu"
    batch_size: int = 16


@runtime_checkable
class ClipMetric(Protocol):
    """Numbers for one clip."""

    @property
    def values(self) -> tuple[Value, ...]:
        """What :meth:`measure` gives."""

    def protocol(self) -> dict[str, Any]:
        """Everything that the numbers depend on, for JSON: networks with sha256, resizing, windows, thresholds."""

    def measure(self, clip: Clip) -> dict[str, float]:
        """A number for each of ``values``; NaN where this clip has nothing to measure (no truth, no face).

        Raises:
            InputError: the clip cannot be measured under this metric's rules (too few frames, too small).
        """


class Extractor(Protocol):
    """Frames to features.

    ``key`` names the network with its weights' sha256 and the preprocessing: with the frames' own hash, a cache's key.
    """

    @property
    def key(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T,H,W,3] -> float32 [n,dim]: a row a frame (pictures) or a row a clip (video)."""


@dataclass
class Spread:
    """A number for a set, and how sure it is.

    ``draws`` are the values under bootstrap samples of units, in the order of their seeds: two methods measured on the same
    units have paired draws. ``low`` and ``high``: 95 %. ``n``: rows of features; ``warnings``: what a reader must know.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    draws: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class FeatureSource(Protocol):
    """The features of all clips of a set, read when asked for: memory does not grow with their number."""

    @property
    def units(self) -> Sequence[str]:
        """The unit of each clip."""

    def __len__(self) -> int:
        """Clips."""

    def read(self, i: int) -> np.ndarray:
        """float32 [n,dim] of clip i."""


@runtime_checkable
class SetMetric(Protocol):
    """One number for a set of made videos beside the set of true ones."""

    @property
    def values(self) -> tuple[Value, ...]:
        """What :meth:`distance` gives."""

    @property
    def extractor(self) -> Extractor:
        """Frames to features."""

    def protocol(self) -> dict[str, Any]:
        """As in :class:`ClipMetric`."""

    def distance(self, made: FeatureSource, truth: FeatureSource, *, bootstrap: int, seed: int) -> dict[str, Spread]:
        """A :class:`Spread` for each of ``values``; ``bootstrap`` draws (0: no interval)."""


@dataclass(frozen=True)
class MetricSpec:
    """How a metric is made: its settings' schema (a dataclass for :mod:`imanim.config`), its maker and the weights it needs."""

    settings: type
    build: Callable[[Any, Machine], ClipMetric | SetMetric]
    weights: Callable[[Any], Sequence[str]] = lambda settings: ()
    """Names for :func:`imanim.weights.require_all`, so that what is missing is said before the work."""


@dataclass
class NoSettings:
    """For metrics without settings."""
