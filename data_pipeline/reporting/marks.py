"""Pieces of the page: numbers for people, escaped text, tables, and bars and histograms as inline SVG."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

WIDTH, HEIGHT, BASE = 240, 96, 78  # of a histogram, in its own units; the axis lies at BASE


def text(value: Any) -> str:
    """Escaped for HTML, attributes too. Control characters and lone surrogates, which HTML forbids, become U+FFFD."""
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", str(value)))


def name(value: Any) -> str:
    """A name from outside, escaped and isolated: right-to-left marks in it do not turn what stands beside it."""
    return f"<bdi>{text(value)}</bdi>"


def link(value: str, shown: str = "") -> str:
    """A link, called ``shown`` or as it is, when it is a web address; else the text."""
    if re.fullmatch(r"https?://[^\s\"'<>\\]+", value):
        return f'<a href="{text(value)}" rel="noreferrer">{name(shown or value)}</a>'
    return name(value)


def relative(path: str) -> str:
    """A relative file name as the value of ``src``."""
    return text(quote(path))


def count(value: float | None) -> str:
    """``12,345``; nothing for None."""
    return "" if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    """Three digits that matter: ``0.0123``, ``12.3``, ``12,300``; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def noun(amount: int, word: str) -> str:
    """``1 clip``, ``2,000 clips``; people are ``person``/``people``."""
    plural = {"person": "people"}.get(word, word + "s")
    return f"{amount:,} {word if amount == 1 else plural}"


def part(value: float | None) -> str:
    """``12.3 %``; nothing for None."""
    return "" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """``3.2 s``, ``4 min 5 s``, ``2 h 13 min``, ``1,204 h``; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 100 else f"{seconds / 3600:,.0f} h"


def size(amount: float | None) -> str:
    """``3.4 MB``, ``1.2 GB``; nothing for None."""
    if amount is None:
        return ""
    for unit, step in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if amount < 1000 * step:
            return f"{amount / step:.1f} {unit}"
    return f"{amount / 1e12:.1f} TB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = (), css: str = "") -> str:
    """A table. ``head`` and cells are HTML; ``numeric``: columns that stand to the right."""
    mark = dict.fromkeys(numeric, ' class="n"')
    top = "".join(f"<th{mark.get(i, '')}>{cell}</th>" for i, cell in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{mark.get(i, '')}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>\n" for row in rows
    )
    kind = f' class="{css}"' if css else ""
    return f'<div class="wide"><table{kind}><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def bar(kept: float, lost: float, label: str) -> str:
    """A bar as wide as the text; ``kept`` and ``lost`` are parts of its width, 0 to 1."""
    first, second = (f"{100 * value:.2f}" for value in (kept, lost))
    return (
        f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{text(label)}">'
        f'<rect class="ground" width="100" height="10"/><rect class="kept" width="{first}" height="10"/>'
        f'<rect class="lost" x="{first}" width="{second}" height="10"/></svg>'
    )


def histogram(entry: Mapping[str, Any]) -> str:
    """One of the summary's distributions: kept below, dropped stacked above it, thresholds as broken lines."""
    edges, kept, dropped = entry["edges"], entry["kept"], entry["dropped"]
    top = max((a + b for a, b in zip(kept, dropped)), default=0) or 1
    step = WIDTH / len(kept)
    marks = []
    for i, (low, high) in enumerate(zip(kept, dropped)):
        title = f"<title>{number(edges[i])} to {number(edges[i + 1])}: {low:,} kept, {high:,} dropped</title>"
        first, second = BASE * low / top, BASE * high / top
        rects = _rect("kept", i * step, BASE - first, step, first) + _rect(
            "lost", i * step, BASE - first - second, step, second
        )
        marks.append(f"<g>{title}{rects}</g>" if rects else "")
    for setting, limit in entry["limits"].items():
        at = _place(edges, limit)
        if at is not None:
            x = f"{at * step:.1f}"
            marks.append(
                f'<line class="limit" x1="{x}" x2="{x}" y1="0" y2="{BASE}"><title>{text(setting)} {number(limit)}</title></line>'
            )
    label = (
        f"{entry['title']}: {sum(kept):,} kept, {sum(dropped):,} dropped, median of the kept {number(entry['median'])}"
    )
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}">{"".join(marks)}'
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{BASE}" y2="{BASE}"/>{_ticks(edges, step)}</svg>'
    )


def _rect(css: str, x: float, y: float, width: float, height: float) -> str:
    if height <= 0:
        return ""
    return f'<rect class="{css}" x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height:.1f}"/>'


def _place(edges: Sequence[float], value: float) -> float | None:
    """Where a number lies among the edges, in bins; None outside."""
    for i, (low, high) in enumerate(zip(edges, edges[1:])):
        if low <= value <= high:
            return i + (value - low) / (high - low)
    return None


def _ticks(edges: Sequence[float], step: float) -> str:
    last = len(edges) - 1
    places = sorted({0, last} if last < 4 else {0, last // 2, last})
    anchor = {0: "start", last: "end"}
    return "".join(
        f'<text x="{i * step:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor.get(i, "middle")}">{number(edges[i])}</text>'
        for i in places
    )
