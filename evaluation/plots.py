"""Plots of a result as inline SVG: colours follow the page's light or dark looks, and numbers show under the pointer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from evaluation import results
from evaluation.markup import text
from evaluation.metrics.base import Value
from evaluation.results import OURS, Result, method_name

_WIDTH, _MARGIN, _LANE = 340, 34, 30
_SCATTER = 210
_MOST_DOTS = 200
_MOST_POINTS = 500
_COLOURS = ("--c1", "--c2", "--c3", "--c4", "--c5")


def colours(methods: Sequence[str]) -> dict[str, str]:
    """A CSS colour a method, the same for one method in every plot of a page."""
    others = [method for method in results.ordered(methods) if method != OURS]
    found = {method: f"var({_COLOURS[i % len(_COLOURS)]})" for i, method in enumerate(others)}
    return {OURS: "var(--ours)", **found}


def per_clip(result: Result, value: str) -> dict[str, dict[str, float]]:
    """{method: {key: number}} of the clips that have one, methods in a table's order."""
    found: dict[str, dict[str, float]] = {}
    for row in result["rows"]:
        for method, numbers in row["methods"].items():
            if numbers.get(value) is not None:
                found.setdefault(method, {})[row["key"]] = numbers[value]
    return {method: found[method] for method in results.ordered(list(found))}


def rival(result: Result, value: Value, numbers: Mapping[str, Mapping[str, float]]) -> str | None:
    """The best baseline of a value, by its mean; None when there is none."""
    means = {m: results.mean(result, m, value.name) for m in numbers if method_name(m).baseline}
    known = {method: mean for method, mean in means.items() if mean is not None}
    return max(known, key=lambda m: value.sign * known[m]) if known and value.sign else None


def distributions(result: Result, value: Value) -> str:
    """A lane a method: clips as dots, their middle half as a band, the mean as a bar. Empty without numbers."""
    numbers = per_clip(result, value.name)
    if not numbers:
        return ""
    every = [number for found in numbers.values() for number in found.values()]
    place, low, high = _scale(min(every), max(every), 6, _WIDTH - 6)
    tint = colours(result["methods"])
    bottom = _LANE * len(numbers)
    marks = list(_axis(low, high, place, bottom))
    for i, (method, found) in enumerate(numbers.items()):
        marks.append(_lane(method, np.sort(list(found.values())), i * _LANE, place, value, tint[method]))
    return _figure(_WIDTH, bottom + 20, f"{results.title(value)} {results.arrow(value)}", marks)


def _lane(method: str, found: np.ndarray, top: float, place: Callable[[float], float], value: Value, ink: str) -> str:
    y = top + 21
    shown = found[np.unique(np.linspace(0, len(found) - 1, min(_MOST_DOTS, len(found))).round().astype(int))]
    dots = "".join(f"M{place(x):.1f} {y + (i * 7 % 5 - 2) * 1.5:.1f}h0" for i, x in enumerate(shown))
    first, third = np.percentile(found, [25, 75])
    mean = float(found.mean())
    numbers = f"mean {results.number(mean, value)}, median {results.number(float(np.median(found)), value)}"
    told = f"{method_name(method).title}: {numbers}"
    return (
        f"<g><title>{text(told)}, {len(found)} clips</title>"
        f'<text class="name" x="6" y="{top + 11}">{text(method_name(method).words)}</text>'
        f'<path class="box" stroke="{ink}" d="M{place(first):.1f} {y}H{max(place(third), place(first) + 0.5):.1f}"/>'
        f'<path class="dots" stroke="{ink}" d="{dots}"/>'
        f'<path class="mean" stroke="{ink}" d="M{place(mean):.1f} {y - 7}v14"/></g>'
    )


def scatter(result: Result, value: Value) -> str:
    """Ours against the best baseline, a dot a clip, equal on the diagonal. Empty without a baseline or without clips of both."""
    numbers = per_clip(result, value.name)
    other = rival(result, value, numbers)
    ours = numbers.get(OURS, {})
    keys = [key for key in ours if other is not None and key in numbers[other]]
    if other is None or not keys:
        return ""
    pairs = [(numbers[other][key], ours[key]) for key in keys]
    low, high = min(map(min, pairs)), max(map(max, pairs))
    across, low, high = _scale(low, high, _MARGIN, _WIDTH - 6)
    side = _SCATTER
    up = lambda v: side - (v - low) / (high - low) * (side - 6)  # noqa: E731
    marks = [*_axis(low, high, across, side), *_upright(low, high, up)]
    marks.append(f'<path class="axis" d="M{across(low):.1f} {up(low):.1f}L{across(high):.1f} {up(high):.1f}"/>')
    better = sum(value.sign * (y - x) > 0 for x, y in pairs)
    for key, (x, y) in _thinned(list(zip(keys, pairs))):
        told = f"{key}: ours {results.number(y, value)}, {method_name(other).words} {results.number(x, value)}"
        marks.append(
            f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="var(--ours)"><title>{text(told)}</title></circle>'
        )
    # The corner where ours is better than the baseline is above the diagonal only when higher is better.
    corner = f'x="{_MARGIN + 6}" y="14"' if value.sign > 0 else f'x="{_WIDTH - 10}" y="{side - 8}" text-anchor="end"'
    marks.append(f"<text {corner}>ours better here: {better} of {len(pairs)}</text>")
    heading = f"{results.title(value)}: ours (up) against {method_name(other).words} (across)"
    return _figure(_WIDTH, side + 20, heading, marks)


