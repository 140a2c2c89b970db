"""The page's plots as PNG, drawn from the kept results alone, so that they can be drawn again without measuring."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation import results
from evaluation.evidence.targets import grid_levels
from evaluation.evidence.trim import CELLS
from evaluation.metrics.base import Value
from evaluation.results import OURS, method_name

Kept = Mapping[str, Any]
COLOURS = {
    OURS: "#1f6f8b",
    "copy": "#a63a2b",
    "scale_shift": "#d1663f",
    "bone_length": "#5a8f4e",
    "hold": "#777d83",
    "driver": "#7a5aa6",
    "hold_autoencoder": "#a9aeb3",
    "tokens": "#a3852a",
    "autoencoder": "#c9b458",
}
_OTHER = "#333333"
_ARMS = ("#1f6f8b", "#a63a2b", "#5a8f4e", "#7a5aa6")
_DPI = 130


def by_level(scores: Kept, shown: Sequence[str], scope: str = CELLS) -> bytes | None:
    """Values over the levels, a panel each, a line a method, bars the 95 % intervals over motions; None without two levels.

    Ceilings and what only stands beside are left out: they would flatten the rest.
    """
    from matplotlib.figure import Figure

    levels, known = grid_levels(scores, scope), results.values(scores)
    panels = [known[name] for name in shown if name in known and _has(scores, scope, levels, name)]
    if len(levels) < 2 or not panels:
        return None
    figure = Figure(figsize=(3.5 * len(panels), 3.1), dpi=_DPI, layout="constrained")
    for place, value in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        methods = [m for m in results.ordered(scores["methods"]) if m == OURS or method_name(m).baseline]
        lines = {m: points for m in methods if (points := _points(scores["groups"][scope], levels, m, value.name))}
        for nth, (method, points) in enumerate(lines.items()):
            # Beside each other, so that bars do not hide each other.
            beside = 0.04 * (nth - (len(lines) - 1) / 2)
            _line(axes, [(x + beside, mean, low, high) for x, mean, low, high in points], method)
        axes.set_xticks(range(len(levels)), levels)
        _finish(axes, value)
    return _png(figure)


def _points(groups: Kept, levels: Sequence[str], method: str, value: str) -> list[tuple[float, float, float, float]]:
    out = []
    for x, level in enumerate(levels):
        mean = groups[level]["means"].get(method, {}).get(value)
        if mean is not None:
            low, high = groups[level]["intervals"].get(method, {}).get(value) or (mean, mean)
            out.append((float(x), mean, low, high))
    return out


def _has(scores: Kept, scope: str, levels: Sequence[str], value: str) -> bool:
    return any(value in scores["groups"][scope][level]["means"].get(OURS, {}) for level in levels)


def by_gap(scores: Kept, arms: Kept | None = None) -> bytes | None:
    """Errors over the gap between driver's and character's size, a panel a value; None where no sample states its gap.

    ``arms``: of :func:`evaluation.evidence.trim.arm_gaps`, a panel a value more.
    """
    from matplotlib.figure import Figure

    panels = _gap_panels(scores["gaps"], results.values(scores), "")
    panels += _gap_panels(arms["bins"], results.values(arms), "ablation: ") if arms else []
    if not panels:
        return None
    figure = Figure(figsize=(4.6 * len(panels), 3.4), dpi=_DPI, layout="constrained")
    for place, (heading, value, bins) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        methods = {method for found in bins for method in found["values"].get(value.name, {})}
        shown = [m for m in results.ordered(sorted(methods)) if m == OURS or method_name(m).baseline]
        for nth, method in enumerate(shown):
            of = [(b["middle"], b["values"].get(value.name, {}).get(method)) for b in bins]
            # Arms have no colour of their own in every picture.
            colour = COLOURS.get(method) or _ARMS[nth % len(_ARMS)]
            _line(axes, [(x, *found) for x, found in of if found], method, colour)
        axes.axvline(0, color="#cccccc", linewidth=0.8, zorder=0)
        axes.set_xlabel("log of character's over driver's size (left of 0: the driver is larger)", fontsize=8)
        _finish(axes, value, heading=heading)
    return _png(figure)


def _gap_panels(
    bins: Sequence[Kept], known: Mapping[str, Value], heading: str
) -> list[tuple[str, Value, Sequence[Kept]]]:
    if len(bins) < 2:
        return []
    return [(heading, known[name], bins) for name in bins[0]["values"] if name in known]


def arms(rows: Sequence[tuple[str, Sequence[float]]], label: str) -> bytes | None:
    """Arms of the ablation: a lane an arm, a dot a seed, a bar their mean; the first arm's mean as a line through all."""
    from matplotlib.figure import Figure

    shown = [(name, found) for name, found in rows if found]
    if len(shown) < 2:
        return None
    figure = Figure(figsize=(5.6, 0.9 + 0.28 * len(shown)), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    means = [sum(found) / len(found) for _, found in shown]
    axes.axvline(means[0], color="#cccccc", linewidth=0.8, zorder=0)
    for lane, ((_, found), mean) in enumerate(zip(shown, means)):
        colour = COLOURS[OURS] if lane == 0 else _OTHER
        axes.plot(found, [lane] * len(found), "o", color=colour, markersize=4, alpha=0.5)
        axes.plot([mean, mean], [lane - 0.3, lane + 0.3], color=colour, linewidth=2)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=8)
    _plain(axes)
    return _png(figure)


# ---------------------------------------------------------------------------------------------------------------- parts


def _line(
    axes: Any, points: Sequence[tuple[float, float, float, float]], method: str, colour: str | None = None
) -> None:
    """(x, mean, low, high) as a line with bars."""
    if not points:
        return
    x, mean, low, high = zip(*points)
    colour = colour or COLOURS.get(method, _OTHER)
    ours = method == OURS
    axes.plot(
        x, mean, "o-", color=colour, linewidth=2.2 if ours else 1.2, markersize=3.5, label=method_name(method).words
    )
    axes.vlines(x, low, high, color=colour, alpha=0.45, linewidth=1.6 if ours else 1.0)


def _finish(axes: Any, value: Value, *, heading: str = "") -> None:
    axes.set_title(f"{heading}{results.title(value)} {results.arrow(value)}", fontsize=9)
    _plain(axes)
    below = -0.2 if axes.get_xlabel() else -0.1
    axes.legend(fontsize=6.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, below), ncols=2)


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=7.5)
    axes.grid(alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _png(figure: Any) -> bytes:
    """Without the library's version inside: equal numbers shall give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
