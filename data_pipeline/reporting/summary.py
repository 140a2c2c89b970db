"""What became of a folder of videos, as plain data: the content of `report.json`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from data_pipeline.reporting.measures import cpu_sec_of, distributions, long_tail, stages
from data_pipeline.reporting.reasons import CLIP, PERSON, READABLE, REASONS, SHOTS, STEPS, analysed, fate, step_of

SCHEMA = 1
Row = Mapping[str, Any]
VIDEO_STEPS = {
    READABLE: "usable files",
    SHOTS: "with a shot long enough",
    PERSON: "with a person",
    CLIP: "gave clips",
}
"""What a video is called that passed a step."""


def summarise(
    rows: Sequence[Row], clips: Sequence[Row], manifest: Mapping[str, Any], leakage: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that the report says, from plain data; the same input in any order gives the same output.

    Args:
        rows: one a video. ``left_out`` counts its stretches by reason, those that also have an entry in ``clips`` included.
        clips: one a clip, kept or (with ``reason``) dropped.
        manifest: of the set of shards (imanim.data.shards.write_manifest).
        leakage: what was found about people who stand in two splits; None when nobody looked.

    Returns:
        totals, funnel, reasons, stages, long_tail, distributions, splits, licences, leakage, checks, made_with.
        JSON-able; numbers that are not finite are None.
    """
    rows, clips = in_order(rows, clips)
    manifest, leakage = plain(manifest), plain(leakage)
    dropped = dropped_clips(rows, clips)
    splits = _splits(clips)
    return {
        "schema": SCHEMA,
        "totals": _totals(rows, clips, manifest, dropped),
        "funnel": funnel(rows, clips, dropped),
        "reasons": _reasons(rows, dropped),
        "stages": stages(rows),
        "long_tail": long_tail(rows),
        "distributions": distributions(rows, clips, manifest.get("settings") or {}),
        "splits": splits,
        "licences": _licences(clips),
        "leakage": leakage,
        "checks": _checks(rows, clips, manifest, leakage, splits),
        "made_with": {
            name: without_folders(manifest[name])
            for name in ("fingerprint", "tools", "models", "settings")
            if name in manifest
        },
    }


