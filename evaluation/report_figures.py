"""What a report shows: the table of methods and values, its notes, filmstrips of the best and the worst clips, curves."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evaluation import plots, results
from evaluation.markup import cell_table, paragraph, picture, text, video
from evaluation.metrics.base import Value
from evaluation.results import ALL, OURS, Result, method_name
from evaluation.strips import FramesOf, Pictures, clip_strip, side_by_side
from evaluation.summary import how_many, listed
from imanim.data.video import write_png, write_video

_STRIP_PX = 128
_PLAIN_COLOURS = ("#1f6f8b", "#d1663f", "#5a8f4e", "#7a5aa6")
HELD_OUT = " (held out)"
"""Ends the name of a run's validation curve, which has its run's colour."""

# ---------------------------------------------------------------------------------------------------------------- table


def results_table(result: Result, group: str = ALL, *, extra: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """A group's numbers: a row a value, a column a method, 95 % intervals below the numbers, the best of a row bold.

    Ceilings and readings that only stand beside are not among those that can be best. ``extra``: {column name: {value
    name: number}}, put right beside ours (the same model before, another model).
    """
    shown, methods = results.measured(result, group)
    if not shown:
        return paragraph("No clip gave a number.", "soft")
    values = results.values(result)
    rows, css = [], []
    for name in shown:
        value = values[name]
        label = f"{text(results.title(value))} {results.arrow(value)}"
        cells = [_cell(result, group, method, value) for method in methods]
        cells[1:1] = [(results.number(numbers.get(name), value), "") for numbers in (extra or {}).values()]
        rows.append([(label, ""), *cells])
        css.append(result["values"][name]["scope"] if result["values"][name]["scope"] == "set" else "")
    heads = [method_name(method).title for method in methods]
    heads[1:1] = list(extra or {})
    return cell_table(["", *heads], rows, css)


def _cell(result: Result, group: str, method: str, value: Value) -> tuple[str, str]:
    found, ends = results.mean(result, method, value.name, group), results.interval(result, method, value.name, group)
    if found is None:
        return "", ""
    rivals = {
        m: number
        for m in result["methods"]
        if (m == OURS or method_name(m).baseline) and (number := results.mean(result, m, value.name, group)) is not None
    }
    css = "ours" if method == OURS else "" if method_name(method).baseline else "aside"
    css += " best" if results.best(rivals, value) == method else ""
    small = f"<small>{results.number(ends[0], value)} – {results.number(ends[1], value)}</small>" if ends else ""
    return f"{results.number(found, value)}{small}", css.strip()


def table_notes(result: Result, group: str = ALL) -> str:
    """What a reader of :func:`results_table` must know: how many clips, who gave fewer numbers, what the sets warn of."""
    facts = result["groups"].get(group, {})
    clips, values = facts.get("clips", 0), results.values(result)
    lines = [
        f"Means over {how_many(clips, facts.get('units', clips))}; below each its 95 % interval over motions. "
        "↑ higher is better, ↓ lower is better; bold: the best of ours and the baselines."
    ]
    shown, methods = results.measured(result, group)
    fewer: dict[str, list[str]] = {}
    of_sets: list[str] = []
    for name in shown:
        counts = {m: results.counted(result, m, name, group) for m in methods if _has(result, m, name, group)}
        if result["values"][name]["scope"] == "clip" and any(n < clips for n in counts.values()):
            told = listed([f"{method_name(m).words} {n}" for m, n in counts.items()])
            fewer.setdefault(told, []).append(results.title(values[name]))
        of_sets += _set_notes(result, group, values[name], methods)
    lines += [f"Numbers on fewer clips, {told} of {clips}: {listed(named)}." for told, named in fewer.items()]
    if fewer:
        lines.append("Means of different clips do not compare; the paired comparisons use the clips that both have.")
    lines += of_sets
    absent = [results.short(v) for name, v in values.items() if name not in shown]
    if absent:
        lines.append(f"Without a number here (no truth, no face, too few frames): {listed(absent)}.")
    return "".join(paragraph(line, "soft") for line in lines)


def _set_notes(result: Result, group: str, value: Value, methods: Sequence[str]) -> list[str]:
    """Each different count and warning of a set value once."""
    said: dict[str, None] = {}
    for method in methods:
        found = results.spread(result, method, value.name, group)
        for warning in found["warnings"] if found else ():
            said.setdefault(f"{results.title(value)} (n = {found['n']}): {warning.rstrip('.')}.")  # type: ignore[index]
    return list(said)


def _has(result: Result, method: str, value: str, group: str) -> bool:
    return results.mean(result, method, value, group) is not None


def comparison_list(group: Mapping[str, Any]) -> str:
    """The group's comparisons, one sentence each, coloured by outcome."""
    found = group["comparisons"]
    if not found:
        return ""
    lines = [f"<li>{paragraph(c['sentence'], c['outcome'])}</li>" for c in found]
    note = "Gain of ours, its 95 % interval over motions in brackets; positive is better."
    if len(found) > 1:
        note += (
            f" Of {len(found)} such intervals about {max(1, round(0.05 * len(found)))} would miss zero by chance alone."
        )
    return f"<ul>{''.join(lines)}</ul>{paragraph(note, 'soft')}"


