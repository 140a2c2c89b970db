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
SHORT_NAMES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "psnr_person": "PSNR inside the person",
    "ssim_person": "SSIM inside the person",
    "joint_error": "joint error",
    "pck": "PCK",
}
BASELINE_NAMES = {
    "hold": "holding still",
    "hold_autoencoder": "holding still (autoencoded)",
    "driver": "the driver's own video",
    "copy": "copied true joints",
    "scale_shift": "scaled true joints",
    "bone_length": "2D bone lengths",
}
OURS = "ours"
MIN_MOTIONS = 6
"""With fewer motions even a win on every one of them may be chance (two-sided sign test: 2 / 2**6 = 3 %)."""
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
        """``better``, ``worse`` or ``open`` (the interval holds zero, or too few motions were seen)."""
        if self.motions < MIN_MOTIONS:
            return "open"
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
    verb = {"better": "beats", "worse": "does not beat", "open": "is ahead of" if c.gain > 0 else "is behind"}[
        c.outcome
    ]
    doubt = "" if c.outcome != "open" else ", which may be chance"
    if c.motions < MIN_MOTIONS:
        doubt = f", too few motions ({c.motions}) to be sure"
    return (
        f"Ours {verb} {BASELINE_NAMES[c.baseline]} in {METRIC_NAMES[c.metric]} by {signed(c.gain, c.metric)} "
        f"[{signed(c.low, c.metric)}, {signed(c.high, c.metric)}] ({c.wins} of {c.clips} clips{doubt})."
    )


def verdict(found: Sequence[Comparison]) -> str:
    """What all comparisons together allow to say, naming every baseline that ours does not surely beat."""
    if not found:
        return "Nothing was compared."
    clips, motions = max(c.clips for c in found), max(c.motions for c in found)
    start = f"On {clips} clips of unseen people and {motions} motions, "
    if all(c.outcome == "better" for c in found):
        return f"{start}ours beats every baseline in every measure."
    words = {"better": "ours beats", "worse": "it does not beat", "open": "it is not surely better or worse than"}
    said = [
        f"{words[o]} {_grouped([c for c in found if c.outcome == o])}"
        for o in words
        if any(c.outcome == o for c in found)
    ]
    if not any(c.outcome == "better" for c in found):
        said.insert(0, "ours surely beats no baseline yet")
    return start + "; ".join(said) + "."


def _grouped(found: Sequence[Comparison]) -> str:
    """Baselines by measure: "a and b in PSNR, a in SSIM"."""
    by_metric: dict[str, list[str]] = {}
    for c in found:
        by_metric.setdefault(c.metric, []).append(BASELINE_NAMES[c.baseline])
    by_names: dict[str, list[str]] = {}
    for metric, names in by_metric.items():
        by_names.setdefault(_and(names), []).append(SHORT_NAMES[metric])
    return ", ".join(f"{names} in {_and(metrics)}" for names, metrics in by_names.items())


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def signed(value: float, metric: str) -> str:
    """+1.25 dB, -0.031: as many digits as a metric deserves."""
    digits = 3 if metric.startswith("ssim") else 1 if metric == "pck" else 2
    return f"{value:+.{digits}f}"


def finite(value: float) -> float | None:
    """A number for JSON: NaN (nothing to measure) and infinity (an exact copy) become None."""
    return value if math.isfinite(value) else None
