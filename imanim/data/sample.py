"""The sample contract: what one training or evaluation sample is, and its members inside a WebDataset tar.

    KEY.driving.mp4          the motion: T frames, H.264, constant frame rate
    KEY.target.mp4           the truth to generate; absent when the driving clip itself is the truth (self pair)
    KEY.identity.png         the character, another time or another take
    KEY.joints.npy           float32 [T,20,3]: x,y in [0,1] of the target frame, visibility
    KEY.driving_joints.npy   the same for the driver, when the driver is somebody else
    KEY.identity_joints.npy  float32 [20,3] in the identity frame, when known
    KEY.faces.npy            float32 [T,4]: face box x0,y0,x1,y1 in [0,1] of the driving frame (NaN = none)
    KEY.parts.png            part labels of the target frames, stacked from top to bottom (8-bit grey), when known
    KEY.driving_parts.png    the same for the driving frames
    KEY.expression.npy       float16 [T,52]: facial actions (ARKit's names), the same of driver and target, when known
    KEY.latents.safetensors  optional cache of what a frozen autoencoder says of target and identity (imanim.data.latents)
    KEY.meta.json            schema, fps, size, source, licence, ids and every parameter that made it

Nothing is pickled anywhere. Joint coordinates are true even when a joint is hidden (Doubles); a joint that nobody knows
has NaN coordinates and visibility 0 (real video).
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from imanim.data.video import read_image, read_video, write_png, write_video
from imanim.errors import InputError

SCHEMA_VERSION = 1

JOINTS = (
    "nose neck r_shoulder r_elbow r_wrist l_shoulder l_elbow l_wrist r_hip r_knee r_ankle l_hip l_knee l_ankle "
    "r_eye l_eye r_ear l_ear l_toe r_toe"
).split()
"""OpenPose 18 (COCO-17 + neck) plus one toe point a foot, in Wan-Animate's order; l_ and r_ are the person's own."""

JOINT_PARENTS = (1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 1, 11, 12, 0, 0, 14, 15, 13, 10)
"""The joint each joint hangs on; the neck is the root."""

PARTS = "background skin lips brow sclera iris hair shirt pants skirt shoes teeth tongue".split()
"""Part labels: ``PARTS[label]``; everything above 0 belongs to the person."""

FACIAL_ACTIONS = 52
"""Values a frame of ``expression``, in the order of data_pipeline.doubles.motions.FACE_ACTIONS."""


@dataclass
class Sample:
    """One sample, decoded. H,W are the frame's pixels, T its frames."""

    key: str
    driving: np.ndarray
    """uint8 [T,H,W,3]: whose motion."""
    fps: float
    identity: np.ndarray
    """uint8 [H,W,3]: whose body and face."""
    joints: np.ndarray
    """float32 [T,20,3] in the target frame."""
    faces: np.ndarray
    """float32 [T,4] in the driving frame, NaN = none."""
    meta: dict[str, Any] = field(default_factory=dict)
    target: np.ndarray | None = None
    """uint8 [T,H,W,3]; None: the driving clip is the truth."""
    driving_joints: np.ndarray | None = None
    """float32 [T,20,3] in the driving frame; None: the same as ``joints``."""
    identity_joints: np.ndarray | None = None
    parts: np.ndarray | None = None
    """uint8 [T,H,W] labels of the target frames."""
    driving_parts: np.ndarray | None = None
    expression: np.ndarray | None = None
    """float16 [T,52] in [0,1]: facial actions that driver and target share; None: nobody knows them."""
    truth_left_out: bool = False
    """True: the target's pixels were not read, or are not in the shard (only its latents are)."""

    @property
    def truth(self) -> np.ndarray:
        """uint8 [T,H,W,3]: the frames to generate. Raises InputError when they were left out."""
        if self.truth_left_out:
            raise InputError(
                f"sample {self.key}: the target's pixels are not here, only its latents; use the shards the cache was made from"
            )
        return self.driving if self.target is None else self.target

    @property
    def joints_of_driver(self) -> np.ndarray:
        """float32 [T,20,3] in the driving frame."""
        return self.joints if self.driving_joints is None else self.driving_joints


def encode(sample: Sample, *, crf: int = 18) -> dict[str, bytes]:
    """A sample as tar members, extension to bytes. Raises InputError when it breaks the contract."""
    problem = check(sample)
    if problem:
        raise InputError(f"sample {sample.key}: {problem}")
    height, width = sample.driving.shape[1:3]
    meta = {**sample.meta, "schema": SCHEMA_VERSION, "fps": sample.fps, "frames": len(sample.driving)}
    meta["size"] = [height, width]
    members = {
        "driving.mp4": write_video(None, sample.driving, sample.fps, crf=crf),
        "identity.png": write_png(None, sample.identity),
        "joints.npy": _npy(sample.joints),
        "faces.npy": _npy(sample.faces),
        "meta.json": json.dumps(meta, sort_keys=True, allow_nan=False).encode(),
    }
    if sample.target is not None:
        members["target.mp4"] = write_video(None, sample.target, sample.fps, crf=crf)
    for name in ("driving_joints", "identity_joints", "expression"):
        if getattr(sample, name) is not None:
            members[f"{name}.npy"] = _npy(getattr(sample, name))
    for name in ("parts", "driving_parts"):
        labels = getattr(sample, name)
        if labels is not None:
            members[f"{name}.png"] = write_png(None, labels.reshape(-1, labels.shape[-1]))
    return dict(sorted(members.items()))


