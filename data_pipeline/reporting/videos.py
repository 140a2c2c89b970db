"""The page's table of videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.reporting import marks
from data_pipeline.reporting.measures import cpu_sec_of
from data_pipeline.reporting.reasons import fate, in_words

MAX_ROWS = 2000
HEAD = "file,no clip; left out,clips,people,shots,length,pixels,frames/s,codec,split,CPU s,by the clock s,MB,licence"
NUMERIC = (2, 3, 4, 5, 7, 10, 11, 12)


def videos_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line a video, those without clips first; at most MAX_ROWS, the rest is in report.json."""
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda row: (not row.get("quarantined"), fate(row) is None, row["file"]))
    note = ""
    if len(rows) > MAX_ROWS:
        note = f"<p>{MAX_ROWS:,} of {len(rows):,} videos, those without clips first; all are in report.json.</p>"
    controls = (
        '<div class="controls"><input id="find" type="search" placeholder="find" aria-label="find">'
        '<select id="state" aria-label="which videos"><option value="">all</option><option value="kept">gave clips</option>'
        '<option value="none">gave none</option><option value="quarantined">in quarantine</option></select>'
        '<span id="shown" class="soft"></span><span class="soft">A click on a heading sorts.</span></div>'
    )
    head = "".join(f"<th{_mark(i)}>{title}</th>" for i, title in enumerate(HEAD.split(",")))
    body = "\n".join(map(_line, ordered[:MAX_ROWS]))
    whole = f'<table id="videos"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'
    return f'{note}{controls}<div class="wide">{whole}</div>'


def _mark(column: int) -> str:
    return ' class="n"' if column in NUMERIC else ""


def _line(row: Mapping[str, Any]) -> str:
    reason = fate(row)
    state = "kept" if reason is None else "none quarantined" if row.get("quarantined") else "none"
    numbers = {
        2: row.get("clips", 0), 3: row.get("people"), 4: row.get("shots"), 5: row.get("seconds"), 7: row.get("rate_fps"),
        10: cpu_sec_of(row) or None, 11: row.get("wall_sec"), 12: None if row.get("bytes") is None else row["bytes"] / 1e6,
    }  # fmt: skip
    texts = {
        0: marks.name(row["file"]), 1: _why(row, reason), 6: "×".join(str(v) for v in reversed(row.get("size") or [])),
        8: marks.text(row.get("codec") or ""), 9: marks.text(row.get("split") or ""), 13: _origin(row),
    }  # fmt: skip
    cells = []
    for i in range(len(HEAD.split(","))):
        if i in numbers:
            value = numbers[i]
            shown = marks.duration(value) if i == 5 else marks.number(value)
            cells.append(f'<td class="n" data-v="{"" if value is None else f"{value:g}"}">{shown}</td>')
        else:
            cells.append(f"<td>{texts[i]}</td>")
    return f'<tr class="{state}">{"".join(cells)}</tr>'


def _origin(row: Mapping[str, Any]) -> str:
    """The licence, and where the video is from: a web address as a short link."""
    source = row.get("source") or ""
    told = marks.link(source, "source") if source else ""
    return f"{marks.name(row.get('licence') or '')} {told}".strip()


def _why(row: Mapping[str, Any], reason: str | None) -> str:
    """The reason and its detail, then how much was left out for what."""
    out = "" if reason is None else f"<code>{marks.text(reason)}</code> {marks.name(row.get('detail') or '')}"
    left = in_words(row.get("left_out") or {})
    return f'{out} <span class="soft">{marks.text(left)}</span>' if left else out
