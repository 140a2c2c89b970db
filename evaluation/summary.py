"""From rows (one a clip) to a table and to sentences that say no more than the numbers do.

A comparison is paired: the difference between two methods on the same clip. Its interval comes from a bootstrap that
draws *units* (motions), not clips: clips that share a motion fail together, and to count them one by one would claim
certainty that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

from evaluation.metrics.base import Value
from evaluation.metrics.intervals import half_width_sd
from evaluation.results import ALL, OURS, method_name, ordered, short, signed, title

Row = Mapping[str, Any]
"""key, unit (what is drawn), split, labels (level, ...), and ``methods``: {method: {value name: number or None}}."""

Sets = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
"""{group: {method: {value name: value, low, high, n, draws, warnings}}}."""

MIN_MOTIONS = 6
"""With fewer motions even a win on every one of them may be chance (two-sided sign test: 2 / 2**6 = 3 %)."""
_BOOTSTRAPS = 4000
_MANY_BASELINES = 3
"""So many baselines, all of them beaten or none, are not named one by one."""


@dataclass(frozen=True)
class Comparison:
    """Ours against one baseline on one value.

    ``gain`` is the mean paired difference, positive when ours is better; ``low`` and ``high`` its 95 % interval; ours is
    better on ``wins`` of ``clips`` clips from ``units`` motions. A set value has one number for all clips: no ``wins``.
    """

    value: str
    baseline: str
    gain: float
    low: float
    high: float
    wins: int | None
    clips: int
    units: int

    @property
    def outcome(self) -> str:
        """``better``, ``worse`` or ``open``: see :func:`outcome`."""
        return outcome(self.low, self.high, self.units)


def outcome(low: float, high: float, units: int) -> str:
    """What a gain's interval allows to say: ``better``, ``worse`` or ``open`` (it holds zero, or too few motions were seen)."""
    if units < MIN_MOTIONS:
        return "open"
    return "better" if low > 0 else "worse" if high < 0 else "open"


# ------------------------------------------------------------------------------------------------------------- numbers


