"""How sure a number for a set is: a bootstrap over units, the same draws for everything measured on the same units.

Clips of one unit (one motion) fail together; to draw clips one by one would claim certainty that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from evaluation.metrics.base import FeatureSource
from imanim.errors import InputError

MIN_UNITS = 6
"""With fewer units an interval says little: see :data:`evaluation.summary.MIN_MOTIONS`."""


def draw_units(units: Sequence[str], bootstrap: int, seed: int) -> np.ndarray:
    """How often each clip is in each bootstrap draw: int64 [bootstrap, clips].

    A cluster bootstrap: each draw takes as many units as there are, with replacement, from the distinct units in sorted
    order, and each unit's clips come along together. It depends on the names of the units, ``bootstrap`` and ``seed`` alone, and
    the first draws do not depend on how many follow: two methods measured on the same units are drawn alike.

    Args:
        units: the unit of each clip.
    """
    if bootstrap < 0:
        raise InputError(f"bootstrap: {bootstrap}; give 0 (no interval) or more draws")
    distinct, unit_of_clip = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    if not len(distinct):
        raise InputError("bootstrap: no clips to draw from; measure at least two units")
    drawn = np.random.default_rng(seed).integers(len(distinct), size=(bootstrap, len(distinct)))
    times = np.zeros((bootstrap, len(distinct)), np.int64)
    np.add.at(times, (np.arange(bootstrap)[:, None], drawn), 1)
    return times[:, unit_of_clip]


def half_width_sd(units: int) -> float:
    """Half of a 95 % interval, in standard deviations of the draws: Student's t, and draws of n units vary by n-1 of n.

    With 1.96 instead, a chance difference over 6 motions is called sure in 13 % of all cases, not in 5 (Hesterberg 2015).
    """
    if units < 2:
        return float("inf")
    return float(stats.t.ppf(0.975, units - 1)) * math.sqrt(units / (units - 1))


def normal(value: float, draws: Sequence[float], units: int) -> tuple[float, float]:
    """95 %: the value +- :func:`half_width_sd` standard deviations of the draws; NaN with fewer than two draws.

    Not the draws' own percentiles: a draw repeats clips, which moves the distance of two distributions upwards, so the
    draws lie around another number than the value.
    """
    if len(draws) < 2:
        return float("nan"), float("nan")
    half = half_width_sd(units) * float(np.std(draws, ddof=1))
    return value - half, value + half


def paired_units(made: FeatureSource, truth: FeatureSource) -> list[str]:
    """The unit of each clip. Raises InputError when made and truth are not the same clips of the same units."""
    if len(made) != len(truth):
        raise InputError(f"features: {len(made)} made clips, {len(truth)} true ones; measure both on the same clips")
    for i, (one, other) in enumerate(zip(made.units, truth.units, strict=True)):
        if one != other:
            raise InputError(
                f"features: clip {i} is of unit `{one}` as made, `{other}` as true; give both in one order"
            )
    return list(made.units)


def doubts(units: Sequence[str]) -> list[str]:
    """What a reader of an interval over these units must know, in words."""
    count = len(set(units))
    if count < 2:
        return ["one unit alone: no interval; measure more motions"]
    return [f"{count} units: the interval is rough; measure at least {MIN_UNITS}"] if count < MIN_UNITS else []