def in_order(rows: Sequence[Row], clips: Sequence[Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Plain copies: videos by file name, clips by file, start and key."""
    videos = sorted(map(plain, rows), key=lambda row: row["file"])
    pieces = sorted(
        map(plain, clips),
        key=lambda c: (c["file"], c.get("start_sec") or 0.0, str(c.get("key")), str(c.get("person")), str(c.get("reason"))),
    )  # fmt: skip
    return videos, pieces


def dropped_clips(rows: Sequence[Row], clips: Sequence[Row]) -> Counter[str]:
    """Stretches left out by reason. What a video counts and what is listed of it are the same stretches: the larger holds."""
    listed: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        if "reason" in clip:
            listed[clip["file"]][clip["reason"]] += 1
    total: Counter[str] = Counter()
    for row in rows:
        counted = row.get("left_out") or {}
        mine = listed.pop(row["file"], Counter())
        total.update({r: max(counted.get(r, 0), mine[r]) for r in {*counted, *mine}})
    for rest in listed.values():
        total.update(rest)
    return Counter({reason: count for reason, count in total.items() if count})


# ---------------------------------------------------------------------------------------------------------------- funnel


def funnel(rows: Sequence[Row], clips: Sequence[Row], dropped: Counter[str]) -> list[dict[str, Any]]:
    """From files to clips, a step after another.

    Each step: unit (videos or clips), label, count and seconds of what is left, ``dropped`` {reason: count} of that unit
    between the last step of the unit and this one, so that count + sum(dropped) is the count before; ``stretches`` {reason:
    count} that were left out there, of all videos. Seconds are None where they are not known of all.
    """
    steps = [_step("videos", "files found", rows, {}, {})]
    left = list(rows)
    for step, label in VIDEO_STEPS.items():
        lost = Counter(reason for row in left if (reason := _lost_at(row, step)) is not None)
        left = [row for row in left if _lost_at(row, step) is None]
        stretches = {r: n for r, n in dropped.items() if step_of(r) == step and step != CLIP}
        steps.append(_step("videos", label, left, lost, stretches))
    last = {reason: count for reason, count in dropped.items() if step_of(reason) == CLIP}
    kept = [clip for clip in clips if "reason" not in clip]
    listed = [clip for clip in clips if "reason" not in clip or step_of(clip["reason"]) == CLIP]
    proposed = _step("clips", "stretches with a person", listed, {}, {})
    if len(listed) != len(kept) + sum(last.values()):
        proposed.update(count=len(kept) + sum(last.values()), seconds=None)
    return [*steps, proposed, _step("clips", "kept", kept, last, {})]


def _lost_at(row: Row, step: str) -> str | None:
    reason = fate(row)
    return reason if reason is not None and step_of(reason, analysed=analysed(row)) == step else None


def _step(
    unit: str, label: str, left: Sequence[Row], dropped: Mapping[str, int], stretches: Mapping[str, int]
) -> dict[str, Any]:
    known = [row["seconds"] for row in left if row.get("seconds") is not None]
    seconds = round(math.fsum(known), 1) if len(known) == len(left) else None
    counts = {"dropped": dict(sorted(dropped.items())), "stretches": dict(sorted(stretches.items()))}
    return {"unit": unit, "label": label, "count": len(left), "seconds": seconds, **counts}


def _reasons(rows: Sequence[Row], dropped: Counter[str]) -> list[dict[str, Any]]:
    """Videos and clips that each reason cost; what it means where we know it. By step, then the most frequent first."""
    videos: Counter[str] = Counter()
    steps = {reason: step_of(reason) for reason in dropped}
    for row in rows:
        reason = fate(row)
        if reason is not None:
            videos[reason] += 1
            steps.setdefault(reason, step_of(reason, analysed=analysed(row)))
    out = []
    for reason in sorted(steps, key=lambda r: (STEPS.index(steps[r]), -videos[r], -dropped[r], r)):
        known = REASONS.get(reason)
        out.append({
            "reason": reason, "step": steps[reason], "videos": videos[reason], "clips": dropped[reason],
            "text": known.text if known else "", "setting": known.setting if known else "",
        })  # fmt: skip
    return out


# ---------------------------------------------------------------------------------------------------------------- totals


def _totals(rows: Sequence[Row], clips: Sequence[Row], manifest: Row, dropped: Counter[str]) -> dict[str, Any]:
    kept = [clip for clip in clips if "reason" not in clip]
    sizes = [row["bytes"] for row in rows if row.get("bytes") is not None]
    return {
        "files": len(rows),
        "files_kept": sum(fate(row) is None for row in rows),
        "files_refused": sum(fate(row) is not None for row in rows),
        "quarantined": sum(bool(row.get("quarantined")) for row in rows),
        "video_sec": round(math.fsum(row["seconds"] for row in rows if analysed(row)), 1),
        "clips": len(kept),
        "clips_dropped": sum(dropped.values()),
        "clip_sec": round(math.fsum(clip.get("seconds") or 0.0 for clip in kept), 1),
        "persons": len({clip["person"] for clip in kept if clip.get("person")}),
        "bytes_read": sum(sizes),
        "bytes_written": manifest.get("bytes"),
        "cpu_sec": round(math.fsum(map(cpu_sec_of, rows)), 1),
    }


def _splits(clips: Sequence[Row]) -> list[dict[str, Any]]:
    kept: defaultdict[str, list[Row]] = defaultdict(list)
    for clip in clips:
        if "reason" not in clip:
            kept[clip.get("split") or ""].append(clip)
    order = {"train": 0, "val": 1, "test": 2}
    return [
        {
            "split": name,
            "samples": len(mine),
            "persons": len({clip["person"] for clip in mine if clip.get("person")}),
            "videos": len({clip["file"] for clip in mine}),
            "seconds": round(math.fsum(clip.get("seconds") or 0.0 for clip in mine), 1),
        }
        for name, mine in sorted(kept.items(), key=lambda item: (order.get(item[0], 3), item[0]))
    ]


def _licences(clips: Sequence[Row]) -> list[dict[str, Any]]:
    """Kept clips of each licence and where they are from, the most frequent first."""
    kept: defaultdict[str, list[Row]] = defaultdict(list)
    for clip in clips:
        if "reason" not in clip:
            kept[clip.get("licence") or ""].append(clip)
    return [
        {
            "licence": licence,
            "clips": len(mine),
            "videos": len({clip["file"] for clip in mine}),
            "sources": dict(sorted(Counter(clip.get("source") or "" for clip in mine).items())),
        }
        for licence, mine in sorted(kept.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _checks(
    rows: Sequence[Row], clips: Sequence[Row], manifest: Row, leakage: Row | None, splits: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Whether the books agree with each other; ``ok`` is None where nobody looked."""
    kept = [clip for clip in clips if "reason" not in clip]
    counted = Counter(clip["file"] for clip in kept)
    differ = [row["file"] for row in rows if row.get("clips", 0) != counted[row["file"]]]
    strangers = sorted(set(counted) - {row["file"] for row in rows})
    written = {name: split.get("samples", 0) for name, split in (manifest.get("splits") or {}).items()}
    listed = {split["split"]: split["samples"] for split in splits}
    found = [
        ("every kept clip is in the shards", "The shards do not hold what the videos gave",
         {n: c for n, c in written.items() if c} == listed, f"shards: {in_short(written)}; videos: {in_short(listed)}"),
        ("every video's count is that of its clips", "Videos whose count is not that of their clips",
         not differ and not strangers, _some(differ + strangers)),
        ("no two clips have one key", "Keys that two clips have", *_repeated(clip.get("key") for clip in kept)),
        ("no person is in two splits", "People in two splits", *_in_two(kept, "person")),
        ("no video is in two splits", "Videos in two splits", *_in_two(kept, "file")),
        ("no face of one split is like one of another", "Leak between the splits", *_faces(leakage)),
    ]  # fmt: skip
    return [
        {"check": name, "problem": problem, "ok": ok, "detail": "" if ok else detail}
        for name, problem, ok, detail in found
    ]


def _faces(leakage: Row | None) -> tuple[bool | None, str]:
    if leakage is None:
        return None, "faces were not compared"
    apart = ", ".join(f"{pair} {value}" for pair, value in sorted((leakage.get("distances") or {}).items()))
    return bool(leakage.get("ok")), f"faces are as near as {apart}; one person below {leakage.get('threshold')}"


def in_short(counts: Mapping[str, int]) -> str:
    """``train 90, val 10``; ``none``."""
    return ", ".join(f"{name or 'no split'} {count}" for name, count in sorted(counts.items())) or "none"


def _repeated(keys: Any) -> tuple[bool, str]:
    twice = sorted(str(key) for key, count in Counter(keys).items() if count > 1)
    return not twice, _some(twice)


def _in_two(kept: Sequence[Row], what: str) -> tuple[bool, str]:
    where: defaultdict[str, set[str]] = defaultdict(set)
    for clip in kept:
        if clip.get(what):
            where[clip[what]].add(clip.get("split") or "")
    both = sorted(name for name, splits in where.items() if len(splits) > 1)
    return not both, _some(both)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# ----------------------------------------------------------------------------------------------------------------- plain


def plain(value: Any) -> Any:
    """The same as JSON can hold it: no numpy, no NaN or infinity (None)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def without_folders(value: Any) -> Any:
    """The same with file names in the place of absolute paths: where things lay on this machine is nobody's business."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute():
                return kind(value).name
    return value
