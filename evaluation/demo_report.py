"""The demo's report: what came out first, then how it compares, then how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation import report, report_figures
from evaluation.compare import compare
from evaluation.markup import page, paragraph, picture, table, text, video
from evaluation.results import ALL, OURS
from evaluation.strips import FramesOf
from imanim.data.video import read_image, read_video, write_png, write_video
from imanim.errors import InputError
from imanim.inference.filmstrip import filmstrip, pick

Rows = Sequence[Mapping[str, Any]]
_SHIPPED = "shipped weights, before this run's training"


@dataclass
class DemoFacts:
    """Everything the report is made of.

    result: as :func:`evaluation.results.load` gives it; frames_of: a clip's pictures by its key (None for clips whose video
    was not kept); before: the same result of the shipped weights, None when there were none.
    animations: (title, character image, driving video, result video) of ``launchers/animate.py`` runs.
    metrics: stage name to the rows of its ``metrics.jsonl``. seconds: step to wall-clock seconds. about: setting to value.
    """

    result: Mapping[str, Any]
    frames_of: FramesOf | None = None
    before: Mapping[str, Any] | None = None
    animations: Sequence[tuple[str, Path, Path, Path]] = ()
    metrics: Mapping[str, Rows] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


def demo_page(facts: DemoFacts) -> str:
    """The whole page."""
    result, group = facts.result, facts.result["groups"][ALL]
    own = [("Your own", _animation(*a)) for a in facts.animations]
    measured = report_figures.results_table(result, extra=_before(facts)) + report_figures.table_notes(result)
    sections = [
        ("Unseen characters, unseen drivers", report.clips_section(result, facts.frames_of)),
        *own,
        ("Measured against the truth", _training_effect(facts) + measured + report.comparisons_section(group)),
        ("Training", "".join(_stage(stage, rows) for stage, rows in facts.metrics.items())),
        ("Time", table(["step", "seconds"], [[n, f"{s:.0f}"] for n, s in facts.seconds.items()])),
        ("Made with", table(["", ""], [[k, v] for k, v in facts.about.items()]) + report.about_section(result)),
    ]
    return page("imanim demo", group["verdict"], [s for s in sections if s[1]])


def _before(facts: DemoFacts) -> dict[str, dict[str, float]]:
    """The shipped weights' numbers as one more column."""
    if facts.before is None:
        return {}
    sets = facts.before["sets"].get(ALL, {}).get(OURS, {})
    of_sets = {name: spread["value"] for name, spread in sets.items() if spread["value"] is not None}
    return {_SHIPPED: facts.before["groups"][ALL]["means"].get(OURS, {}) | of_sets}


def _training_effect(facts: DemoFacts) -> str:
    """What the minutes of training here did to the shipped weights, as far as the paired numbers allow to say."""
    if facts.before is None:
        return paragraph("No weights came with the package: everything here was learned from nothing in this run.")
    try:
        found = compare(facts.result, facts.before, names=("this run's model", "the shipped one"))
    except InputError as error:
        return paragraph(f"The shipped weights were measured too, but cannot be compared: {error}.")
    return paragraph(f"Training started from the shipped weights. {found['verdict']}")


def _animation(title: str, character: Path, driving: Path, made: Path) -> str:
    """One run of the animate launcher as a strip and a video."""
    image, driver, result = read_image(character), read_video(driving), read_video(made)
    shown = pick(len(result.frames), 7)
    # The result may hold fewer frames than the driver (resampled, cut short): frames of one moment stand together.
    moments = [min(len(driver.frames) - 1, round(i * driver.fps / result.fps)) for i in shown]
    rows = [("driver", driver.frames[moments]), ("ours", result.frames[shown])]
    strip = write_png(None, filmstrip(rows, height=192, lead=("character", image)))
    clip = write_video(None, result.frames, result.fps)
    return picture(strip, title) + video(clip, title, width=3 * result.frames.shape[2])


def _stage(stage: str, rows: Rows) -> str:
    """A stage's curves."""
    train = [row for row in rows if "loss" in row]
    checked = [{"step": row["step"], **row["validation"]} for row in rows if "validation" in row]
    if not train:
        return ""
    metrics = [m for m in ("loss", "heatmap", "joint_error", "flow", "codes_used") if any(m in row for row in train)]
    caption = f"{stage}: {train[-1]['step']} steps, loss {train[0]['loss']:.3f} to {train[-1]['loss']:.3f}"
    plot = report_figures.curves({"train": train, "validation": checked}, metrics[:4])
    return f"<h3>{text(stage)}</h3>" + picture(plot, caption)
