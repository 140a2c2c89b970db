"""The crop of a clip: one fixed window that holds the person through the whole clip, in the samples' aspect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from imanim.data.sample import JOINTS

# A head's points (eyes, ears, mouth) end far below the hair and above the chin: in units of their box's longer side.
HAIR, CHIN, SIDES = 1.0, 0.7, 0.45
# Wrists and ankles are not fingertips and soles: in units of the person's size.
LIMBS = 0.06
HIPS = [JOINTS.index("r_hip"), JOINTS.index("l_hip")]
LEAST_AIR = 0.35  # of the above, when the frame has no room for more


@dataclass(frozen=True)
class Crop:
    """A window in pixels of the decoded frame; it may reach outside (edge pixels are repeated there)."""

    x: float
    y: float
    width: float
    height: float

    def padding(self, frame_width: int, frame_height: int) -> float:
        """Part of the window that lies outside the frame, 0 to 1."""
        inside_x = min(self.x + self.width, frame_width) - max(self.x, 0.0)
        inside_y = min(self.y + self.height, frame_height) - max(self.y, 0.0)
        return 1.0 - max(inside_x, 0.0) * max(inside_y, 0.0) / (self.width * self.height)

    def joints(self, joints: np.ndarray) -> np.ndarray:
        """Joints [...,3] in pixels -> float32 with x, y in units of the window (0 to 1 inside)."""
        out = joints.astype(np.float32).copy()
        out[..., :2] = (joints[..., :2] - (self.x, self.y)) / (self.width, self.height)
        return out

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [...,4] in pixels -> float32 in units of the window; NaN where the middle of the box is outside."""
        out = (boxes - (self.x, self.y) * 2) / ((self.width, self.height) * 2)
        centre = (out[..., :2] + out[..., 2:]) / 2
        inside = ((centre >= 0) & (centre < 1)).all(axis=-1, keepdims=True)
        return np.where(inside, out, np.nan).astype(np.float32)

    def cut(self, frame: np.ndarray, width: int, height: int) -> np.ndarray:
        """The window of a frame uint8 [H,W,3] resampled to uint8 [height,width,3], antialiased."""
        high, wide = frame.shape[:2]
        x0, y0 = int(np.floor(self.x)), int(np.floor(self.y))
        x1, y1 = int(np.ceil(self.x + self.width)), int(np.ceil(self.y + self.height))
        patch = frame[max(y0, 0) : min(y1, high), max(x0, 0) : min(x1, wide)]
        around = ((max(-y0, 0), max(y1 - high, 0)), (max(-x0, 0), max(x1 - wide, 0)), (0, 0))
        patch = np.pad(patch, around, mode="edge")
        box = (self.x - x0, self.y - y0, self.x - x0 + self.width, self.y - y0 + self.height)
        small = Image.fromarray(np.ascontiguousarray(patch)).resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(small)


def person_box(joints: np.ndarray, heads: np.ndarray, *, air: float = 1.0) -> np.ndarray:
    """The box float64 [4] x0,y0,x1,y1 in pixels around a person in some frames, with hair, hands and feet.

    Args:
        joints: [T,20,3] in pixels, NaN = unknown; at least one is known.
        heads: [T,4] boxes around the head's points, NaN = unknown.
        air: how much of the room for hair, chin, hands and feet to give; 0 = the points alone.
    """
    points = joints[..., :2].reshape(-1, 2).astype(np.float64)
    points = points[~np.isnan(points).any(axis=1)]
    low, high = points.min(axis=0), points.max(axis=0)
    reach = air * LIMBS * float((high - low).max())
    corners = [low - reach, high + reach]
    known = heads[~np.isnan(heads).any(axis=1)].astype(np.float64)
    if len(known):
        side = air * (known[:, 2:] - known[:, :2]).max(axis=1, keepdims=True)
        corners.append((known[:, :2] - side * (SIDES, HAIR)).min(axis=0))
        corners.append((known[:, 2:] + side * (SIDES, CHIN)).max(axis=0))
    return np.concatenate([np.min(corners, axis=0), np.max(corners, axis=0)])


