"""Decoding of the single-shot detectors of the MediaPipe family: anchors, boxes with keypoints, weighted suppression.

Their published graphs use anchors of size one (only the centre counts), two per cell on each layer, consecutive layers of one
stride sharing a grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SsdLayout:
    """The input side in pixels, the stride of each layer, and how many keypoints follow a box."""

    input_side: int
    strides: tuple[int, ...]
    keypoints: int


POSE_DETECTOR = SsdLayout(input_side=224, strides=(8, 16, 32, 32, 32), keypoints=4)
FACE_DETECTOR = SsdLayout(input_side=128, strides=(8, 16, 16, 16), keypoints=6)


@dataclass(frozen=True)
class Detection:
    """``box`` float64 [4] x0,y0,x1,y1 and ``points`` float64 [K,2], both in [0,1] of the detector's square input."""

    score: float
    box: np.ndarray
    points: np.ndarray


def anchors(layout: SsdLayout) -> np.ndarray:
    """Anchor centres float64 [N,2] (x,y) in [0,1], in the order of the network's outputs."""
    grids = []
    strides = list(layout.strides)
    while strides:
        stride = strides[0]
        layers = 0
        while strides and strides[0] == stride:
            strides.pop(0)
            layers += 1
        cells = -(-layout.input_side // stride)
        centres = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grid = np.stack([x, y], axis=-1).reshape(-1, 2)
        # Aspect ratio 1 and the interpolated scale give two anchors a cell and layer, all at the cell's centre.
        grids.append(np.repeat(grid, 2 * layers, axis=0))
    return np.concatenate(grids)


def decode(raw: np.ndarray, logits: np.ndarray, layout: SsdLayout, *, min_score: float) -> list[Detection]:
    """Network outputs -> detections above a score, not yet suppressed, the best first.

    Args:
        raw: [N, 4 + 2K] centre x, centre y, width, height, then keypoints, in input pixels relative to the anchor.
        logits: [N] or [N,1] before the sigmoid.
    """
    # The published graphs clip at 100 before the sigmoid; float64 needs it too.
    scores = 1.0 / (1.0 + np.exp(-np.clip(logits.reshape(-1).astype(np.float64), -100.0, 100.0)))
    keep = np.flatnonzero(scores >= min_score)
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    values = raw.reshape(-1, 4 + 2 * layout.keypoints)[keep].astype(np.float64) / layout.input_side
    centre = anchors(layout)[keep]
    middle, half = values[:, 0:2] + centre, values[:, 2:4] / 2
    points = values[:, 4:].reshape(len(keep), layout.keypoints, 2) + centre[:, None]
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    return [Detection(float(s), b, p) for s, b, p in zip(scores[keep], boxes, points)]


def suppress(found: list[Detection], *, overlap: float = 0.3) -> list[Detection]:
    """Weighted non-maximum suppression: detections that overlap become one, their score-weighted mean.

    ``found`` is ordered by score, the best first; a merged detection keeps its best score.
    """
    rest, kept = list(found), []
    while rest:
        best = rest[0]
        same = [iou(best.box, d.box) > overlap or d is best for d in rest]
        group = [d for d, s in zip(rest, same) if s]
        rest = [d for d, s in zip(rest, same) if not s]
        weights = np.array([d.score for d in group])
        weights /= weights.sum()
        box = np.einsum("n,nk->k", weights, np.stack([d.box for d in group]))
        points = np.einsum("n,nkc->kc", weights, np.stack([d.points for d in group]))
        kept.append(Detection(best.score, box, points))
    return kept


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes [4] x0,y0,x1,y1."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0.0)))
    areas = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]))
    return shared / (areas - shared) if areas > shared else 0.0
