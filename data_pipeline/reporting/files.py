"""Writes the report beside the shards."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.reporting import sheets
from data_pipeline.reporting.page import Picture, page
from data_pipeline.reporting.summary import in_order, summarise
from imanim.data.files import write_atomic, write_json
from imanim.data.sample import Sample

PICTURES = "report"
Strip = tuple[str, str, bytes]


def write(
    folder: str | Path,
    rows: Sequence[Mapping[str, Any]],
    clips: Sequence[Mapping[str, Any]],
    manifest: Mapping[str, Any],
    leakage: Mapping[str, Any] | None,
    dropped_strips: Iterable[Strip],
    samples: Sequence[Sample],
    seconds: float,
) -> dict[str, Any]:
    """Writes `report.json`, `report.html` and `report/*.jpg` into ``folder``; pictures of an earlier report go.

    Args:
        rows, clips, manifest, leakage: see :func:`data_pipeline.reporting.summary.summarise`.
        dropped_strips: (reason, caption, JPEG) of dropped clips, as sheets.strip_jpeg makes them; some of each reason are shown.
        samples: kept clips to show (sheets.pick_samples). seconds: how long the job took by the clock.

    Returns:
        the summary.

    Raises:
        InputError: a damaged strip, or the system refuses to write.
    """
    folder = Path(folder)
    videos, pieces = in_order(rows, clips)
    summary = summarise(videos, pieces, manifest, leakage)
    summary["totals"]["seconds_taken"] = round(seconds, 1)
    pictures = [*_kept(folder, samples, summary), *_dropped(folder, dropped_strips, summary)]
    write_json(folder / "report.json", {**summary, "videos": videos, "clips": pieces})
    write_atomic(folder / "report.html", page(summary, videos, pictures).encode())
    shown = {folder / picture.file for picture in pictures}
    for path in (folder / PICTURES).glob("*.jpg"):
        if path not in shown:
            path.unlink(missing_ok=True)
    return summary


def _kept(folder: Path, samples: Sequence[Sample], summary: Mapping[str, Any]) -> list[Picture]:
    if not samples:
        return []
    total = max(summary["totals"]["clips"], len(samples))
    return [_save(folder, "kept", sheets.kept_sheet(samples), None, len(samples), total)]


def _dropped(folder: Path, strips: Iterable[Strip], summary: Mapping[str, Any]) -> list[Picture]:
    """A sheet for each reason, in the order of the table of reasons."""
    by_reason: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for reason, caption, data in strips:
        by_reason[reason].append((caption, data))
    counted = {entry["reason"]: entry["clips"] for entry in summary["reasons"]}
    places = {reason: i for i, reason in enumerate(counted)}
    made: list[Picture] = []
    for reason in sorted(by_reason, key=lambda r: (places.get(r, len(places)), r)):
        mine = sorted(by_reason[reason])
        # Captions begin with the video's name: an even spread shows many videos instead of the first one's clips.
        spread = np.unique(np.linspace(0, len(mine) - 1, min(len(mine), sheets.MAX_DROPPED)).round().astype(int))
        sheet = sheets.dropped_sheet([mine[i][1] for i in spread.tolist()])
        total = max(counted.get(reason, 0), len(mine))
        made.append(_save(folder, _file_name(reason, made), sheet, reason, len(spread), total))
    return made


def _file_name(reason: str, made: Sequence[Picture]) -> str:
    """A safe file name for a reason, other than those that are taken."""
    stem = "dropped-" + (re.sub(r"[^a-z0-9_]+", "-", reason.lower()).strip("-")[:40] or "unnamed")
    taken = {Path(picture.file).stem for picture in made}
    names = (stem if i == 1 else f"{stem}-{i}" for i in range(1, len(made) + 2))
    return next(name for name in names if name not in taken)


def _save(folder: Path, stem: str, sheet: np.ndarray, reason: str | None, shown: int, total: int) -> Picture:
    name = f"{PICTURES}/{stem}.jpg"
    write_atomic(folder / name, sheets.jpeg(sheet))
    return Picture(name, sheet.shape[1], sheet.shape[0], reason, shown, total)
