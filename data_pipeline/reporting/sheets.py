"""Contact sheets: kept clips with their skeletons, and strips of what was dropped."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imanim.data.sample import JOINT_PARENTS, JOINTS, Sample, decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError

STRIP_FRAMES, STRIP_WIDTH = 6, 1080
CELL_HEIGHT, CELL_WIDTH = 192, 256
CAPTION_HEIGHT = 18
GAP = 2
MAX_KEPT, MAX_DROPPED = 24, 8
SHEET_WIDTH = 1920  # two strips beside each other where both fit into this
JPEG_QUALITY = 85
LEFT, RIGHT, MIDDLE = (40, 220, 60), (240, 60, 50), (250, 220, 60)
FACE = (70, 160, 255)


def draw(image: np.ndarray, joints: np.ndarray | None, face: np.ndarray | None, *, scale: float = 1.0) -> np.ndarray:
    """The picture enlarged, with the bones of known joints and the face box; uint8 [h,w,3].

    The person's left is green, their right red, the middle yellow.

    Args:
        image: uint8 [H,W,3]. joints: [20,3] in [0,1], NaN = unknown. face: [4] in [0,1] or NaN. None: not drawn.
    """
    high, wide = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    # A reduced picture must not flicker with aliasing: Pillow's bicubic widens its support then.
    picture = Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    if joints is not None:
        _skeleton(pen, joints, wide, high)
    if face is not None and np.isfinite(face).all():
        pen.rectangle((face.reshape(2, 2) * (wide, high)).reshape(4).tolist(), outline=FACE, width=1)
    return np.asarray(picture)


def _skeleton(pen: ImageDraw.ImageDraw, joints: np.ndarray, wide: int, high: int) -> None:
    points = joints[:, :2] * (wide, high)
    known = np.isfinite(joints[:, :2]).all(axis=1)
    for j, parent in enumerate(JOINT_PARENTS):
        colour = {"l": LEFT, "r": RIGHT}.get(JOINTS[j].split("_")[0], MIDDLE)
        if parent >= 0 and known[j] and known[parent]:
            pen.line([*points[parent], *points[j]], fill=colour, width=2)
        if known[j]:
            x, y = points[j]
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)


# ---------------------------------------------------------------------------------------------------------------- strips


def strip(
    images: Sequence[np.ndarray] | np.ndarray,
    joints: Sequence[np.ndarray | None] | np.ndarray | None,
    faces: Sequence[np.ndarray | None] | np.ndarray | None,
    caption: str,
    *,
    lead: np.ndarray | None = None,
) -> np.ndarray:
    """Frames of a clip beside each other under a line of text; uint8 [h,w,3].

    Args:
        images: T frames uint8 [H,W,3]; at most STRIP_FRAMES, evenly spread, are shown, fewer of wide ones.
        joints: [20,3] for each in [0,1]; faces: [4] for each in [0,1]; None: not drawn.
        lead: a picture to stand before them (the identity frame), drawn already.
    """
    if not len(images):
        raise ValueError("a strip needs a frame")
    width = round(images[0].shape[1] * _scale(images[0])) + GAP
    most = max(2, min(STRIP_FRAMES, STRIP_WIDTH // width))
    shown = np.unique(np.linspace(0, len(images) - 1, most).round().astype(int)).tolist()
    cells = [] if lead is None else [lead, np.full((lead.shape[0], 3 * GAP, 3), 255, np.uint8)]
    for t in shown:
        points, box = (None if values is None else values[t] for values in (joints, faces))
        cells += [draw(images[t], points, box, scale=_scale(images[t])), np.full((1, GAP, 3), 255, np.uint8)]
    height = max(cell.shape[0] for cell in cells)
    return _captioned(np.concatenate([_padded(cell, height) for cell in cells[:-1]], axis=1), caption)


def strip_jpeg(
    images: Sequence[np.ndarray] | np.ndarray,
    joints: Sequence[np.ndarray | None] | np.ndarray | None,
    faces: Sequence[np.ndarray | None] | np.ndarray | None,
    caption: str,
) -> bytes:
    """:func:`strip` as a JPEG, for the clips that no shard keeps."""
    return jpeg(strip(images, joints, faces, caption))


def jpeg(image: np.ndarray) -> bytes:
    """uint8 [H,W,3] as a JPEG; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _scale(image: np.ndarray) -> float:
    """Into a cell; small crops are enlarged by whole factors only, so that their pixels can be judged."""
    fit = min(CELL_HEIGHT / image.shape[0], CELL_WIDTH / image.shape[1])
    return float(int(fit)) if fit >= 1 else fit


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
    # A file name may hold anything, half a character too; a line of text holds one line.
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    font = ImageFont.load_default(12)
    head = Image.new("RGB", (picture.shape[1], CAPTION_HEIGHT), "white")
    pen = ImageDraw.Draw(head)
    if pen.textlength(text, font) > head.width - 4:
        while text and pen.textlength(text + "…", font) > head.width - 4:
            text = text[: -max(1, len(text) // 16)]
        text += "…"
    pen.text((2, 1), text, fill=(60, 60, 60), font=font)
    return np.concatenate([np.asarray(head), picture])


def _padded(picture: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    right = 0 if width is None else width - picture.shape[1]
    return np.pad(picture, ((0, height - picture.shape[0]), (0, right), (0, 0)), constant_values=255)


# ---------------------------------------------------------------------------------------------------------------- sheets


def kept_sheet(samples: Sequence[Sample]) -> np.ndarray:
    """A strip a sample: the identity frame, then frames of the clip, all with skeleton and face box; uint8 [h,w,3]."""
    return _sheet([_sample_strip(sample) for sample in samples])


def _sample_strip(sample: Sample) -> np.ndarray:
    lead = draw(sample.identity, sample.identity_joints, None, scale=_scale(sample.identity))
    return strip(sample.driving, sample.joints_of_driver, sample.faces, _caption(sample), lead=lead)


def _caption(sample: Sample) -> str:
    quality = sample.meta.get("quality") or {}
    told = [
        f"{name} {quality[name]:.3g}" for name in ("motion", "person_px", "sharpness") if quality.get(name) is not None
    ]
    return " · ".join([sample.key, *told])


def dropped_sheet(strips: Sequence[bytes]) -> np.ndarray:
    """JPEG strips below and beside each other; uint8 [h,w,3]. Raises InputError when one cannot be read."""
    pictures = []
    for number, data in enumerate(strips):
        try:
            pictures.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"strip {number} of a dropped clip: damaged ({error}); make it again") from None
    return _sheet(pictures)


def _sheet(strips: list[np.ndarray]) -> np.ndarray:
    if not strips:
        raise ValueError("a sheet needs a strip")
    width = max(s.shape[1] for s in strips) + 4 * GAP
    columns = 2 if len(strips) > 1 and 2 * width <= SHEET_WIDTH else 1
    rows = []
    for i in range(0, len(strips), columns):
        beside = strips[i : i + columns]
        height = max(s.shape[0] for s in beside) + 2 * GAP
        beside += [np.full((1, 1, 3), 255, np.uint8)] * (columns - len(beside))
        rows.append(np.concatenate([_padded(s, height, width) for s in beside], axis=1))
    return np.concatenate(rows, axis=0)


def pick_samples(folder: str | Path, splits: Sequence[str], count: int = MAX_KEPT) -> list[Sample]:
    """At most ``count`` samples of a set of shards, decoded: one of each video first, then further ones, evenly."""
    entries = []
    for split in splits:
        shards = ShardSet(folder, split)
        seen: Counter[str] = Counter()
        for i, key in enumerate(shards.keys):
            video = key.rsplit("-", 1)[0]
            entries.append((seen[video], video, i, shards))
            seen[video] += 1
    entries.sort(key=lambda e: e[:3])
    chosen = sorted(entries[:count], key=lambda e: (e[1], e[2]))
    return [decode(*shards.read(i)) for _, _, i, shards in chosen]
