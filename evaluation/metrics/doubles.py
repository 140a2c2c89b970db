"""What a made video shows, read by an instrument of its own (:mod:`evaluation.instruments`), against the exact truth of Doubles.

Pose, shape, silhouette, colours, facial actions and calm are told apart, so that a right pose of a wrong body, or a right body
in a wrong pose, is seen as what it is. Every method pays the reader's own errors; what they are on the true video stands beside.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.clip import Clip
from evaluation.features.recent import Recent
from evaluation.instruments.truth import COLOURED, HEIGHT_PX, WIDTH_PX, mean_colours
from evaluation.metrics import joints as joint_metrics
from evaluation.metrics.base import ClipMetric, Machine, MetricSpec, NoSettings, Value
from evaluation.metrics.joints import counted, stature, to_pixels
from imanim.data.sample import JOINTS
from imanim.errors import InputError

NAN = float("nan")
LIMBS: dict[str, tuple[tuple[str, str], ...]] = {
    "trunk": (("r_shoulder", "r_hip"), ("l_shoulder", "l_hip")),
    "upper arm": (("r_shoulder", "r_elbow"), ("l_shoulder", "l_elbow")),
    "thigh": (("r_hip", "r_knee"), ("l_hip", "l_knee")),
    "shin": (("r_knee", "r_ankle"), ("l_knee", "l_ankle")),
}
"""Limb to the joints at its ends, right and left alike. Forearms, shoulders and head turn too much towards the camera: their
lengths on the picture tell of the pose (docs/instruments.md)."""
MIN_LIMB_SHARE = 0.25
"""Limbs count that lie inside the frame, and are not seen end-on, in this share of their sides and frames."""
MIN_LIMB_PX = 4.0
"""Of 128 in height: a limb is seen end-on below this length."""
MIN_PART_PX = 8
"""A part has a colour when the truth shows so many pixels of it a frame, in the mean."""
MIN_MADE_SHARE = 0.2
"""A part that the made video shows on less than this share of its true pixels is compared where it should be."""


class DoublesReader:
    """A :class:`~evaluation.metrics.base.ClipMetric`. Raises InputError when the reader's weights are missing."""

    values: tuple[Value, ...] = (
        Value("read_joint_error", "joint error, read from the video", "lower", 2, "% of the person's height"),
        Value("read_moving_error", "joint error of the motion alone, read", "lower", 2, "% of the person's height"),
        Value("read_pck", "PCK, read from the video", "higher", 1, "%"),
        Value("limb_length_error", "limb lengths, read from the video, off by", "lower", 1, "%"),
        Value("mask_iou", "IoU of the read and the true silhouette", "higher"),
        Value("colour_error", "colours of the parts, off by", "lower", 1, "grey levels"),
        *(Value(f"colour_error_{name}", f"colour of {name}, off by", "lower", 1, "grey levels") for name in COLOURED),
        Value("expression_read_error", "facial actions, read from the video, off by", "lower", 1, "%"),
        Value("jitter", "jitter beyond the truth's", "none", 2, "% of height per frame^2"),
        Value(
            "reader_floor_joint_error", "joint error read from the true video", "none", 2, "% of the person's height"
        ),
        Value("reader_floor_limb_length_error", "limb lengths read from the true video, off by", "none", 1, "%"),
        Value("reader_floor_iou", "IoU read from the true video", "none"),
        Value("reader_floor_colour_error", "colours read from the true video, off by", "none", 1, "grey levels"),
        Value("reader_floor_expression", "facial actions read from the true video, off by", "none", 1, "%"),
    )

    def __init__(self, machine: Machine):
        from evaluation.instruments.reader import Reader

        self._reader = Reader(device=machine.device)
        self._truths = Recent(self._reader, size=4)

    def protocol(self) -> dict[str, Any]:
        """Everything that the numbers depend on."""
        return {
            **self._reader.protocol(),
            "joints": "counted and in units as of the metric `joints`",
            "limbs": list(LIMBS),
            "limb_length": "median over sides and frames of read / true",
            "min_limb_share": MIN_LIMB_SHARE,
            "min_limb_px": MIN_LIMB_PX,
            "coloured": {name: list(labels) for name, labels in COLOURED.items()},
            "min_part_px": MIN_PART_PX,
            "min_made_share": MIN_MADE_SHARE,
            "iou": "of all frames' pixels together",
            "expression": "root mean square over frames and actions",
            "jitter": "mean length of the second difference, made minus true video, both read",
        }

    def measure(self, clip: Clip) -> dict[str, float]:
        """Every value of a clip, NaN without exact truth (video, joints and parts); its parts NaN where there is nothing to see.

        ``read_joint_error``, ``read_moving_error``, ``read_pck``: as the values without ``read_`` count them, hidden joints too.
        ``limb_length_error``: mean over limbs of how far their length, as a part of the true one, is off.
        ``colour_error_PART``: mean absolute difference over R, G, B of a part's mean colour over the clip: where the reader sees
        the part in the made video, from where the part is in the true one. ``colour_error``: the mean over the parts there are.
        ``expression_read_error``: root mean square difference of the facial actions, in % of the full action; portraits alone.
        ``jitter``: below 0 the made video is calmer than the truth (a frozen one: minus the truth's own), above 0 it shakes more.

        Raises:
            InputError: frames of another shape than the reader's, or joints of another shape.
        """
        nothing = {value.name: NAN for value in self.values}
        joints = joint_metrics.check_joints(clip, "joints", len(clip.made))
        if clip.truth is None or clip.parts is None or joints is None:
            return nothing
        try:
            made, true = self._reader(clip.made), self._truths(clip.truth)
        except InputError as error:
            raise InputError(f"clip {clip.key}: {error}") from None
        parts = at_readers_size(clip.parts)
        size = clip.made.shape[1:3]
        values = {
            **{f"read_{name}": value for name, value in joint_metrics.errors(made.joints, joints, *size).items()},
            "limb_length_error": limb_length_error(made.joints, joints, *size),
            "mask_iou": iou(made.person, parts > 0),
            "jitter": shaking(made.joints, joints, *size) - shaking(true.joints, joints, *size),
            "reader_floor_joint_error": joint_metrics.joint_error(true.joints, joints, *size),
            "reader_floor_limb_length_error": limb_length_error(true.joints, joints, *size),
            "reader_floor_iou": iou(true.person, parts > 0),
        }
        if clip.actions is not None:
            values["expression_read_error"] = expression_error(made.actions, clip.actions)
            values["reader_floor_expression"] = expression_error(true.actions, clip.actions)
        floor = colour_errors(clip.truth, true.parts, clip.truth, clip.parts)["colour_error"]
        values["reader_floor_colour_error"] = floor
        return nothing | values | colour_errors(clip.made, made.parts, clip.truth, clip.parts)


