"""From rows (one a clip) to a table and to sentences that say no more than the numbers do.

A comparison is paired: the difference between two methods on the same clip. Its interval comes from a bootstrap that
draws *motions*, not clips: clips that share a motion fail together, and to count them one by one would claim certainty
that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]
"""key, split, level, motion (id), and ``methods``: {method: {metric: number or None}}."""

HIGHER_IS_BETTER = {
    "psnr": True,
    "ssim": True,
    "psnr_person": True,
    "ssim_person": True,
    "joint_error": False,
    "pck": True,
}
METRIC_NAMES = {
    "psnr": "PSNR, whole frame (dB)",
    "ssim": "SSIM, whole frame",
    "psnr_person": "PSNR inside the person (dB)",
    "ssim_person": "SSIM inside the person",
    "joint_error": "joint error (% of height)",
    "pck": "joints within 5 % of height (%)",
}
OURS = "ours"
_BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Comparison:
    """Ours against one baseline on one metric.

    ``gain`` is the mean paired difference, positive when ours is better; ``low`` and ``high`` its 95 % interval; ours is
    better on ``wins`` of ``clips`` clips from ``motions`` motions.
    """

    metric: str
    baseline: str
    gain: float
    low: float
    high: float
    wins: int
    clips: int
    motions: int

    @property
    def outcome(self) -> str:
        """``better``, ``worse`` or ``open`` (the interval holds zero)."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "open"


def means(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """{method: {metric: mean over the clips where it is a number}}."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for method, metrics in row["methods"].items():
            for metric, value in metrics.items():
                if value is not None:
                    values.setdefault(method, {}).setdefault(metric, []).append(value)
    return {method: {m: float(np.mean(v)) for m, v in metrics.items()} for method, metrics in values.items()}


def compare(rows: Sequence[Row], metric: str, baseline: str, *, seed: int = 0) -> Comparison | None:
    """Ours against a baseline; None when no clip has both."""
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    by_motion: dict[str, list[float]] = {}
    for row in rows:
        pair = [row["methods"].get(method, {}).get(metric) for method in (OURS, baseline)]
        if None not in pair:
            by_motion.setdefault(row["motion"], []).append(sign * (pair[0] - pair[1]))
    if not by_motion:
        return None
    gains = [np.asarray(g) for g in by_motion.values()]
    sums, counts = np.array([g.sum() for g in gains]), np.array([len(g) for g in gains])
    drawn = np.random.default_rng(seed).integers(len(gains), size=(_BOOTSTRAPS, len(gains)))
    draws = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    every = np.concatenate(gains)
    return Comparison(
        metric, baseline, float(every.mean()), float(low), float(high), int((every > 0).sum()), len(every), len(gains)
    )


def comparisons(rows: Sequence[Row], baselines: Mapping[str, Sequence[str]]) -> list[Comparison]:
    """Every metric against its baselines ({metric: methods}), those without clips left out."""
    found = [compare(rows, metric, name) for metric, names in baselines.items() for name in names]
    return [c for c in found if c is not None]


def sentence(comparison: Comparison) -> str:
    """One comparison in words."""
    c = comparison
    verb = {
        "better": "beats",
        "worse": "does not beat",
        "open": "is ahead of" if c.gain > 0 else "is behind",
    }[c.outcome]
    tail = "" if c.outcome != "open" else ", which may be chance"
    return (
        f"Ours {verb} `{c.baseline}` in {METRIC_NAMES[c.metric]} by {signed(c.gain, c.metric)} "
        f"[{signed(c.low, c.metric)}, {signed(c.high, c.metric)}] ({c.wins} of {c.clips} clips{tail})."
    )


def verdict(found: Sequence[Comparison]) -> str:
    """What all comparisons together allow to say, naming every baseline that ours does not surely beat."""
    if not found:
        return "Nothing was compared."
    beaten = [c for c in found if c.outcome == "better"]
    groups = {"does not beat": "worse", "is not surely apart from": "open"}
    rest = {
        words: ", ".join(f"`{c.baseline}` ({METRIC_NAMES[c.metric]})" for c in found if c.outcome == outcome)
        for words, outcome in groups.items()
    }
    clips, motions = max(c.clips for c in found), max(c.motions for c in found)
    text = f"On {clips} unseen clips of {motions} motions ours beats {len(beaten)} of {len(found)} baseline comparisons"
    if len(beaten) == len(found):
        return f"{text}: all of them."
    return text + "".join(f"; it {words} {names}" for words, names in rest.items() if names) + "."


def signed(value: float, metric: str) -> str:
    """+1.25 dB, -0.031: as many digits as a metric deserves."""
    digits = 3 if metric.startswith("ssim") else 1 if metric == "pck" else 2
    return f"{value:+.{digits}f}"


def finite(value: float) -> float | None:
    """A number for JSON: NaN (nothing to measure) and infinity (an exact copy) become None."""
    return value if math.isfinite(value) else None