def by_level(result: Result, value: Value, levels: Sequence[str]) -> str:
    """Means with 95 % intervals over the levels, a line a method. Empty when ours has fewer than two levels."""
    found = {
        method: [(i, mean) for i, level in enumerate(levels) if (mean := _of(result, method, value, level)) is not None]
        for method in results.ordered(result["methods"])
    }
    found = {method: points for method, points in found.items() if points}
    if len(found.get(OURS, ())) < 2:
        return ""
    ends = {
        (m, i): results.interval(result, m, value.name, levels[i]) or (y, y) for m, p in found.items() for i, y in p
    }
    place, low, high = _scale(min(e[0] for e in ends.values()), max(e[1] for e in ends.values()), 150, 8)
    step = (_WIDTH - _MARGIN - 40) / max(1, len(levels) - 1)
    across = lambda i: _MARGIN + 20 + i * step  # noqa: E731
    marks = list(_upright(low, high, place))
    marks += [f'<text x="{across(i):.1f}" y="168" text-anchor="middle">{text(n)}</text>' for i, n in enumerate(levels)]
    tint = colours(result["methods"])
    for nth, (method, points) in enumerate(found.items()):
        ink, shift = tint[method], (nth - (len(found) - 1) / 2) * 3
        path = "L".join(f"{across(i) + shift:.1f} {place(y):.1f}" for i, y in points)
        bars = "".join(
            f"M{across(i) + shift:.1f} {place(ends[method, i][0]):.1f}V{place(ends[method, i][1]):.1f}"
            for i, _ in points
        )
        told = ", ".join(f"{levels[i]} {results.number(y, value)}" for i, y in points)
        top = 186 + 14 * nth
        marks.append(
            f"<g><title>{text(f'{method_name(method).title}: {told}')}</title>"
            f'<path class="line" stroke="{ink}" d="M{path}"/><path class="line" stroke="{ink}" d="{bars}" opacity=".5"/>'
            f'<path class="mean" stroke="{ink}" d="M{_MARGIN} {top - 3.5}h12"/>'
            f'<text class="name" x="{_MARGIN + 18}" y="{top}">{text(method_name(method).words)}</text></g>'
        )
    return _figure(_WIDTH, 182 + 14 * len(found), f"{results.title(value)} {results.arrow(value)}", marks)


def _of(result: Result, method: str, value: Value, level: str) -> float | None:
    return results.mean(result, method, value.name, level)


def _thinned(points: list) -> list:
    if len(points) <= _MOST_POINTS:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int)]


# --------------------------------------------------------------------------------------------------------------- axes


def _scale(low: float, high: float, start: float, end: float) -> tuple[Callable[[float], float], float, float]:
    """(number to place, the ends of the axis): a twentieth of room at both ends, and an axis even for equal numbers."""
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    low, high = low - room, high + room
    return lambda v: start + (v - low) / (high - low) * (end - start), low, high


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(t) for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]


def _axis(low: float, high: float, place: Callable[[float], float], y: float) -> Iterator[str]:
    yield f'<path class="axis" d="M{place(low):.1f} {y}H{place(high):.1f}"/>'
    for tick in _ticks(low, high):
        x = place(tick)
        anchor = "end" if x > _WIDTH - 14 else "start" if x < 14 else "middle"
        yield f'<text x="{x:.1f}" y="{y + 13}" text-anchor="{anchor}">{tick:g}</text>'


def _upright(low: float, high: float, place: Callable[[float], float]) -> Iterator[str]:
    yield f'<path class="axis" d="M{_MARGIN} {place(low):.1f}V{place(high):.1f}"/>'
    for tick in _ticks(low, high):
        yield f'<text x="{_MARGIN - 4}" y="{place(tick) + 3:.1f}" text-anchor="end">{tick:g}</text>'


def _figure(width: float, height: float, heading: str, marks: Sequence[str]) -> str:
    return (
        f'<figure><svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{text(heading)}">'
        f"{''.join(marks)}</svg><figcaption>{text(heading)}</figcaption></figure>"
    )