# -------------------------------------------------------------------------------------------------------------- clips


def ranked(result: Result, value: Value) -> list[str]:
    """Keys of ours, the best first; equal ones by key."""
    numbers = plots.per_clip(result, value.name).get(OURS, {})
    return sorted(numbers, key=lambda key: (-value.sign * numbers[key], key))


def extremes(result: Result, frames_of: FramesOf, value: Value, *, most: int = 2, moving: bool = False) -> str:
    """Filmstrips of the best and the worst clips by a value, with their numbers; clips without frames here are passed over."""
    order = ranked(result, value)
    rows = {row["key"]: row for row in result["rows"]}
    shown: set[str] = set()
    out = []
    for word, keys in (("Best", order), ("Worst", order[::-1])):
        for key in keys:
            clip = frames_of(key) if key not in shown else None
            if clip is not None:
                shown.add(key)
                place = f"{word} by {results.short(value)}: {order.index(key) + 1} of {len(order)}"
                out.append(clip_figure(result, rows[key], clip, place, moving=moving))
                if len(shown) >= (most if word == "Best" else 2 * most):
                    break
    return "".join(out)


def clip_figure(result: Result, row: Mapping[str, Any], clip: Pictures, heading: str, *, moving: bool) -> str:
    """One clip as a filmstrip and, if ``moving``, as a looping video, with what was measured on it."""
    caption = f"{heading}. {who_drives_whom(row)}. {clip_numbers(result, row)}"
    out = picture(write_png(None, clip_strip(clip, height=_STRIP_PX)), caption)
    if moving:
        frames, names = side_by_side(clip)
        out += video(write_video(None, frames, clip.fps), names, width=max(480, frames.shape[2]))
    return out


def who_drives_whom(row: Mapping[str, Any]) -> str:
    """``walk, L3, full body: a drives b``, as far as the row knows."""
    labels = row["labels"]
    known = [str(labels[k]).replace("_", " ") for k in ("kind", "level", "framing") if labels.get(k)]
    people = [labels.get("driver_person"), labels.get("person")]
    who = f"{people[0] or 'driver'} drives {people[1] or 'character'}" if any(people) else row["key"]
    return f"{', '.join(known)}: {who}" if known else who


def clip_numbers(result: Result, row: Mapping[str, Any]) -> str:
    """Ours on one clip: every headline value that has a number."""
    found, values = row["methods"].get(OURS, {}), results.headline(result, "clip")
    return ", ".join(
        f"{results.short(v)} {results.number(found[n], v)}" for n, v in values.items() if found.get(n) is not None
    )


# ------------------------------------------------------------------------------------------------------------- training


def run_colours(runs: Iterable[str]) -> dict[str, str]:
    """A colour a run by name, a run and its ``HELD_OUT`` curve alike."""
    names = list(runs)
    base = list(dict.fromkeys(name.removesuffix(HELD_OUT) for name in names))
    return {name: _PLAIN_COLOURS[base.index(name.removesuffix(HELD_OUT)) % len(_PLAIN_COLOURS)] for name in names}


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str], *, x: str = "step") -> bytes:
    """Line plots as PNG, one panel a metric, one line a run; a run's validation (``HELD_OUT``) in its colour, dotted with circles.

    Args:
        runs: {name: rows with ``x`` and the metrics}; rows without a metric are skipped.
        metrics: panels; those that no run has are left out.
    """
    from matplotlib.figure import Figure

    panels = [m for m in metrics if any(m in row for rows in runs.values() for row in rows)]
    figure = Figure(figsize=(3.6 * max(1, len(panels)), 2.7), dpi=130, layout="constrained")
    colours = run_colours(runs)
    for i, metric in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for name, rows in runs.items():
            points = [(row[x], row[metric]) for row in rows if metric in row and x in row]
            if points:
                held_out = name.endswith(HELD_OUT)
                style: dict[str, Any] = {
                    "linestyle": ":" if held_out else "-",
                    "marker": "o" if held_out or len(points) < 3 else None,
                }
                axes.plot(*zip(*points), color=colours[name], label=name, linewidth=1.4, markersize=3, **style)
        axes.set_title(metric.replace("_", " "), fontsize=9)
        axes.set_xlabel(x, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if len(runs) > 1:
            axes.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