def at_readers_size(parts: np.ndarray) -> np.ndarray:
    """Labels uint8 [T,H,W] -> [T,128,80]: each the one at the middle of its pixel."""
    height, width = parts.shape[1:]
    rows = ((np.arange(HEIGHT_PX) + 0.5) * height / HEIGHT_PX).astype(int)
    columns = ((np.arange(WIDTH_PX) + 0.5) * width / WIDTH_PX).astype(int)
    return parts[:, rows[:, None], columns]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks of one shape; NaN when both are empty."""
    union = np.logical_or(one, other).sum()
    return float(np.logical_and(one, other).sum() / union) if union else NAN


def limb_length_error(read: np.ndarray, truth: np.ndarray, height: int, width: int) -> float:
    """Mean over :data:`LIMBS` of |r - 1| in %, r the median over sides and frames of read / true length; NaN when none counts.

    A wrong body is wrong in every frame; a wrong pose makes limbs now longer, now shorter.

    Args:
        read: [T,20,2]. truth: [T,20,3]. height, width: the frame, in pixels.
    """
    told, known, inside = to_pixels(read, height, width), to_pixels(truth, height, width), counted(truth)
    off = []
    for sides in LIMBS.values():
        ends = np.array([[JOINTS.index(end) for end in side] for side in sides])
        made, true = (np.linalg.norm(xy[:, ends[:, 0]] - xy[:, ends[:, 1]], axis=-1) for xy in (told, known))
        usable = inside[:, ends].all(-1) & (true >= MIN_LIMB_PX * height / HEIGHT_PX)
        if usable.mean() >= MIN_LIMB_SHARE:
            off.append(abs(float(np.median(made[usable] / true[usable])) - 1))
    return 100 * float(np.mean(off)) if off else NAN


def expression_error(read: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square difference of facial actions [T,A] over frames and actions, in % of the full action.

    Most actions are 0 most of the time: in a plain mean the few that make an expression would hardly count.
    """
    return float(100 * np.sqrt(np.square(read - truth).mean()))


def shaking(read: np.ndarray, truth: np.ndarray, height: int, width: int) -> float:
    """Mean length of the second difference of read joints [T,20,2] over those that count, in % of the true person's height
    per frame^2; NaN for fewer than 3 frames."""
    if len(read) < 3:
        return NAN
    change = np.linalg.norm(np.diff(to_pixels(read, height, width), n=2, axis=0), axis=-1)[counted(truth)[1:-1]]
    return float(100 * change.mean() / stature(truth, height, width)) if len(change) else NAN


def colour_errors(made: np.ndarray, made_parts: np.ndarray, truth: np.ndarray, parts: np.ndarray) -> dict[str, float]:
    """``colour_error_PART`` of each part that the truth shows, and ``colour_error``, their mean; NaN for the others.

    Args:
        made, truth: uint8 [T,H,W,3]. made_parts: what the reader sees, uint8 [T,128,80]. parts: the truth's, uint8 [T,H,W].
    """
    height, width = made.shape[1:3]
    rows, columns = np.arange(height) * HEIGHT_PX // height, np.arange(width) * WIDTH_PX // width
    seen_at = made_parts[:, rows[:, None], columns]
    wanted, seen, there = mean_colours(truth, parts), mean_colours(made, seen_at), mean_colours(made, parts)
    found = {}
    for name in COLOURED:
        colour, pixels = wanted[name]
        if pixels < MIN_PART_PX * len(parts) * (height * width) / (HEIGHT_PX * WIDTH_PX):
            found[f"colour_error_{name}"] = NAN
            continue
        # Leaving a part out must not be better than painting it in a wrong colour.
        shown = seen[name] if seen[name][1] >= MIN_MADE_SHARE * pixels else there[name]
        found[f"colour_error_{name}"] = float(np.abs(shown[0] - colour).mean())
    measured = [value for value in found.values() if not np.isnan(value)]
    return found | {"colour_error": float(np.mean(measured)) if measured else NAN}


def _build(settings: NoSettings, machine: Machine) -> ClipMetric:
    return DoublesReader(machine)


METRICS = {"doubles-reader": MetricSpec(NoSettings, _build)}