REQUIRED = ("driving.mp4", "identity.png", "joints.npy", "faces.npy", "meta.json")
OPTIONAL = (
    "target.mp4",
    "driving_joints.npy",
    "identity_joints.npy",
    "parts.png",
    "driving_parts.png",
    "expression.npy",
)
TARGET_DROPPED = "target_dropped"
"""Set in ``meta.json`` when ``target.mp4`` was left out of a shard because its latents are there: not a self pair."""


def decode(key: str, members: Mapping[str, bytes], *, skip: Collection[str] = ()) -> Sample:
    """Tar members back to a sample.

    Args:
        members: extension to bytes, as :func:`encode` gives them.
        skip: optional members not worth decoding now (``parts.png``, ``target.mp4``); they need not be in ``members``.

    Raises:
        InputError: naming the sample and the member that is missing, damaged or at odds with the others.
    """
    for name in REQUIRED:
        if name not in members:
            raise InputError(f"sample {key}: member {name} is missing; make the shard again")
    meta = read_meta(key, members["meta.json"])
    arrays = {n: _load_npy(key, n, members[n]) for n in members if n.endswith(".npy") and n in REQUIRED + OPTIONAL}
    driving = read_video(members["driving.mp4"], name=f"sample {key}: driving.mp4").frames
    target = None if "target.mp4" in skip else members.get("target.mp4")
    sample = Sample(
        key=key,
        driving=driving,
        fps=float(meta.get("fps", 0)),
        identity=read_image(members["identity.png"], name=f"sample {key}: identity.png"),
        joints=arrays["joints.npy"],
        faces=arrays["faces.npy"],
        meta=meta,
        target=None if target is None else read_video(target, name=f"sample {key}: target.mp4").frames,
        driving_joints=arrays.get("driving_joints.npy"),
        identity_joints=arrays.get("identity_joints.npy"),
        expression=arrays.get("expression.npy"),
        parts=_labels(key, "parts.png", members, skip, len(driving)),
        driving_parts=_labels(key, "driving_parts.png", members, skip, len(driving)),
        truth_left_out="target.mp4" in skip or bool(meta.get(TARGET_DROPPED)),
    )
    problem = check(sample)
    if problem:
        raise InputError(f"sample {key}: {problem}; make the shard again")
    return sample


def check(sample: Sample) -> str | None:
    """The first breach of the contract, or None."""
    frames, height, width = sample.driving.shape[:3]
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "driving": (np.uint8, (frames, height, width, 3)),
        "target": (np.uint8, (frames, height, width, 3)),
        "identity": (np.uint8, (height, width, 3)),
        "joints": (np.float32, (frames, len(JOINTS), 3)),
        "driving_joints": (np.float32, (frames, len(JOINTS), 3)),
        "identity_joints": (np.float32, (len(JOINTS), 3)),
        "faces": (np.float32, (frames, 4)),
        "parts": (np.uint8, (frames, height, width)),
        "driving_parts": (np.uint8, (frames, height, width)),
        "expression": (np.float16, (frames, FACIAL_ACTIONS)),
    }
    for name, (kind, shape) in expected.items():
        value = getattr(sample, name)
        if value is not None and (value.shape != shape or value.dtype != kind):
            return f"{name} is {value.dtype} {list(value.shape)}, expected {np.dtype(kind)} {list(shape)}"
    for name in ("joints", "driving_joints", "identity_joints"):
        value = getattr(sample, name)
        if value is None:
            continue
        unknown = np.isnan(value[..., :2]).any(-1)
        if np.isnan(value[..., 2]).any() or (value[..., 2][unknown] != 0).any():
            return f"{name}: a joint without coordinates (NaN) must have visibility 0"
        if np.isinf(value).any() or ((value[..., 2] < 0) | (value[..., 2] > 1)).any():
            return f"{name}: infinite coordinates, or visibility outside 0..1"
    if np.isinf(sample.faces).any() or (np.isnan(sample.faces).any(-1) != np.isnan(sample.faces).all(-1)).any():
        return "faces: a box is four finite numbers or four NaN"
    if sample.expression is not None and not ((sample.expression >= 0) & (sample.expression <= 1)).all():
        return "expression: a facial action outside 0..1"
    for name in ("parts", "driving_parts"):
        labels = getattr(sample, name)
        if labels is not None and labels.max(initial=0) >= len(PARTS):
            return f"{name}: label {int(labels.max())}, known labels are 0 to {len(PARTS) - 1}"
    if not sample.fps > 0:
        return f"fps is {sample.fps}, expected a positive number"
    return None


def _npy(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _load_npy(key: str, name: str, data: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"sample {key}: {name} is damaged ({error}); make the shard again") from None


def read_meta(key: str, data: bytes) -> dict[str, Any]:
    """``meta.json`` of a sample. Raises InputError when it is damaged or of another version."""
    try:
        meta = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"sample {key}: meta.json is damaged ({error}); make the shard again") from None
    if not isinstance(meta, dict):
        raise InputError(f"sample {key}: meta.json holds {type(meta).__name__}, not an object; make the shard again")
    if meta.get("schema") != SCHEMA_VERSION:
        raise InputError(
            f"sample {key}: schema {meta.get('schema')}, this version reads {SCHEMA_VERSION}; preprocess again"
        )
    return meta


def _labels(key: str, name: str, members: Mapping[str, bytes], skip: Collection[str], frames: int) -> np.ndarray | None:
    if name not in members or name in skip:
        return None
    try:
        strip = np.array(Image.open(io.BytesIO(members[name])))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"sample {key}: {name} is damaged ({error}); make the shard again") from None
    if strip.ndim != 2 or strip.shape[0] % frames:
        raise InputError(
            f"sample {key}: {name} is {list(strip.shape)}, not {frames} frames of labels; make the shard again"
        )
    return strip.reshape(frames, -1, strip.shape[1])
