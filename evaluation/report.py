"""Self-contained HTML reports: pictures and videos are inside the file, so it can be mailed and still be looked at."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.benchmark import VIDEOS
from evaluation.strips import sample_strip
from evaluation.summary import HIGHER_IS_BETTER, METRIC_NAMES, OURS
from imanim.data.sample import Sample, decode
from imanim.data.shards import ShardSet
from imanim.data.video import read_video, write_png, write_video

ROWS = {
    OURS: "ours",
    "hold": "character held still",
    "hold_autoencoder": "character held still, through the autoencoder",
    "driver": "the driver's own video",
    "copy": "driver's true joints, copied",
    "scale_shift": "true joints, scaled and shifted",
    "bone_length": "true joints, 2D bone lengths",
    "autoencoder": "truth through the autoencoder (ceiling)",
    "tokens": "tokenizer reading the driver (its own error)",
}
"""Methods in the order of the table, in words."""
_DIGITS = {"psnr": 2, "ssim": 3, "psnr_person": 2, "ssim_person": 3, "joint_error": 2, "pck": 1}
_COLOURS = ("#1f6f8b", "#d1663f", "#5a8f4e", "#7a5aa6")

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #6a7076; --line: #d9dcdf; --paper: #fdfdfc;
  --good: #23733a; --bad: #a63a2b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #9aa1a8; --line: #3a3f45; --paper: #17191b; --good: #6cc283; --bad: #e58a7c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1120px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.lead { font-size: 1.1rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; }
video { image-rendering: pixelated; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 500; font-size: .88rem; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tr.ours td { font-weight: 650; }
tr.aside td { color: var(--soft); }
li p { margin: .2rem 0; }
.wide { overflow-x: auto; }
.better { color: var(--good); }
.worse { color: var(--bad); }
code { font-size: .92em; }
pre { white-space: pre-wrap; font-size: .82rem; }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole HTML page. ``sections``: (heading, HTML); title and lead are plain text, `backquoted` words in the lead code."""
    body = "".join(f"<section><h2>{html.escape(h)}</h2>{content}</section>" for h, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{paragraph(lead, 'lead')}{body}</body></html>\n"
    )


def picture(data: bytes, caption: str = "", *, kind: str = "image/png") -> str:
    """A figure with a PNG inside the page; ``caption`` is plain text and also the image's alternative text."""
    text = html.escape(caption)
    source = base64.b64encode(data).decode()
    return f'<figure><img alt="{text}" src="data:{kind};base64,{source}"><figcaption>{text}</figcaption></figure>'