def group_rows(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The groups that a table is made for: ``all``, every split where there are several, and every labelled level."""
    rows = list(rows)
    groups: dict[str, list[Row]] = {ALL: rows}
    splits = sorted({row["split"] for row in rows if row.get("split")})
    for split in splits if len(splits) > 1 else ():
        groups[f"split {split}"] = [row for row in rows if row.get("split") == split]
    for level in sorted({_level(row) for row in rows} - {""}):
        groups[level] = [row for row in rows if _level(row) == level]
    return groups


def _level(row: Row) -> str:
    level = str(row["labels"].get("level") or "")
    return "" if level == ALL else level


def summarise(
    rows: Iterable[Row],
    values: Mapping[str, Value],
    *,
    sets: Sets | None = None,
    baselines: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Every group's ``clips``, ``units``, ``means``, ``intervals``, ``counted``, ``comparisons`` and ``verdict``, for JSON.

    Args:
        values: by name; those without a direction get means, but no comparisons.
        sets: set values of groups named as in :func:`group_rows`; they are compared too where their draws are paired.
        baselines: {value name: methods that ours must beat}; None: every baseline that has a number.
    """
    out = {}
    for name, members in group_rows(rows).items():
        found = comparisons(members, values, baselines)
        found += set_comparisons(members, (sets or {}).get(name, {}), values, baselines)
        clips = {"clips": len(members), "units": len({row["unit"] for row in members})}
        told = [{**vars(c), "outcome": c.outcome, "sentence": sentence(c, values)} for c in found]
        out[name] = {**clips, **means(members), "comparisons": told, "verdict": verdict(found, values)}
    return out


def means(rows: Iterable[Row], *, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """Over the clips where a value is a number, {method: {value name: ...}} of

    ``means``; ``intervals``: [low, high], 95 % over motions, where there are two of them; ``counted``: how many clips.
    """
    found: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for row in rows:
        for method, numbers in row["methods"].items():
            for name, number in numbers.items():
                if number is not None:
                    found.setdefault(method, {}).setdefault(name, []).append((row["unit"], number))
    out: dict[str, dict[str, dict[str, Any]]] = {"means": {}, "intervals": {}, "counted": {}}
    for method, numbers in found.items():
        for name, pairs in numbers.items():
            units, amounts = [u for u, _ in pairs], np.array([n for _, n in pairs], np.float64)
            out["means"].setdefault(method, {})[name] = float(amounts.mean())
            out["counted"].setdefault(method, {})[name] = len(pairs)
            if len(set(units)) > 1:
                out["intervals"].setdefault(method, {})[name] = list(interval(units, amounts, seed=seed))
    return out


def interval(units: Sequence[str], amounts: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean under draws of units: percentiles of 4000 seeded draws, whatever the order of the clips.

    The percentiles are the expanded ones of Hesterberg (2015, What Teachers Should Know About the Bootstrap): the usual 2.5
    and 97.5 are too narrow for few units (with 6 they call 13 % of chance differences sure, these 6 %).

    Args:
        units: of each amount. amounts: float64 [n].
    """
    names, place = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    weights = _weights(len(names), seed)
    sums, counts = np.bincount(place, amounts), np.bincount(place).astype(np.float64)
    tail = 100 * stats.norm.cdf(-half_width_sd(len(names)))
    low, high = np.percentile((weights @ sums) / (weights @ counts), [tail, 100 - tail])
    return float(low), float(high)


@lru_cache(maxsize=16)
def _weights(units: int, seed: int) -> np.ndarray:
    """How often each unit is in each draw, float64 [draws,units]."""
    drawn = np.random.default_rng(seed).integers(units, size=(_BOOTSTRAPS, units))
    at = drawn + units * np.arange(_BOOTSTRAPS)[:, None]
    return np.bincount(at.ravel(), minlength=_BOOTSTRAPS * units).reshape(_BOOTSTRAPS, units).astype(np.float64)


def compare(rows: Iterable[Row], value: Value, baseline: str, *, seed: int = 0) -> Comparison | None:
    """Ours against a baseline; None when no clip has both."""
    units: list[str] = []
    gains: list[float] = []
    for row in rows:
        ours, other = (row["methods"].get(method, {}).get(value.name) for method in (OURS, baseline))
        if ours is not None and other is not None:
            units.append(row["unit"])
            gains.append(value.sign * (ours - other))
    if not gains:
        return None
    every = np.asarray(gains, np.float64)
    low, high = interval(units, every, seed=seed)
    wins = int((every > 0).sum())
    return Comparison(value.name, baseline, float(every.mean()), low, high, wins, len(every), len(set(units)))


def comparisons(
    rows: Sequence[Row], values: Mapping[str, Value], baselines: Mapping[str, Sequence[str]] | None = None
) -> list[Comparison]:
    """Every value that has a direction against its baselines, those without common clips left out.

    ``baselines``: {value name: methods}; None: every baseline in the rows.
    """
    methods = {method for row in rows for method in row["methods"]}
    found = [compare(rows, value, method) for value, method in _wanted(values, methods, baselines)]
    return [c for c in found if c is not None]


def set_comparisons(
    rows: Sequence[Row],
    spreads: Mapping[str, Mapping[str, Mapping[str, Any]]],
    values: Mapping[str, Value],
    baselines: Mapping[str, Sequence[str]] | None = None,
) -> list[Comparison]:
    """As :func:`comparisons` for a group's set values; those whose draws are not paired are left out."""
    found = []
    units = len({row["unit"] for row in rows})
    for value, method in _wanted(values, spreads, baselines):
        ours, other = (spreads.get(m, {}).get(value.name) for m in (OURS, method))
        if ours is None or other is None or ours["n"] != other["n"] or None in (ours["value"], other["value"]):
            continue
        gain, low, high = paired_spread(ours, other, value.sign, units)
        if low is not None and high is not None:
            found.append(Comparison(value.name, method, gain, low, high, None, len(rows), units))
    return found


def paired_spread(
    one: Mapping[str, Any], other: Mapping[str, Any], sign: int, units: int
) -> tuple[float, float | None, float | None]:
    """(gain of one over the other, the ends of its 95 % interval) of a set value of ``units`` motions; no ends without
    paired draws, or for one motion.

    Draws repeat clips, which shifts both distances alike: the spread of their differences says how sure the gain is, their
    mean does not say how large it is.
    """
    gain = sign * (one["value"] - other["value"])
    if units < 2 or not len(one["draws"]) == len(other["draws"]) > 1:
        return gain, None, None
    off = np.asarray(one["draws"], np.float64) - np.asarray(other["draws"], np.float64)
    half = half_width_sd(units) * float(off.std(ddof=1))
    return gain, gain - half, gain + half


def _wanted(
    values: Mapping[str, Value], methods: Iterable[str], baselines: Mapping[str, Sequence[str]] | None
) -> list[tuple[Value, str]]:
    """(value, baseline) in the order in which they are told."""
    every = [method for method in ordered(sorted(methods)) if method_name(method).baseline]
    directed = {name: value for name, value in values.items() if value.sign}
    return [
        (v, method) for n, v in directed.items() for method in (every if baselines is None else baselines.get(n, ()))
    ]


# --------------------------------------------------------------------------------------------------------------- words


def sentence(comparison: Comparison, values: Mapping[str, Value]) -> str:
    """One comparison in words."""
    c, value = comparison, values[comparison.value]
    verb = {"better": "beats", "worse": "does not beat", "open": "is ahead of" if c.gain > 0 else "is behind"}[
        c.outcome
    ]
    doubt = "" if c.outcome != "open" else ", which may be chance"
    if c.units < MIN_MOTIONS:
        doubt = f", too few {units_word(c.units, c.clips)} ({c.units}) to be sure"
    wins = f"{c.clips} clips as one set" if c.wins is None else f"{c.wins} of {c.clips} clips"
    return (
        f"Ours {verb} {method_name(c.baseline).words} in {title(value)} by {signed(c.gain, value)} "
        f"[{signed(c.low, value)}, {signed(c.high, value)}] ({wins}{doubt})."
    )


def verdict(found: Sequence[Comparison], values: Mapping[str, Value]) -> str:
    """What all comparisons together allow to say, naming every baseline that ours does not surely beat."""
    if not found:
        return "Nothing was compared."
    start = f"On {how_many(max(c.clips for c in found), max(c.units for c in found))}, "
    if all(c.outcome == "better" for c in found):
        return f"{start}ours beats every baseline in every measure."
    words = {"better": "ours beats", "worse": "it does not beat", "open": "it is not surely better or worse than"}
    said = [f"{words[o]} {_grouped(found, o, values)}" for o in words if any(c.outcome == o for c in found)]
    if not any(c.outcome == "better" for c in found):
        said.insert(0, "ours surely beats no baseline yet")
    return start + "; ".join(said) + "."


def how_many(clips: int, units: int) -> str:
    """``24 clips of 8 motions``; clips that are their own units are not named twice."""
    noun = "clip" if clips == 1 else "clips"
    return f"{clips} {noun}" if units == clips else f"{clips} {noun} of {units} {units_word(units, clips)}"


def units_word(units: int, clips: int) -> str:
    """What the units are: motions that clips share, or the clips themselves."""
    word = "clip" if units == clips else "motion"
    return word if units == 1 else word + "s"


def _grouped(found: Sequence[Comparison], wanted: str, values: Mapping[str, Value]) -> str:
    """Baselines by measure: "a and b in PSNR, a in SSIM"."""
    by_value: dict[str, list[str]] = {}
    compared: dict[str, int] = {}
    for c in found:
        compared[c.value] = compared.get(c.value, 0) + 1
        if c.outcome == wanted:
            by_value.setdefault(c.value, []).append(method_name(c.baseline).words)
    by_names: dict[str, list[str]] = {}
    for name, baselines in by_value.items():
        every = len(baselines) == compared[name] >= _MANY_BASELINES
        said = ("any baseline" if wanted != "better" else "every baseline") if every else listed(baselines)
        by_names.setdefault(said, []).append(short(values[name]))
    return ", ".join(f"{names} in {listed(measures)}" for names, measures in by_names.items())


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def finite(value: float) -> float | None:
    """A number for JSON: NaN (nothing to measure) and infinity (an exact copy) become None."""
    return value if math.isfinite(value) else None
