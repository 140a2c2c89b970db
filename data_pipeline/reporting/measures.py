"""Numbers over many videos: histograms with round edges, throughput by stage, the long tail."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.reporting.reasons import fate

BINS = 20
LONG_TAIL = 10
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """What a histogram shows.

    Attributes:
        scale: ``linear``; ``log`` for 1-2-5 edges; ``whole`` for counts; ``part`` for 0 to 1.
        limits: dotted names of the settings that are its thresholds.
    """

    title: str
    unit: str = ""
    scale: str = "linear"
    limits: tuple[str, ...] = ()


VIDEO_MEASURES = {
    "seconds": Measure("Length of the videos", "s", "log"),
    "people": Measure("People followed in a video", "", "whole"),
}
CLIP_MEASURES = {
    "seconds": Measure("Length of the clips", "s"),
    "person_px": Measure("Height of the person", "source px", "linear", ("rules.min_person_px",)),
    "motion": Measure("Motion", "person heights/s", "linear", ("rules.min_motion", "rules.max_motion")),
    "known_joints": Measure("Pose coverage", "part of the joints known", "part"),
    "face_px": Measure("Size of the face", "source px", "linear", ("rules.min_face_px",)),
    "frames_with_face": Measure("Frames with a face", "part of the frames", "part"),
    "sharpness": Measure("Sharpness", "", "log", ("rules.min_sharpness",)),
    "camera": Measure("Camera motion", "diagonals/s", "linear", ("rules.max_camera_motion",)),
    "text": Measure("Burned-in text", "part of the frame", "linear", ("rules.max_text",)),
    "hands": Measure("Certainty of the hands", "", "part", ("rules.min_hands",)),
    "brightness": Measure("Brightness", "", "linear", ("rules.min_brightness",)),
}
"""In the order of the page; further quality numbers follow under their own names."""


def distributions(rows: Sequence[Row], clips: Sequence[Row], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A histogram of every measure that somebody told: videos with and without clips, clips kept and dropped."""
    out = []
    for name, measure in VIDEO_MEASURES.items():
        values = [(row.get(name), fate(row) is None) for row in rows if row.get(name) is not None]
        out.append({"of": "videos", "name": name, **_described(measure, values, settings)})
    named = {name for clip in clips for name in clip.get("quality") or {}}
    further = {name: Measure(name.replace("_", " ")) for name in sorted(named - set(CLIP_MEASURES))}
    for name, measure in {**CLIP_MEASURES, **further}.items():
        told = [(clip if name == "seconds" else clip.get("quality") or {}, "reason" not in clip) for clip in clips]
        values = [(where.get(name), kept) for where, kept in told if name in where]
        out.append({"of": "clips", "name": name, **_described(measure, values, settings)})
    return [entry for entry in out if entry["edges"]]


def _described(measure: Measure, values: list[tuple[Any, bool]], settings: Mapping[str, Any]) -> dict[str, Any]:
    limits = {name: _setting(settings, name) for name in measure.limits}
    return {
        "title": measure.title,
        "unit": measure.unit,
        "limits": {name: value for name, value in limits.items() if value},
        **histogram(values, measure.scale),
    }


def _setting(settings: Mapping[str, Any], name: str) -> float | None:
    value: Any = settings
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def histogram(values: Iterable[tuple[Any, bool]], scale: str = "linear") -> dict[str, Any]:
    """Counts of numbers between round edges, kept and dropped apart.

    Args:
        values: (number, kept); None and numbers that are not finite count as ``unknown``.

    Returns:
        edges [B+1]; kept, dropped [B]: bin b is edges[b] <= value < edges[b+1], the last with its upper edge; below, above:
        counts outside the edges (the uppermost hundredth may lie there, so that one odd value does not squeeze the rest);
        unknown; median of the kept.
    """
    pairs = list(values)
    sure = [(float(v), kept) for v, kept in pairs if isinstance(v, int | float) and math.isfinite(v)]
    edges = _edges(sorted(v for v, _ in sure), scale)
    counts = {True: [0] * max(len(edges) - 1, 0), False: [0] * max(len(edges) - 1, 0)}
    outside: Counter[str] = Counter()
    for value, kept in sure:
        place = int(np.searchsorted(edges, value, side="right")) - 1 if value != edges[-1] else len(edges) - 2
        if 0 <= place < len(edges) - 1:
            counts[kept][place] += 1
        else:
            outside["below" if place < 0 else "above"] += 1
    good = sorted(v for v, kept in sure if kept)
    return {
        "edges": edges,
        "kept": counts[True],
        "dropped": counts[False],
        "below": outside["below"],
        "above": outside["above"],
        "unknown": len(pairs) - len(sure),
        "median": _round(float(np.median(good))) if good else None,
    }