def video(data: bytes, caption: str, *, width: int) -> str:
    """A looping MP4 inside the page, shown ``width`` CSS pixels wide."""
    source = base64.b64encode(data).decode()
    return (
        f'<figure><video autoplay loop muted playsinline controls width="{width}" src="data:video/mp4;base64,{source}"></video>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def paragraph(text: str, css: str = "") -> str:
    """Plain text as a paragraph; `backquoted` words become code."""
    parts = html.escape(text).split("`")
    marked = "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
    return f'<p class="{css}">{marked}</p>' if css else f"<p>{marked}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], css: Sequence[str] = ()) -> str:
    """A table of plain texts; ``css`` gives each row a class."""
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    lines = []
    for i, row in enumerate(rows):
        mark = f' class="{css[i]}"' if i < len(css) and css[i] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def results_table(group: Mapping[str, Any], *, extra: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Means of one group of clips (see ``evaluation.benchmark.summarise``) with all methods beside each other.

    ``extra``: {row name: {metric: mean}}, put right below ours (the same model before, another model).
    """
    means = group["means"]
    metrics = [m for m in METRIC_NAMES if any(m in values for values in means.values())]
    named = [(ROWS[method], means[method], method) for method in ROWS if method in means]
    named[1:1] = [(name, values, "") for name, values in (extra or {}).items()]
    rows = [[name, *(_number(values.get(m), m) for m in metrics)] for name, values, _ in named]
    css = [
        "ours" if method == OURS else "aside" if method in ("autoencoder", "tokens") else "" for _, _, method in named
    ]
    head = [f"{METRIC_NAMES[m]} {'↑' if HIGHER_IS_BETTER[m] else '↓'}" for m in metrics]
    note = f"Mean over {group['clips']} clips ({group['video_clips']} with generated video). ↑ higher is better, ↓ lower is better."
    return table(["", *head], rows, css) + paragraph(note, "soft")


def comparison_list(group: Mapping[str, Any]) -> str:
    """The group's comparisons, one sentence each, coloured by outcome."""
    lines = [f"<li>{paragraph(c['sentence'], c['outcome'])}</li>" for c in group["comparisons"]]
    note = "Gain of ours, its 95 % interval over motions in brackets; positive is better."
    return f"<ul>{''.join(lines)}</ul>{paragraph(note, 'soft')}"


def _number(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:.{_DIGITS[metric]}f}"


# -------------------------------------------------------------------------------------------------------- pictures


def sample_figure(sample: Sample, made: np.ndarray, *, frames: int = 7, moving: bool = True) -> str:
    """Character, driver, truth and ours as a filmstrip and as one looping video. ``made`` uint8 [T,H,W,3]."""
    strip = sample_strip(sample, made, frames=frames)
    meta = sample.meta
    kind = meta["motion"]["kind"] if isinstance(meta.get("motion"), dict) else "motion"
    level, framing = meta.get("level", ""), str(meta.get("framing", "")).replace("_", " ")
    who = f"{meta.get('driver_person', 'driver')} drives {meta.get('person', 'character')}"
    out = picture(write_png(None, strip), f"{kind}, {level}, {framing}: {who}")
    if moving:
        still = np.broadcast_to(sample.identity, sample.driving.shape)
        joined = np.concatenate([still, sample.driving, sample.truth, made], 2)
        width = 2 * joined.shape[2]
        out += video(write_video(None, joined, sample.fps), "character · driver · truth · ours", width=width)
    return out


def find_samples(data: str | Path, split: str, keys: Sequence[str]) -> list[Sample]:
    """The samples with these keys, in this order."""
    shards = ShardSet(data, split)
    number = {key: i for i, key in enumerate(shards.keys)}
    return [decode(*shards.read(number[key]), skip=("parts.png", "driving_parts.png")) for key in keys]


def result_figures(result: Mapping[str, Any], output: str | Path, *, most: int = 6) -> str:
    """Filmstrips of the videos that an evaluation kept."""
    out: list[str] = []
    kept = {path.stem: path for path in sorted((Path(output) / VIDEOS).glob("*.mp4"))}
    for row in result["rows"]:
        if row["key"] in kept and len(out) < most:
            (sample,) = find_samples(result["data"]["folder"], row["split"], [row["key"]])
            out.append(sample_figure(sample, read_video(kept[row["key"]]).frames, moving=not out))
    return "".join(out)


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str], *, x: str = "step") -> bytes:
    """Line plots as PNG, one panel a metric, one line a run.

    Args:
        runs: {name: rows with ``x`` and the metrics}; rows without a metric are skipped.
        metrics: panels; those that no run has are left out.
    """
    from matplotlib.figure import Figure

    panels = [m for m in metrics if any(m in row for rows in runs.values() for row in rows)]
    figure = Figure(figsize=(3.6 * max(1, len(panels)), 2.7), dpi=130, layout="constrained")
    for i, metric in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for colour, (name, rows) in zip(_COLOURS * 4, runs.items()):
            points = [(row[x], row[metric]) for row in rows if metric in row and x in row]
            if points:
                marker = "o" if len(points) < 3 else None
                axes.plot(*zip(*points), color=colour, label=name, linewidth=1.4, marker=marker, markersize=3)
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


# ------------------------------------------------------------------------------------------------------- the whole


def evaluation_page(result: Mapping[str, Any], output: str | Path) -> str:
    """The report of one evaluation: pictures first, then the tables."""
    import json

    sections = [("Filmstrips", result_figures(result, output))] if (Path(output) / VIDEOS).is_dir() else []
    for name, group in result["groups"].items():
        sections.append((name, paragraph(group["verdict"]) + results_table(group) + comparison_list(group)))
    about = {k: result[k] for k in ("protocol", "config", "model", "data")}
    sections.append(("Protocol", f"<pre>{html.escape(json.dumps(about, indent=1))}</pre>"))
    first = next(iter(result["groups"].values()))
    return page("Cross-identity evaluation", first["verdict"], sections)