def fit(
    joints: np.ndarray,
    heads: np.ndarray,
    frame_width: int,
    frame_height: int,
    *,
    aspect: float,
    margin: float,
    max_padding: float,
    min_inside: float,
) -> Crop | None:
    """The window of a clip, or None when the person cannot be shown in it.

    Air around the person gives way first where the frame is narrow. When the person is still too large for any window
    inside the frame: a body reaches outside it with the window, by at most ``max_padding``; a close-up (hips out of view),
    whose shoulders are wider than an upright window, gets the frame's whole height around the head, if at least
    ``min_inside`` of the known joints stay in it.

    Args:
        joints, heads: as for :func:`person_box`.
        aspect: height over width of the samples.
    """
    frame = np.array([frame_width, frame_height], np.float64)
    room = float(min(frame[0], frame[1] / aspect))
    wanted = _seen(person_box(joints, heads), frame)
    least = _seen(person_box(joints, heads, air=LEAST_AIR), frame)
    air = (wanted[1] - wanted[0]) * (1 + 2 * margin)
    width = max(_width(least[1] - least[0], aspect), min(_width(air, aspect), room))
    # Whatever air is left goes around the person evenly, so the middle is that of the generous box where it fits.
    middle = (
        (wanted[0] + wanted[1]) / 2 if width >= _width(wanted[1] - wanted[0], aspect) else (least[0] + least[1]) / 2
    )
    whole = _window(middle, width, aspect, frame)
    padding = whole.padding(frame_width, frame_height)
    close = (
        _window(_head_centre(heads), room, aspect, frame) if padding > 0.01 and _is_close_up(joints, heads) else None
    )
    if close is not None and _shows(close, joints, heads, min_inside):
        return close
    return whole if padding <= max_padding else None


def _is_close_up(joints: np.ndarray, heads: np.ndarray) -> bool:
    return not np.isnan(heads).all() and float((joints[:, HIPS, 2] > 0).mean()) < 0.5


def _head_centre(heads: np.ndarray) -> np.ndarray:
    known = heads[~np.isnan(heads).any(axis=1)].astype(np.float64)
    return (known[:, :2] + known[:, 2:]).mean(axis=0) / 2


def _shows(crop: Crop, joints: np.ndarray, heads: np.ndarray, min_inside: float) -> bool:
    """Whether a window holds the head at every frame, and enough of the known joints."""
    placed = crop.joints(joints)[joints[..., 2] > 0][:, :2]
    inside = ((placed >= 0) & (placed < 1)).all(axis=1).mean()
    known = heads[~np.isnan(heads).any(axis=1)]
    corner, size = np.array([crop.x, crop.y]), np.array([crop.width, crop.height])
    head_inside = (known[:, :2] >= corner).all() and (known[:, 2:] <= corner + size).all()
    return bool(inside >= min_inside and head_inside)


def around(crop: Crop, joints: np.ndarray, head: np.ndarray, frame_width: int, frame_height: int) -> Crop:
    """The clip's window for another frame: itself when it shows the person there, else one of its size that does.

    Args:
        joints: [20,3] and head [4] of that frame, in pixels.
    """
    frame = np.array([frame_width, frame_height], np.float64)
    low, high = _seen(person_box(joints[None], head[None], air=LEAST_AIR), frame)
    corner, size = np.array([crop.x, crop.y]), np.array([crop.width, crop.height])
    if (low >= corner - 1e-6).all() and (high <= corner + size + 1e-6).all():
        return crop
    if not np.isnan(head).any() and (high - low > size).any():
        # A close-up: what does not fit is not the head.
        low, high = head[:2].astype(np.float64), head[2:].astype(np.float64)
    return _window((low + high) / 2, crop.width, crop.height / crop.width, frame)


def _seen(box: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the part of a box [4] inside the frame [2]: what lies outside cannot be seen and is not asked for."""
    return np.clip(box[:2], 0, frame), np.clip(box[2:], 0, frame)


def _width(size: np.ndarray, aspect: float) -> float:
    """Width of the smallest window of an aspect that holds a box of ``size`` [2]."""
    return float(max(size[0], size[1] / aspect, 2.0))


def _window(middle: np.ndarray, width: float, aspect: float, frame: np.ndarray) -> Crop:
    """A window around ``middle`` [2], moved into the frame along each axis on which it fits."""
    size = np.array([width, width * aspect])
    start = middle - size / 2
    start = np.where(size <= frame, np.clip(start, 0, np.maximum(frame - size, 0)), start)
    return Crop(float(start[0]), float(start[1]), float(size[0]), float(size[1]))
