"""Videos as they come: found, checked for damage, put on a constant frame rate, decoded again only where needed.

A video is read in passes that hold one frame at a time, so its length does not matter: :func:`scan` decodes everything once
(damage, timestamps, how much the picture changes), then :func:`images` gives the few frames that a pass wants.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from imanim.errors import InputError, from_os_error

THUMBNAIL_SIDE = 64
MIN_RATE = 0.8  # of the wanted rate: below, frames would be shown twice, and the motion would stutter


class Unusable(Exception):
    """This video gives nothing. ``reason`` is a short code for counting, ``detail`` one line for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[Unusable], tuple[str, str]]:
        return Unusable, (self.reason, self.detail)


@dataclass(frozen=True)
class Scan:
    """What one pass over a whole video tells.

    Attributes:
        frames: decoded frames; ``width``/``height``: pixels as shown (upright, square pixels, at most ``max_side``).
        rate_fps: mean frame rate; ``seconds``: from the first frame to the end of the last.
        picks: int [N] decode index shown at each tick of the constant frame rate.
        times_sec: float [frames] timestamps from the first frame on.
        change: float [frames-1] mean change of the picture from each frame to the next, 0 to 1, on gray thumbnails.
    """

    frames: int
    width: int
    height: int
    rate_fps: float
    seconds: float
    codec: str
    picks: np.ndarray
    times_sec: np.ndarray
    change: np.ndarray


def find_files(folder: Path, extensions: Sequence[str]) -> list[Path]:
    """The video files under a folder, sorted. Raises InputError when the folder is missing or holds none."""
    if not folder.is_dir():
        raise InputError(f"input: {folder} is not a folder; give the folder that holds the videos")
    endings = {"." + e.lower().lstrip(".") for e in extensions}
    try:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and p.is_file())
    except OSError as error:
        raise from_os_error(error, folder) from None
    if not found:
        raise InputError(
            f"input: {folder} holds no {', '.join(sorted(endings))} file; check the folder or `extensions`"
        )
    return found


def scan(path: Path, fps: float, *, max_side: int) -> Scan:
    """Decodes a video once, wholly.

    Raises:
        Unusable: empty_file, not_a_video, corrupt, truncated, too_few_frames, frame_rate.
    """
    if path.stat().st_size == 0:
        raise Unusable("empty_file", "0 bytes")
    change: list[float] = []
    times: list[float] = []
    last: np.ndarray | None = None
    with _open(path) as container:
        stream = _stream(container)
        expected, expected_sec = stream.frames, _duration_sec(container)
        codec = stream.codec_context.name
        size = (0, 0)
        for frame in _decode(container, stream):
            if last is None:
                size = _shown_size(frame, stream, max_side)
            times.append(frame.time if frame.time is not None else math.nan)
            small = frame.reformat(THUMBNAIL_SIDE, THUMBNAIL_SIDE, "gray", interpolation="AREA").to_ndarray()
            thumbnail = small.astype(np.float32) / 255.0
            change += [] if last is None else [float(np.abs(thumbnail - last).mean())]
            last = thumbnail
    if len(times) < 3:
        raise Unusable("too_few_frames", f"{len(times)} frames")
    stamps = _timestamps(np.array(times), float(stream.average_rate or 0))
    step = float(np.median(np.diff(stamps)))
    seconds = float(stamps[-1]) + step
    # The header tells what was meant to be there: mp4 counts frames, mkv and webm give a duration.
    if len(times) < expected or seconds < 0.9 * expected_sec - 2 * step:
        raise Unusable(
            "truncated", f"{len(times)} frames, {seconds:.1f} s decode of {expected} frames, {expected_sec:.1f} s"
        )
    rate = (len(times) - 1) / float(stamps[-1])
    if rate < MIN_RATE * fps:
        raise Unusable("frame_rate", f"{rate:.1f} frames a second, fewer than {fps:g}")
    picks = nearest_frames(stamps, fps)
    return Scan(len(times), *size, rate, seconds, codec, picks, stamps, np.array(change))


