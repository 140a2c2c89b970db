"""What became of each video: `report.json`, `report.html` and a contact sheet of kept clips with their skeletons."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data_pipeline.config import VideosConfig
from data_pipeline.one_video import reasons
from imanim.data.files import write_atomic, write_json
from imanim.data.sample import JOINT_PARENTS, JOINTS, Sample, decode
from imanim.data.shards import ShardSet
from imanim.data.video import write_png

SHEET = "contact_sheet.png"
MAX_SHEET_ROWS = 24
SHEET_FRAMES = 6
CELL_HEIGHT = 192
LEFT, RIGHT, MIDDLE = (40, 220, 60), (240, 60, 50), (250, 220, 60)
FACE = (70, 160, 255)

STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse;width:100%}td,th{padding:.3em .6em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td.n,th.n{text-align:right}tr.refused td{color:#a33}img{max-width:100%}.dim{color:#777}
"""

Row = dict[str, Any]


def write(config: VideosConfig, manifest: dict[str, Any], rows: list[Row], *, seconds: float) -> None:
    """Writes the three files into ``config.output``."""
    output = config.output
    totals = {**totals_of(rows), "seconds_taken": round(seconds, 1), "bytes": manifest["bytes"]}
    splits = {name: split["samples"] for name, split in manifest["splits"].items()}
    write_json(output / "report.json", {"totals": totals, "splits": splits, "rows": rows})
    samples = pick_samples(output, list(splits), MAX_SHEET_ROWS) if manifest["samples"] else []
    if samples:
        write_png(output / SHEET, contact_sheet(samples))
    write_atomic(output / "report.html", _page(config, totals, splits, rows, with_sheet=bool(samples)).encode())


def totals_of(rows: list[Row]) -> dict[str, Any]:
    """Counts over all videos: files, kept files, clips, seconds of video, and reasons for what was left out."""
    left: Counter = Counter()
    refused: Counter = Counter()
    for row in rows:
        left.update(row.get("left_out", {}))
        refused.update([row["reason"]] if "reason" in row else [])
    return {
        "files": len(rows),
        "files_kept": sum(row.get("clips", 0) > 0 for row in rows),
        "clips": sum(row.get("clips", 0) for row in rows),
        "video_seconds": round(sum(row.get("seconds", 0.0) for row in rows), 1),
        "refused": dict(sorted(refused.items())),
        "left_out": dict(sorted(left.items())),
    }


def summary(rows: list[Row]) -> str:
    """Why files were refused, in one line: ``corrupt 1, no_person 2``."""
    return reasons(totals_of(rows)["refused"]) or "nothing was refused"


# -------------------------------------------------------------------------------------------------------------- pictures


def pick_samples(folder: Path, splits: list[str], count: int) -> list[Sample]:
    """At most ``count`` samples, decoded: one of each video first, then further ones, evenly."""
    entries = []
    for split in splits:
        shards = ShardSet(folder, split)
        seen: Counter = Counter()
        for i, key in enumerate(shards.keys):
            video = key.rsplit("-", 1)[0]
            entries.append((seen[video], video, i, shards))
            seen[video] += 1
    entries.sort(key=lambda e: e[:3])
    chosen = sorted(entries[:count], key=lambda e: (e[1], e[2]))
    return [decode(*shards.read(i)) for _, _, i, shards in chosen]


def contact_sheet(samples: list[Sample]) -> np.ndarray:
    """A row a sample: the identity frame, then frames of the clip, all with skeleton and face box; uint8 [h,w,3]."""
    strips = []
    for sample in samples:
        scale = max(1, round(CELL_HEIGHT / sample.driving.shape[1]))
        nobody = np.full(4, np.nan, np.float32)
        joints = sample.identity_joints if sample.identity_joints is not None else np.full((len(JOINTS), 3), np.nan)
        cells = [draw(sample.identity, joints, nobody, scale=scale)]
        cells.append(np.full((cells[0].shape[0], 6, 3), 255, np.uint8))
        for t in np.linspace(0, len(sample.driving) - 1, SHEET_FRAMES).round().astype(int):
            cells.append(draw(sample.driving[t], sample.joints[t], sample.faces[t], scale=scale))
        strips.append(_captioned(np.concatenate(cells, axis=1), sample.key))
    width = max(s.shape[1] for s in strips)
    columns = 2 if len(strips) > 6 else 1
    strips = [np.pad(s, ((0, 4), (0, width - s.shape[1] + 8), (0, 0)), constant_values=255) for s in strips]
    strips += [np.full_like(strips[0], 255)] * (-len(strips) % columns)
    return np.concatenate(
        [np.concatenate(strips[i : i + columns], axis=1) for i in range(0, len(strips), columns)], axis=0
    )


