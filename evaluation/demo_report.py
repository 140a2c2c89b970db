"""The demo's report: what came out first, then how it compares, then how it was made."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation import report
from evaluation.summary import OURS
from imanim.data.video import read_image, read_video, write_png, write_video
from imanim.inference.filmstrip import filmstrip, pick

Rows = Sequence[Mapping[str, Any]]


@dataclass
class DemoFacts:
    """Everything the report is made of.

    result: of ``evaluation.benchmark.evaluate``; before: the same of the shipped weights, None when there were none.
    animations: (title, character image, driving video, result video) of ``launchers/animate.py`` runs.
    metrics: stage name to the rows of its ``metrics.jsonl``. seconds: step to wall-clock seconds. about: setting to value.
    """

    result: Mapping[str, Any]
    evaluation_output: Path
    before: Mapping[str, Any] | None = None
    animations: Sequence[tuple[str, Path, Path, Path]] = ()
    metrics: Mapping[str, Rows] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


def demo_page(facts: DemoFacts) -> str:
    """The whole page."""
    name, group = next(iter(facts.result["groups"].items()))
    own = [("Your own", _animation(*a)) for a in facts.animations]
    compared = report.results_table(group, extra=_before(facts, name)) + report.comparison_list(group)
    sections = [
        ("Unseen characters, unseen drivers", report.result_figures(facts.result, facts.evaluation_output)),
        *own,
        ("Measured against the truth", report.paragraph(_training_effect(facts, name)) + compared),
        ("Training", "".join(_stage(stage, rows) for stage, rows in facts.metrics.items())),
        ("Time", report.table(["step", "seconds"], [[n, f"{s:.0f}"] for n, s in facts.seconds.items()])),
        ("Made with", report.table(["", ""], [[k, v] for k, v in facts.about.items()])),
    ]
    return report.page("imanim demo", group["verdict"], [s for s in sections if s[1]])


def _before(facts: DemoFacts, name: str) -> dict[str, dict[str, float]]:
    if facts.before is None or name not in facts.before["groups"]:
        return {}
    return {"shipped weights, before this run's training": facts.before["groups"][name]["means"][OURS]}


def _training_effect(facts: DemoFacts, name: str) -> str:
    """What the minutes of training here did to the shipped weights, in one sentence that the numbers decide."""
    before = _before(facts, name)
    if not before:
        return "No weights came with the package: everything here was learned from nothing in this run."
    (old,), new = before.values(), facts.result["groups"][name]["means"][OURS]
    parts = []
    for metric, word, sign in (("psnr_person", "PSNR inside the person", 1), ("joint_error", "joint error", -1)):
        if metric in old and metric in new:
            change = "better" if sign * (new[metric] - old[metric]) > 0 else "not better"
            parts.append(f"{word} {old[metric]:.2f} -> {new[metric]:.2f} ({change})")
    return f"Training started from the shipped weights; what this run's minutes changed: {', '.join(parts)}."


def _animation(title: str, character: Path, driving: Path, made: Path) -> str:
    """One run of the animate launcher as a strip and a video."""
    image, driver, result = read_image(character), read_video(driving), read_video(made)
    shown = pick(len(result.frames), 7)
    # The result may hold fewer frames than the driver (resampled, cut short): frames of one moment stand together.
    moments = [min(len(driver.frames) - 1, round(i * driver.fps / result.fps)) for i in shown]
    rows = [("driver", driver.frames[moments]), ("ours", result.frames[shown])]
    strip = write_png(None, filmstrip(rows, height=192, lead=("character", image)))
    clip = write_video(None, result.frames, result.fps)
    return report.picture(strip, title) + report.video(clip, title, width=3 * result.frames.shape[2])


def _stage(stage: str, rows: Rows) -> str:
    """A stage's curves."""
    train = [row for row in rows if "loss" in row]
    checked = [{"step": row["step"], **row["validation"]} for row in rows if "validation" in row]
    if not train:
        return ""
    metrics = [m for m in ("loss", "heatmap", "joint_error", "flow", "codes_used") if any(m in row for row in train)]
    caption = f"{stage}: {train[-1]['step']} steps, loss {train[0]['loss']:.3f} to {train[-1]['loss']:.3f}"
    plot = report.curves({"train": train, "validation": checked}, metrics[:4])
    return f"<h3>{html.escape(stage)}</h3>" + report.picture(plot, caption)
