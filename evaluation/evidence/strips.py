"""One motion on all its bodies as a filmstrip: who drove, what was made, what is true. Motions come first, not picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.evidence.config import EvidenceConfig
from evaluation.results import Result
from evaluation.strips import FramesOf, Pictures
from imanim.data.video import write_png
from imanim.inference.filmstrip import filmstrip, pick


@dataclass(frozen=True)
class Strip:
    """A picture and what stands below it. ``name``: of its file, without ending."""

    name: str
    caption: str
    png: bytes


def make(result: Result, frames_of: FramesOf, cfg: EvidenceConfig) -> list[Strip]:
    """A strip for the first motion of every wanted level in every wanted split; none where its videos were not made."""
    portrait = [cfg.scopes.portrait] if cfg.scopes.portrait else []
    splits = cfg.strips.splits or [*cfg.scopes.deciding, *portrait]
    levels = cfg.strips.levels or [*cfg.scopes.headline_levels, "L5"]
    out = []
    for split in splits:
        for level in levels:
            rows = _first_motion(result["rows"], split, level)[: cfg.strips.bodies]
            clips = [(row, clip) for row in rows if (clip := frames_of(row["key"])) is not None]
            if clips:
                out.append(_strip(f"{split}_{level}", split, clips, cfg))
    return out


def _first_motion(rows: Sequence[Mapping[str, Any]], split: str, level: str) -> list[Mapping[str, Any]]:
    """A split's level: the samples of its first motion, in the result's order, one a character."""
    found = [row for row in rows if row.get("split") == split and row["labels"].get("level") == level]
    bodies: dict[str, Mapping[str, Any]] = {}
    for row in found:
        if row["unit"] == found[0]["unit"]:
            bodies.setdefault(str(row["labels"].get("person") or row["key"]), row)
    return list(bodies.values())


def _strip(name: str, split: str, clips: Sequence[tuple[Mapping[str, Any], Pictures]], cfg: EvidenceConfig) -> Strip:
    """Bodies stand beside each other, ``moments`` frames each, a white gap between them."""
    rows: dict[str, list[np.ndarray]] = {"character": [], "driver": [], "made": [], "truth": []}
    for nth, (_, clip) in enumerate(clips):
        if nth:
            gap = np.full((clip.made.shape[1], 8, 3), 255, np.uint8)
            for frames in rows.values():
                frames.append(gap)
        shown = pick(len(clip.made), cfg.strips.moments)
        blank = np.full_like(clip.made[0], 255)
        rows["character"] += [clip.character, *[blank] * (len(shown) - 1)]
        rows["driver"] += [clip.driving[t] for t in shown]
        rows["made"] += [clip.made[t] for t in shown]
        rows["truth"] += [blank if clip.truth is None else clip.truth[t] for t in shown]
    labels = clips[0][0]["labels"]
    picture = filmstrip(list(rows.items()), height=cfg.strips.height)
    what = f"{labels.get('kind') or 'motion'} ({labels.get('level')}, {split.replace('_', ' ')})"
    bodies = "1 body" if len(clips) == 1 else f"{len(clips)} bodies"
    caption = f"{what}, {bodies}: the character's image, its driver, what was made, the truth"
    return Strip(name, caption, write_png(None, picture))
