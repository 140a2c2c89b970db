"""Filmstrips: rows of frames with a caption each, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def pick(total: int, count: int) -> list[int]:
    """``count`` frame numbers spread evenly over a clip, first and last included."""
    return [round(i) for i in np.linspace(0, total - 1, min(count, total))]


def filmstrip(
    rows: Sequence[tuple[str, Sequence[np.ndarray] | np.ndarray]],
    *,
    height: int = 128,
    lead: tuple[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Draws rows of frames.

    Args:
        rows: (caption, frames uint8 [h,w,3]); frames are scaled to one height, rows may differ in length.
        height: of a frame in the picture, in pixels.
        lead: (caption, image) that stands before all rows, with its caption below it: whose rows these are.

    Returns:
        uint8 [H,W,3]; captions stand left of their row.
    """
    font = ImageFont.load_default(size=13)
    before = _scaled(lead[1], height) if lead else Image.new("RGB", (0, 0))
    indent = _GAP + before.width
    margin = indent + 2 * _GAP + max(int(font.getlength(caption)) for caption, _ in rows)
    scaled = [[_scaled(frame, height) for frame in frames] for _, frames in rows]
    width = margin + max(sum(f.width + _GAP for f in frames) for frames in scaled)
    sheet = Image.new("RGB", (width, len(rows) * (height + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if lead:
        top = (sheet.height - height) // 2
        sheet.paste(before, (_GAP, top))
        draw.text((_GAP + before.width // 2, top + height + _GAP), lead[0], fill=_INK, font=font, anchor="mt")
    for i, ((caption, _), frames) in enumerate(zip(rows, scaled)):
        top, left = _GAP + i * (height + _GAP), margin
        draw.text((indent + _GAP, top + height // 2), caption, fill=_INK, font=font, anchor="lm")
        for frame in frames:
            sheet.paste(frame, (left, top))
            left += frame.width + _GAP
    return np.asarray(sheet)


def _scaled(frame: np.ndarray, height: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(frame))
    width = max(1, round(image.width * height / image.height))
    # Small frames are enlarged so that pixels stay pixels: a smooth enlargement would flatter them.
    way = Image.Resampling.NEAREST if height > image.height else Image.Resampling.LANCZOS
    return image.resize((width, height), way)
