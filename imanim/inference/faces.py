"""Face boxes for the expression encoder, from the joints that the motion tokens hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imanim.data.sample import JOINTS
from imanim.errors import InputError

_FACE = [JOINTS.index(n) for n in ("nose", "r_eye", "l_eye", "r_ear", "l_ear")]
_NOSE, _NECK = JOINTS.index("nose"), JOINTS.index("neck")
_LEFT_EAR, _RIGHT_EAR = JOINTS.index("l_ear"), JOINTS.index("r_ear")
# Fitted to the Doubles' face boxes from their true joints (54 clips), all in nose-to-neck distances: the boxes' side and lowering
# in the median, and the ears' difference that best tells frames with a face from those without (93 % agree).
_SIDE, _LOWER, _BEHIND = 1.07, 0.056, -0.15


def face_boxes(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """Square boxes around faces, like those the expression encoder was trained on.

    The centre is the mean of nose, eyes and ears, a little lowered; the side is about the distance from nose to neck, or
    twice the largest distance of a face joint from the centre, whichever is more: the first holds from the side, the second
    when the head is bowed.

    Args:
        joints: [T,J,2 or more] in [0,1] of the frame.
        height, width: the frame, in pixels (a square in pixels is none in [0,1]).

    Returns:
        float32 [T,4] x0,y0,x1,y1 in [0,1]; NaN where the face's centre is outside the frame or the head is seen from behind
        (the person's left ear clearly left of the right one).
    """
    xy = joints[..., :2].astype(np.float64) * (width, height)
    to_neck = np.linalg.norm(xy[:, _NOSE] - xy[:, _NECK], axis=-1)
    centre = xy[:, _FACE].mean(1) + np.stack([0 * to_neck, _LOWER * to_neck], -1)
    spread = np.linalg.norm(xy[:, _FACE] - centre[:, None], axis=-1).max(-1)
    half = np.maximum(_SIDE * to_neck / 2, spread)[:, None]
    boxes = np.concatenate([centre - half, centre + half], -1) / (width, height, width, height)
    inside = ((centre >= 0) & (centre < (width, height))).all(-1)
    from_behind = xy[:, _LEFT_EAR, 0] - xy[:, _RIGHT_EAR, 0] < _BEHIND * to_neck
    return np.where((inside & ~from_behind)[:, None], boxes, np.nan).astype(np.float32)


def load_faces(path: str | Path, frames: int) -> np.ndarray:
    """Reads face boxes float [T,4] (x0,y0,x1,y1 in [0,1] of the driving frame, NaN = none) for ``frames`` frames.

    Raises:
        InputError: not an .npy of that shape, or boxes that are no boxes.
    """
    try:
        boxes = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check --faces") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not a readable .npy array ({error}); save it with numpy.save") from None
    if not isinstance(boxes, np.ndarray) or boxes.shape != (frames, 4) or not np.issubdtype(boxes.dtype, np.floating):
        found = f"{boxes.dtype} {list(boxes.shape)}" if isinstance(boxes, np.ndarray) else type(boxes).__name__
        raise InputError(f"{path}: {found}, expected float [{frames}, 4] (one box a driving frame)")
    known = boxes[np.isfinite(boxes).all(-1)]
    if np.isinf(boxes).any() or (known[:, 2:] <= known[:, :2]).any():
        raise InputError(f"{path}: a box is x0,y0,x1,y1 with x0<x1 and y0<y1, or four NaN; mend the file")
    return boxes.astype(np.float32)