def _edges(values: Sequence[float], scale: str) -> list[float]:
    """Round edges for sorted values; none for none."""
    if not values:
        return []
    if scale == "part" and values[0] >= 0 and values[-1] <= 1:
        return [_round(i / BINS) for i in range(BINS + 1)]
    if scale == "log":
        return _log_edges(values)
    low, high = values[0], values[math.ceil(0.99 * len(values)) - 1]
    if 0 <= low < high / 2 or (scale == "whole" and low >= 0):
        low = 0.0
    largest = max(abs(low), abs(high))
    # Values that are alike but for rounding share one bin: edges as near as these would not differ.
    step = _nice((high - low if high - low > 1e-6 * largest else largest) / BINS or 1.0)
    if scale == "whole":
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step), math.floor(high / step) + 1
    return [_round(i * step) for i in range(first, last + 1)]


def _log_edges(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10, ... up to the largest value; what is not positive, or far smaller, lies below."""
    positive = [v for v in values if v > 0] or [1.0]
    first = math.floor(math.log10(positive[0]))
    out = [_round(m * 10.0**e) for e in range(first, math.floor(math.log10(positive[-1])) + 2) for m in (1, 2, 5)]
    start = max(i for i, edge in enumerate(out) if edge <= positive[0] or i == 0)
    stop = min(i for i, edge in enumerate(out) if edge > positive[-1])
    return out[max(start, stop - BINS) : stop + 1]


def _nice(step: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))


def _round(value: float) -> float:
    return float(f"{value:.9g}")


# ------------------------------------------------------------------------------------------------------------------ time


def stages(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """CPU seconds, frames, frames per CPU-second and share of the CPU time of each stage; the dearest first."""
    seconds: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    for row in rows:
        seconds.update(row.get("cpu_sec") or {})
        frames.update(row.get("stage_frames") or {})
    total = sum(seconds.values())
    out = []
    for name in sorted(set(seconds) | set(frames), key=lambda n: (-seconds[n], n)):
        rate = round(frames[name] / seconds[name], 1) if frames[name] and seconds[name] > 0 else None
        share = round(seconds[name] / total, 4) if total else None
        out.append({"stage": name, "cpu_sec": round(seconds[name], 2), "frames": frames[name] or None,
                    "frames_per_cpu_sec": rate, "share": share})  # fmt: skip
    return out


def cpu_sec_of(row: Row) -> float:
    """CPU seconds that a video took."""
    return sum((row.get("cpu_sec") or {}).values())


def long_tail(rows: Sequence[Row]) -> dict[str, Any]:
    """The slowest videos, and what part of all CPU time they took; medians to compare them with."""
    timed = [row for row in rows if row.get("wall_sec") is not None]
    slowest = sorted(timed, key=lambda row: (-row["wall_sec"], row["file"]))[:LONG_TAIL]
    total = sum(map(cpu_sec_of, rows))
    walls = sorted(row["wall_sec"] for row in timed)
    return {
        "videos": [_timing(row) for row in slowest],
        "cpu_share": round(sum(map(cpu_sec_of, slowest)) / total, 4) if total else None,
        "of_videos": len(timed),
        "wall_sec_median": round(float(np.median(walls)), 2) if walls else None,
        "wall_sec_p95": round(walls[math.ceil(0.95 * len(walls)) - 1], 2) if walls else None,
        "wall_sec_max": round(walls[-1], 2) if walls else None,
        "peak_mb_max": max((row["peak_mb"] for row in rows if row.get("peak_mb") is not None), default=None),
    }


def _timing(row: Row) -> dict[str, Any]:
    cpu = cpu_sec_of(row)
    return {
        "file": row["file"],
        "wall_sec": row["wall_sec"],
        "cpu_sec": round(cpu, 2),
        "seconds": row.get("seconds"),
        "frames": row.get("frames"),
        "frames_per_cpu_sec": round(row["frames"] / cpu, 1) if row.get("frames") and cpu else None,
        "mb": round(row["bytes"] / 1e6, 1) if row.get("bytes") is not None else None,
        "peak_mb": row.get("peak_mb"),
        "reason": fate(row),
    }