def draw(image: np.ndarray, joints: np.ndarray, face: np.ndarray, *, scale: int = 1) -> np.ndarray:
    """The picture enlarged, with the bones of known joints and the face box.

    The person's left is green, their right red, the middle yellow.

    Args:
        image: uint8 [H,W,3]. joints: [20,3] in [0,1]. face: [4] in [0,1] or NaN.
    """
    high, wide = image.shape[0] * scale, image.shape[1] * scale
    picture = Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    points = joints[:, :2] * (wide, high)
    known = np.isfinite(joints[:, :2]).all(axis=1)
    for j, parent in enumerate(JOINT_PARENTS):
        colour = {"l": LEFT, "r": RIGHT}.get(JOINTS[j].split("_")[0], MIDDLE)
        if parent >= 0 and known[j] and known[parent]:
            pen.line([*points[parent], *points[j]], fill=colour, width=2)
        if known[j]:
            x, y = points[j]
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
    if np.isfinite(face).all():
        pen.rectangle((face.reshape(2, 2) * (wide, high)).reshape(4).tolist(), outline=FACE, width=1)
    return np.asarray(picture)


def _captioned(strip: np.ndarray, text: str) -> np.ndarray:
    head = Image.new("RGB", (strip.shape[1], 14), "white")
    ImageDraw.Draw(head).text((2, 1), text, fill=(60, 60, 60))
    return np.concatenate([np.asarray(head), strip])


# ------------------------------------------------------------------------------------------------------------------ page


def _page(
    config: VideosConfig, totals: dict[str, Any], splits: dict[str, int], rows: list[Row], *, with_sheet: bool
) -> str:
    clip = config.clip
    lines = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>imanim: videos to shards</title>",
        f"<style>{STYLE}</style></head><body><h1>Videos to shards</h1>",
        f"<p>{totals['files_kept']} of {totals['files']} videos gave {totals['clips']} clips"
        f" ({', '.join(f'{n} {name}' for name, n in splits.items()) or 'no split'}) of {clip.frames} frames at {clip.fps:g} fps,"
        f" {clip.width}x{clip.height}; {totals['video_seconds']} s of video in {totals['seconds_taken']} s.</p>",
    ]
    if totals["left_out"]:
        lines.append(f"<p>Stretches left out: {html.escape(reasons(totals['left_out']))}.</p>")
    if with_sheet:
        lines += [
            "<h2>Kept clips</h2><p class='dim'>First the identity frame, then the clip. Green: the person's left;"
            " red: their right; blue: the face box.</p>",
            f"<img src='{SHEET}' alt='contact sheet of kept clips with skeletons'>",
        ]
    lines.append(
        "<h2>Videos</h2><table><tr><th>file<th class='n'>seconds<th class='n'>clips<th>split<th>left out<th>size"
        "<th class='n'>pose frames/CPU s</tr>"
    )
    lines += [_table_row(row) for row in rows]
    return "\n".join([*lines, "</table></body></html>\n"])


def _table_row(row: Row) -> str:
    left = reasons(row.get("left_out", {}))
    if "reason" in row:
        left = f"{row['reason']}: {row.get('detail', '')}" + (f" ({left})" if left else "")
    size = "x".join(str(v) for v in reversed(row.get("size", [])))
    pose_sec = row.get("cpu_sec", {}).get("pose", 0)
    speed = f"{row['ticks'] / pose_sec:.0f}" if pose_sec else ""
    cells = [row["file"], row.get("seconds", ""), row.get("clips", 0), row.get("split", ""), left, size, speed]
    numeric = (1, 2, 6)
    body = "".join(
        f"<td{' class=n' if i in numeric else ''}>{html.escape(str(cell))}</td>" for i, cell in enumerate(cells)
    )
    return f"<tr{' class=refused' if 'reason' in row else ''}>{body}</tr>"
