"""Pieces of a self-contained HTML page: pictures and videos are inside the file, so it can be mailed and still be looked at."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #6a7076; --line: #d9dcdf; --paper: #fdfdfc; --ground: #f2f3f4;
  --good: #23733a; --bad: #a63a2b; --ours: #1f6f8b; --c1: #d1663f; --c2: #5a8f4e; --c3: #7a5aa6; --c4: #a3852a; --c5: #777d83; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #9aa1a8; --line: #3a3f45; --paper: #17191b; --ground: #22262a; --good: #6cc283;
    --bad: #e58a7c; --ours: #4aa3c2; --c1: #e08a63; --c2: #86bd79; --c3: #a98bd6; --c4: #cdb35a; --c5: #9aa1a8; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1120px; margin: 2.5rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p.lead { font-size: 1.1rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
figure { margin: 1rem 0 1.5rem; }
figure img { max-width: 100%; height: auto; background: #fff; }
video { image-rendering: pixelated; max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 500; font-size: .85rem; vertical-align: bottom; }
thead th { color: var(--soft); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td small { display: block; color: var(--soft); font-size: .74rem; white-space: nowrap; }
td.ours { background: var(--ground); } td.best { font-weight: 650; } td.aside { color: var(--soft); }
th:first-child, td:first-child { min-width: 13rem; }
tr.set td:first-child::after { content: " (set)"; color: var(--soft); font-size: .8rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
li p { margin: .2rem 0; }
.wide { overflow-x: auto; }
.better { color: var(--good); }
.worse { color: var(--bad); }
code { font-size: .92em; }
pre { white-space: pre-wrap; font-size: .82rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: .6rem 1.6rem; }
.plots figure { margin: .2rem 0; }
svg.plot { display: block; width: 100%; height: auto; }
svg.plot text { font: 10px system-ui, sans-serif; fill: var(--soft); }
svg.plot text.name { fill: var(--ink); font-size: 11px; }
svg.plot .axis { stroke: var(--line); fill: none; }
svg.plot .dots { fill: none; stroke-width: 4; stroke-linecap: round; opacity: .5; }
svg.plot .box { stroke-width: 9; opacity: .22; }
svg.plot .mean { stroke-width: 2.5; }
svg.plot .line { fill: none; stroke-width: 1.6; }
svg.plot circle { opacity: .65; }
@media print { :root { color-scheme: light; --ink: #000; --paper: #fff; } body { max-width: none; margin: 0; font-size: 10pt; }
  svg, td.ours { print-color-adjust: exact; } }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole HTML page. ``sections``: (heading, HTML); title and lead are plain text, `backquoted` words in the lead code."""
    body = "".join(f"<section><h2>{text(h)}</h2>{content}</section>" for h, content in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><h1>{text(title)}</h1>"
        f"{paragraph(lead, 'lead')}{body}</body></html>\n"
    )


def text(value: Any) -> str:
    """Escaped for HTML, attributes too. Control characters and lone surrogates, which HTML forbids, become U+FFFD."""
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", str(value)))


def paragraph(words: str, css: str = "") -> str:
    """Plain text as a paragraph; `backquoted` words become code."""
    parts = text(words).split("`")
    marked = "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
    return f'<p class="{css}">{marked}</p>' if css else f"<p>{marked}</p>"


def folded(heading: str, content: str, *, is_open: bool = False) -> str:
    """HTML that unfolds under its heading (plain text)."""
    return f"<details{' open' if is_open else ''}><summary>{text(heading)}</summary>{content}</details>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], css: Sequence[str] = ()) -> str:
    """A table of plain texts; ``css`` gives each row a class."""
    return cell_table(head, [[(cell, "") for cell in map(text, row)] for row in rows], css)


def cell_table(head: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], css: Sequence[str] = ()) -> str:
    """A table whose cells are (HTML, class); the heading is plain text."""
    top = "".join(f"<th>{text(h)}</th>" for h in head)
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(f"<td{_class(kind)}>{content}</td>" for content, kind in row)
        lines.append(f"<tr{_class(css[i] if i < len(css) else '')}>{cells}</tr>\n")
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _class(css: str) -> str:
    return f' class="{css}"' if css else ""


def picture(data: bytes, caption: str = "", *, kind: str = "image/png") -> str:
    """A figure with a PNG inside the page; ``caption`` is plain text and also the image's alternative text."""
    source = base64.b64encode(data).decode()
    return (
        f'<figure><img alt="{text(caption)}" src="data:{kind};base64,{source}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def video(data: bytes, caption: str, *, width: int) -> str:
    """A looping MP4 inside the page, shown ``width`` CSS pixels wide."""
    source = base64.b64encode(data).decode()
    return (
        f'<figure><video autoplay loop muted playsinline controls width="{width}" src="data:video/mp4;base64,{source}"></video>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
