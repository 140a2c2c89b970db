"""How well the reader reads: true frames, and true frames made worse in known ways."""

from __future__ import annotations

import numpy as np

from evaluation.instruments import degrade
from evaluation.instruments.frames import FrameSet
from evaluation.instruments.reader import Reader, Reading
from evaluation.instruments.truth import ACTIONS, COLOURED, mean_colours
from evaluation.metrics.doubles import expression_error, iou
from evaluation.metrics.joints import counted, to_pixels
from imanim.data.sample import PARTS

STRENGTH = 0.5
"""Of each way in :data:`~evaluation.instruments.degrade.WAYS` when measuring."""


MIN_ACTION_SPREAD = 0.05
"""Actions that hardly occur in a set (standard deviation below this) have no correlation."""


def measure(reader: Reader, data: FrameSet, way: str | None = None) -> dict[str, float]:
    """The reader's errors on a set of frames, degraded in one way or not at all.

    Returns:
        ``joint_error``, ``joint_median``, ``joint_p95`` of single joints, in % of the image height; ``joint_error_full_body``: the
        mean without portraits. ``mask_iou``, ``part_iou_PART``: over all frames' pixels. ``colour_PART``: mean absolute
        difference of a clip's mean colours, in grey levels. ``action_error``: as the metric counts it, in portraits;
        ``action_error_of_mean_face``: of one guess for all frames; ``action_correlation_ACTION``: Pearson's over all frames.
    """
    frames = data.frames if way is None else degraded(data.frames, way)
    flat = [values.reshape(-1, *values.shape[2:]) for values in (frames, data.parts, data.joints, data.actions)]
    read = reader(flat[0])
    height, width = flat[0].shape[1:3]
    off = np.linalg.norm(to_pixels(read.joints, height, width) - to_pixels(flat[2], height, width), axis=-1)
    off = np.where(counted(flat[2]), 100 * off / height, np.nan)
    portrait = np.isfinite(flat[3]).all(1)
    found = {
        "joint_error": float(np.nanmean(off)),
        "joint_median": float(np.nanmedian(off)),
        "joint_p95": float(np.nanpercentile(off, 95)),
        "joint_error_full_body": float(np.nanmean(off[~portrait])) if (~portrait).any() else float("nan"),
        "mask_iou": iou(read.person, flat[1] > 0),
    }
    found |= {f"part_iou_{n}": iou(_shown(read.parts, n), _shown(flat[1], n)) for n in COLOURED}
    found |= _colours(frames, data.parts, read)
    return found | _actions(read, flat[3], portrait)


def degraded(frames: np.ndarray, way: str) -> np.ndarray:
    """Clips uint8 [n,K,H,W,3], each frame made worse; the other frame of a ghost is the clip's next, of the last the one before."""
    rng, last = np.random.default_rng(0), frames.shape[1] - 1
    out = np.empty_like(frames)
    for i, k in np.ndindex(*frames.shape[:2]):
        other = frames[i, k + 1 if k < last else max(0, k - 1)]
        out[i, k] = degrade.WAYS[way](frames[i, k], other, STRENGTH, rng)
    return out


def _shown(parts: np.ndarray, name: str) -> np.ndarray:
    return np.isin(parts, [PARTS.index(label) for label in COLOURED[name]])


def _colours(frames: np.ndarray, parts: np.ndarray, read: Reading) -> dict[str, float]:
    """The colour of each part where it is read, from the colour where it is, both in the frames that are read."""
    apart: dict[str, list[float]] = {name: [] for name in COLOURED}
    for clip, labels, told in zip(frames, parts, read.parts.reshape(parts.shape)):
        seen, true = mean_colours(clip, told), mean_colours(clip, labels)
        for name in COLOURED:
            if seen[name][1] and true[name][1] >= 8 * len(clip):
                apart[name].append(float(np.abs(seen[name][0] - true[name][0]).mean()))
    return {f"colour_{name}": float(np.mean(values)) if values else float("nan") for name, values in apart.items()}


def _actions(read: Reading, actions: np.ndarray, portrait: np.ndarray) -> dict[str, float]:
    if not portrait.any():
        return {}
    told, true = read.actions[portrait], actions[portrait]
    found = {
        "action_error": expression_error(told, true),
        "action_error_of_mean_face": expression_error(true.mean(0), true),
    }
    for k, name in enumerate(ACTIONS):
        if true[:, k].std() > MIN_ACTION_SPREAD and told[:, k].std() > 0:
            found[f"action_correlation_{name}"] = float(np.corrcoef(told[:, k], true[:, k])[0, 1])
    return found
