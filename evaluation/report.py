"""The page of one evaluation: what came out, in words and numbers, then clips, then everything the numbers depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation import plots, results
from evaluation.markup import cell_table, folded, page, paragraph, table, text
from evaluation.metrics.base import Value
from evaluation.report_figures import comparison_list, extremes, results_table, table_notes
from evaluation.results import ALL, OURS, Result
from evaluation.strips import FramesOf

_LONG_LIST = 12
_PRESENTED = 2
"""Values whose best and worst clips are shown, unless others are asked for."""


def evaluation_page(
    result: Result, frames_of: FramesOf | None = None, *, by: Sequence[str] | None = None, title: str = ""
) -> str:
    """The report of one result, whole in one file.

    Args:
        result: as :func:`evaluation.results.check` wants it.
        frames_of: a clip's pictures by its key, None for clips that were not kept; without it no clip is shown.
        by: values whose best and worst clips are shown; None: the first two with a direction, of different metrics.

    Raises:
        InputError: not a whole result.
    """
    results.check(result)
    everyone = result["groups"][ALL]
    sections = [
        ("Results", method_line(result) + results_table(result) + table_notes(result)),
        ("Against the baselines", comparisons_section(everyone)),
        ("Best and worst clips", clips_section(result, frames_of, by)),
        ("By level", levels_section(result)),
        ("Clip by clip", plots_section(result)),
        ("What the motion tokens tell about the driver", leakage_section(result.get("leakage"))),
        ("Refused", refused_section(result["refused"])),
        ("Everything the numbers depend on", about_section(result)),
    ]
    named = title or f"{result['method']['name']} on {result['protocol']['name']}"
    return page(named, everyone["verdict"], [section for section in sections if section[1]])


def method_line(result: Result) -> str:
    """What was measured, on what, in one line."""
    count, refused = result["samples"]["count"], len(result["refused"])
    left = f", {refused} refused" if refused else ""
    return paragraph(
        f"`{result['method']['name']}` ({result['method']['kind']}) under protocol `{results.protocol_name(result)}`; "
        f"samples `{result['samples']['sha256'][:10]}` ({count}{left}).",
        "soft",
    )


def comparisons_section(group: Mapping[str, Any]) -> str:
    """A group's sentences, folded when they are many."""
    content, many = comparison_list(group), len(group["comparisons"])
    return folded(f"{many} comparisons", content) if many > _LONG_LIST else content


def clips_section(result: Result, frames_of: FramesOf | None, by: Sequence[str] | None = None) -> str:
    """Best and worst clips by each of some values; the first value's with video. Says so when no clip's frames are here."""
    chosen = presented(result, by)
    if frames_of is None or not chosen:
        return ""
    first, *others = [extremes(result, frames_of, value, moving=not i) for i, value in enumerate(chosen)]
    if not first:
        return paragraph("No clip's video was kept.", "soft")
    return first + "".join(folded(f"By {results.short(v)}", shown) for v, shown in zip(chosen[1:], others) if shown)


def presented(result: Result, by: Sequence[str] | None = None) -> list[Value]:
    """The values whose clips are shown."""
    values = results.values(result, "clip")
    if by is not None:
        return [values[name] for name in by if name in values]
    found: dict[str, Value] = {}
    for name, value in results.headline(result, "clip").items():
        if value.sign and results.counted(result, OURS, name):
            found.setdefault(result["values"][name].get("metric", name), value)
    return list(found.values())[:_PRESENTED]


def levels_section(result: Result) -> str:
    """A plot a value over the levels and a table a level; nothing when clips have fewer than two levels."""
    levels = [group for group in result["groups"] if group != ALL]
    if len(levels) < 2:
        return ""
    drawn = [plots.by_level(result, value, levels) for value in results.values(result).values() if value.sign]
    tables = [
        folded(
            f"{level}: {result['groups'][level]['verdict']}",
            results_table(result, level) + table_notes(result, level) + comparisons_section(result["groups"][level]),
        )
        for level in levels
    ]
    return f'<div class="plots">{"".join(drawn)}</div>{"".join(tables)}'


def plots_section(result: Result) -> str:
    """Every clip value: all methods' clips in lanes, and ours against the best baseline."""
    both = [plots.distributions(result, v) + plots.scatter(result, v) for v in results.values(result, "clip").values()]
    drawn = [f"<div>{figures}</div>" for figures in both if figures]
    if not drawn:
        return ""
    note = "A dot a clip; the band holds the middle half, the bar is the mean. Numbers show under the pointer."
    return f'{paragraph(note, "soft")}<div class="plots">{"".join(drawn)}</div>'


def leakage_section(leakage: Mapping[str, Any] | None) -> str:
    """The probes' sentences and, a label a row, what each representation gives away (:mod:`evaluation.leakage`)."""
    if not leakage:
        return ""
    lines = [f"<li>{paragraph(sentence)}</li>" for sentence in leakage.get("sentences", ())]
    labels = leakage.get("labels", {})
    readers = dict.fromkeys(reader for found in labels.values() for reader in found.get("scores", ()))
    tables = [leakage_table(labels, reader) for reader in readers]
    missing = [paragraph(f"Not probed: {found['reason']}.", "soft") for found in labels.values() if "reason" in found]
    note = (
        "On clips of unseen people or motions; in grey the 95 % interval. Bold: surely more than chance."
        if tables
        else ""
    )
    words = f"<ul>{''.join(lines)}</ul>"
    if len(lines) > _LONG_LIST:
        words = f"<details><summary>{len(lines)} findings in words</summary>{words}</details>"
    return "".join(tables + missing) + (paragraph(note, "soft") if note else "") + (words if lines else "")


def leakage_table(labels: Mapping[str, Mapping[str, Any]], reader: str) -> str:
    """What one kind of probe reads, a label a row, a representation a column."""
    probed = {name: found for name, found in labels.items() if found.get("scores", {}).get(reader)}
    columns = list(dict.fromkeys(column for found in probed.values() for column in found["scores"][reader]))
    rows = []
    for name, found in probed.items():
        scores = found["scores"][reader]
        label = f"{text(found.get('words', name))} ({text(found.get('measure', 'score'))})"
        rows.append([(label, ""), *(_score(scores.get(column)) for column in columns)])
    return cell_table([f"{reader} probe", *(column.replace("_", " ") for column in columns)], rows)


def _score(score: Mapping[str, Any] | None) -> tuple[str, str]:
    if not score or score.get("value") is None:
        return "", ""
    known = score.get("low") is not None and score.get("high") is not None
    small = f"<small>{score['low']:.3f} – {score['high']:.3f}</small>" if known else ""
    return f"{score['value']:.3f}{small}", "best" if score.get("found") else ""


def refused_section(refused: Sequence[Mapping[str, str]]) -> str:
    """Every sample that could not be measured, and why."""
    if not refused:
        return ""
    listed = table(["sample", "reason"], [[entry["key"], entry["reason"]] for entry in refused])
    return folded(f"{len(refused)} samples", listed) if len(refused) > _LONG_LIST else listed


def about_section(result: Result) -> str:
    """Protocol, samples, method and environment, folded."""
    parts = ("protocol", "samples", "method", "environment")
    return "".join(folded(part, f"<pre>{text(json.dumps(result[part], indent=1))}</pre>") for part in parts)
