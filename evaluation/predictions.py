"""The videos to be measured, a file or folder a sample: ours as generation wrote them, or anybody's (``--predictions``).

Ours are lossless (FFV1 in Matroska), so that measuring later is measuring what the model made. Beside each lies what the model
read: ``KEY.joints.npy`` float32 [2,T,20,2], retargeted joints in the target frame and the driver's in the driving frame; and
``KEY.json``, what made it: with it, generation is resumed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream

from evaluation.protocols import footage
from evaluation.protocols.items import Item
from evaluation.protocols.sizes import made_at
from imanim.data.files import read_json, sha256, sha256_file, write_atomic, write_json
from imanim.errors import InputError, from_os_error

_VIDEO_HASH = "video_sha256"


@dataclass
class Made:
    """A made video uint8 [T,H,W,3] at the size it is measured at; ``joints`` float32 [2,T,20,2] where the model told them."""

    frames: np.ndarray
    joints: np.ndarray | None = None


def read(folder: Path, item: Item, frames: int, size: tuple[int, int], rule: str) -> Made:
    """The video made for a sample, checked against what it is measured beside.

    Args:
        frames, size: of the truth (height, width). rule: the protocol's ``resize``.

    Raises:
        InputError: there is none, it is damaged, grey, transparent, of another length or of a size that may not be changed.
    """
    path = footage.find(folder, item.key)
    if path is None:
        raise InputError(
            f"{folder}: has no video for sample {item.key}; make {item.key}.mp4 (or .mkv, or a folder of frames)"
        )
    found, _ = footage.read(path)
    if len(found) != frames:
        raise InputError(f"{path}: {len(found)} frames, the sample has {frames}; make one for each driving frame")
    return Made(made_at(str(path), found, size, rule), _joints(folder, item.key, frames))


def write(
    folder: Path, key: str, frames: np.ndarray | None, fps: float, joints: np.ndarray | None, record: dict[str, Any]
) -> None:
    """Keeps what was made; the record is written last, so that a killed run's half is made again. Without frames: joints only."""
    if frames is not None:
        video = lossless(frames, fps)
        write_atomic(folder / f"{key}.mkv", video)
        record = {**record, _VIDEO_HASH: sha256(video)}
    if joints is not None:
        buffer = io.BytesIO()
        np.save(buffer, joints.astype(np.float32), allow_pickle=False)
        write_atomic(folder / f"{key}.joints.npy", buffer.getvalue())
    write_json(folder / f"{key}.json", record)


def is_made(folder: Path, key: str, record: dict[str, Any], *, filmed: bool = True) -> bool:
    """Whether what ``record`` describes is there already, undamaged (a decoder shows broken FFV1 as if nothing were)."""
    path, video = folder / f"{key}.json", folder / f"{key}.mkv"
    if not path.is_file():
        return False
    try:
        known = dict(read_json(path))
    except InputError:
        return False
    found = known.pop(_VIDEO_HASH, None)
    return known == record and (not filmed or (video.is_file() and sha256_file(video) == found))


def read_joints(folder: Path, key: str, frames: int) -> np.ndarray | None:
    """``KEY.joints.npy``, or None where the method tells no joints. Raises InputError when it is damaged or of another length."""
    return _joints(folder, key, frames)


def lossless(frames: np.ndarray, fps: float) -> bytes:
    """uint8 [T,H,W,3] as FFV1 in Matroska: every pixel comes back as it was, and so do the bytes for equal frames."""
    buffer = io.BytesIO()
    # `bitexact`: without it Matroska writes a random identifier and the program's version.
    with av.open(buffer, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = cast(VideoStream, container.add_stream("ffv1", rate=rate, options={"threads": "1"}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="bgr0")))
        container.mux(stream.encode())
    return buffer.getvalue()


def content_of(folder: Path, key: str) -> str:
    """sha256 of what would be measured for a sample: the video and the joints; of nothing when there is none."""
    path, joints = footage.find(folder, key), folder / f"{key}.joints.npy"
    parts = [footage.hash_of(path) if path is not None else "", footage.hash_of(joints) if joints.is_file() else ""]
    return sha256(" ".join(parts).encode())


def _joints(folder: Path, key: str, frames: int) -> np.ndarray | None:
    path = folder / f"{key}.joints.npy"
    if not path.is_file():
        return None
    try:
        joints = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it or make it again") from None
    except OSError as error:
        raise from_os_error(error, path) from None
    if joints.shape != (2, frames, 20, 2):
        raise InputError(f"{path}: {list(joints.shape)}, expected [2,{frames},20,2]; delete it or make it again")
    return joints