def nearest_frames(times_sec: np.ndarray, fps: float) -> np.ndarray:
    """For each tick of a constant frame rate, the index of the frame nearest in time; int [N].

    ``times_sec`` [T] increases from 0. Ticks run from the first frame to the last one.
    """
    ticks = np.arange(int(math.floor(times_sec[-1] * fps + 1e-6)) + 1) / fps
    middles = (times_sec[1:] + times_sec[:-1]) / 2
    return np.searchsorted(middles, ticks, side="left")


def images(
    path: Path, wanted: Sequence[int] | np.ndarray, *, width: int, height: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames with the given decode indices, in order: (decode index, uint8 [height,width,3] RGB upright)."""
    rest = sorted({int(i) for i in wanted})
    if not rest:
        return
    position = 0
    with _open(path) as container:
        stream = _stream(container)
        for index, frame in enumerate(_decode(container, stream)):
            if index != rest[position]:
                continue
            turned = _quarter_turns(frame) % 2 == 1
            size = (height, width) if turned else (width, height)
            rgb = frame.reformat(*size, "rgb24", interpolation="AREA").to_ndarray()
            yield index, np.ascontiguousarray(np.rot90(rgb, _quarter_turns(frame)))
            position += 1
            if position == len(rest):
                return
    raise Unusable("truncated", f"frame {rest[position]} decoded at first and is gone now; is the file still changing?")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    """FFmpeg's refusals become `Unusable`, whichever pass meets them."""
    try:
        with av.open(str(path)) as container:
            yield container
    except FFmpegError as error:
        raise Unusable("not_a_video", f"{error.strerror}") from None


def _stream(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    if not container.streams.video:
        raise Unusable("not_a_video", "it has no video stream")
    stream = container.streams.video[0]
    # One worker decodes one video: threads inside FFmpeg would only fight the other workers.
    stream.thread_type = "NONE"
    return stream


def _decode(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[av.VideoFrame]:
    count, size = 0, None
    frames = container.decode(stream)
    while True:
        try:
            frame = next(frames, None)
        except FFmpegError as error:
            raise Unusable("corrupt", f"damaged after {count} frames ({error.strerror})") from None
        if frame is None:
            return
        size = size or (frame.width, frame.height)
        if frame.is_corrupt:
            raise Unusable("corrupt", f"damaged at frame {count}")
        if (frame.width, frame.height) != size:
            raise Unusable("corrupt", f"the frame size changes at frame {count}")
        count += 1
        yield frame


def _duration_sec(container: av.container.InputContainer) -> float:
    """What the header promises for the picture; 0 when it does not say. A longer sound track does not count."""
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return 0.0 if len(container.streams) > 1 else (container.duration or 0) / 1e6


def _timestamps(times: np.ndarray, rate_fps: float) -> np.ndarray:
    """Seconds from the first frame, increasing; counted by the frame rate where the file has none."""
    if np.isnan(times).any():
        if rate_fps <= 0:
            raise Unusable("frame_rate", "the file has neither timestamps nor a frame rate")
        return np.arange(len(times)) / rate_fps
    stamps = times - times[0]
    if (np.diff(stamps) <= 0).any():
        raise Unusable("corrupt", "its timestamps do not increase")
    return stamps


def _quarter_turns(frame: av.VideoFrame) -> int:
    """How often to turn the picture counter-clockwise by 90 degrees, as phones ask for."""
    return round((frame.rotation or 0) / 90) % 4


def _shown_size(frame: av.VideoFrame, stream: av.video.stream.VideoStream, max_side: int) -> tuple[int, int]:
    """Width and height in square pixels, upright, at most ``max_side``."""
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    wide, high = frame.width * aspect, float(frame.height)
    if _quarter_turns(frame) % 2:
        wide, high = high, wide
    scale = min(1.0, max_side / max(wide, high))
    return max(2, round(wide * scale)), max(2, round(high * scale))
