"""Videos that the tests render themselves, and a pose network that knows what is in them: no people, no weights."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_pipeline.pose.base import Pose, Region

DISC = (230, 40, 40)
RADIUS = 14
# Offsets of the 20 joints from the disc's centre, in pixels: the nose in the middle, the rest spread around it.
OFFSETS = np.stack([np.linspace(-24, 24, 20), np.linspace(-30, 40, 20)[np.r_[10:20, 0:10]]], axis=1)
OFFSETS[0] = 0


def disc_centre(t: int) -> tuple[float, float]:
    """Where the disc is in frame t of a 160 x 200 video."""
    return 60 + 1.2 * t, 90 + 8 * np.sin(t / 5)


def disc_frames(count: int, *, discs: int = 1, ground: int = 90) -> np.ndarray:
    """uint8 [T,200,160,3]: a red disc moving over a gray gradient."""
    y, x = np.mgrid[0:200, 0:160]
    out = np.empty((count, 200, 160, 3), np.uint8)
    for t in range(count):
        out[t] = (ground + y // 8)[..., None]
        for n in range(discs):
            cx, cy = disc_centre(t)
            out[t][(x + 0.5 - cx + 70 * n) ** 2 + (y + 0.5 - cy) ** 2 < RADIUS**2] = DISC
    return out


def write(path: Path, frames: np.ndarray, *, fps: int = 24, times: list[float] | None = None, codec="libx264") -> Path:
    """A video file; ``times`` (seconds) instead of the constant rate when given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 24000)
        if codec == "libx264":
            stream.options = {"crf": "12", "bf": "0"}
        for t, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round((times[t] if times else t / fps) * 24000), Fraction(1, 24000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class DiscNetwork:
    """Finds red discs and reports a body around each."""

    name = "discs"

    def find(self, frame):
        from scipy import ndimage

        labels, count = ndimage.label(self._red(frame))
        regions = []
        for n in range(1, count + 1):
            y, x = np.nonzero(labels == n)
            if len(x) > 100:
                regions.append(Region(x.mean() + 0.5, y.mean() + 0.5, 90, 90))
        return regions

    def pose(self, frame, region):
        high, wide = frame.shape[:2]
        x0, y0 = max(int(region.x - 30), 0), max(int(region.y - 30), 0)
        y, x = np.nonzero(self._red(frame)[y0 : min(y0 + 60, high), x0 : min(x0 + 60, wide)])
        if len(x) < 100:
            return None
        centre = np.array([x.mean() + x0 + 0.5, y.mean() + y0 + 0.5])
        joints = np.ones((20, 3), np.float32)
        joints[:, :2] = centre + OFFSETS
        head = np.stack([centre - 8, centre + (8, -8), centre + 8]).astype(np.float32)
        return Pose(joints, head, 1.0, Region(*centre, 90, 90))

    def _red(self, frame):
        return (frame[..., 0] > 150) & (frame[..., 1] < 110)


class DiscFaces:
    """A box in the middle of the head."""

    def box(self, frame, head):
        centre = head.mean(axis=0)
        return np.concatenate([centre - 10, centre + 10]).astype(np.float32)


def work_or_die(task):
    """Stands for `data_pipeline.job.work` in processes of their own: one file kills its process."""
    if "deadly" in task[1]:
        os._exit(1)
    return {"file": task[1]}
