"""Videos that the tests render themselves, and a pose network that knows what is in them: no people, no weights."""

import errno
import os
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_pipeline.config import VideosConfig
from data_pipeline.faces.base import Face
from data_pipeline.pose.base import Pose, Region

DISC = (230, 40, 40)
RADIUS = 14
# Offsets of the 20 joints from the disc's centre, in pixels: the nose in the middle, the rest spread around it.
OFFSETS = np.stack([np.linspace(-24, 24, 20), np.linspace(-30, 40, 20)[np.r_[10:20, 0:10]]], axis=1)
OFFSETS[0] = 0


def disc_centre(t: int) -> tuple[float, float]:
    """Where the disc is in frame t of a 160 x 200 video."""
    return 60 + 1.2 * t, 90 + 8 * np.sin(t / 5)


def disc_frames(count: int, *, discs: int = 1, ground: int = 90, blue: int = 40) -> np.ndarray:
    """uint8 [T,200,160,3]: red discs moving over a gray gradient; ``blue`` tells one disc from another."""
    y, x = np.mgrid[0:200, 0:160]
    out = np.empty((count, 200, 160, 3), np.uint8)
    for t in range(count):
        out[t] = (ground + y // 8)[..., None]
        for n in range(discs):
            cx, cy = disc_centre(t)
            out[t][(x + 0.5 - cx + 70 * n) ** 2 + (y + 0.5 - cy) ** 2 < RADIUS**2] = (*DISC[:2], blue)
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
    models: dict[str, str] = {}

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
        return Pose(joints, head, 1.0, Region(*centre, 90, 90), np.ones(2, np.float32))

    def _red(self, frame):
        return (frame[..., 0] > 150) & (frame[..., 1] < 110)


class DiscFaces:
    """A box in the middle of the head region, a face that looks at us."""

    name = "discs"
    models: dict[str, str] = {}

    def find(self, frame, region):
        centre = np.array([region.x, region.y], np.float32)
        points = centre + np.array([[-5, -4], [5, -4], [0, 0], [-4, 5], [4, 5]], np.float32)
        return Face(np.concatenate([centre - 13, centre + 13]), points, 1.0)


class DiscIdentity:
    """Who a disc is: the blue of its face."""

    name = "discs"
    models: dict[str, str] = {}
    size = 2
    threshold = 0.2

    def embed(self, frame, face):
        x, y = face.points[2].astype(int)
        return np.array([frame[y - 2 : y + 3, x - 2 : x + 3, 2].mean() / 100, 0.0], np.float32)


def disc_network(config):
    """For ``pose.backend=moving_disc:disc_network``. The file that ``pose.detector`` names says what goes wrong, if it is there."""
    flag = config.detector
    if flag is not None and flag.is_file():
        trouble = flag.read_text()
        if trouble == "defect":
            return DefectiveNetwork()
        _fill_disk_after(int(trouble))
    return DiscNetwork()


class DefectiveNetwork(DiscNetwork):
    """Meets a case that nobody thought of."""

    def find(self, frame):
        raise ZeroDivisionError("oops")


def _fill_disk_after(files):
    """From the given number of files on the disk is full for this process."""
    real, left = os.fsync, [files]

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    os.fsync = fsync


def deadly_caption(frames, meta):
    """For ``captions.backend``: one disc kills its process."""
    red = (frames[0, ..., 0] > 150) & (frames[0, ..., 1] < 110)
    if frames[0, ..., 2][red].mean() > 65:
        os._exit(1)
    return f"{len(frames)} frames of a disc"


def disc_faces(config):
    """For ``face.backend=moving_disc:disc_faces``."""
    return DiscFaces()


def disc_identity(config):
    """For ``identity.backend=moving_disc:disc_identity``."""
    return DiscIdentity()


def settings(videos, output, **changes):
    """A job's settings with the disc finders; ``clip__frames=33`` sets ``clip.frames``."""
    made = VideosConfig(input=Path(videos), output=Path(output), workers=2, samples_per_shard=2)
    made.pose.backend = "moving_disc:disc_network"
    made.face.backend = "moving_disc:disc_faces"
    made.identity.backend = "moving_disc:disc_identity"
    made.identity.min_face_px, made.identity.min_frontality = 1, 0.0
    made.quality.text = "none"
    for rule in fields(made.rules):
        setattr(made.rules, rule.name, None)
    for name, value in changes.items():
        *path, last = name.split("__")
        place = made
        for part in path:
            place = getattr(place, part)
        setattr(place, last, value)
    return made
