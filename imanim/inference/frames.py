"""Videos of any length in constant memory: frames go to a temporary file as they are decoded or made, and come back in slices."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from imanim.data.video import probe_video
from imanim.errors import InputError, from_os_error
from imanim.inference.canvas import Fit, fit, place

MIN_FRAMES = 5
"""Fewer frames than this hold no motion to speak of (one latent frame after the first)."""


class FrameStore:
    """uint8 frames [H,W,3] of one size in a temporary file; behaves as much like an array [T,H,W,3] as writing a video needs.

    ``store[a:b]`` reads those frames, ``store.append(frame)`` adds one, iterating reads them one by one. A full disk raises
    InputError.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, height: int, width: int):
        self.size = (height, width)
        self._frame_bytes = height * width * 3
        self._count = 0
        try:
            self._file = tempfile.TemporaryFile(prefix="imanim-")  # noqa: SIM115 - lives as long as the store
        except OSError as error:
            raise from_os_error(error, tempfile.gettempdir()) from None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self._count, *self.size, 3)

    def __len__(self) -> int:
        return self._count

    def append(self, frame: np.ndarray) -> None:
        """Adds a frame uint8 [H,W,3] at the end."""
        try:
            self._file.seek(self._count * self._frame_bytes)
            self._file.write(np.ascontiguousarray(frame, np.uint8).tobytes())
        except OSError as error:
            raise from_os_error(error, f"temporary file in {tempfile.gettempdir()}") from None
        self._count += 1

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, step = where.indices(self._count)
        if step != 1:
            raise ValueError("a FrameStore gives consecutive frames only")
        count = max(0, stop - start)
        self._file.seek(start * self._frame_bytes)
        data = bytearray(self._file.read(count * self._frame_bytes))  # a bytearray makes a writable array
        return np.frombuffer(data, np.uint8).reshape(count, *self.size, 3)

    def __iter__(self) -> Iterator[np.ndarray]:
        for i in range(self._count):
            yield self[i : i + 1][0]

    def close(self) -> None:
        """Gives the disk space back."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def decode_frames(path: str | Path) -> Generator[np.ndarray, None, None]:
    """Frames uint8 [H,W,3], upright, one by one.

    Raises:
        InputError: no video, damaged anywhere, truncated, or the size changes.
    """
    info, count, size = probe_video(path), 0, None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise InputError(f"{path}: damaged at frame {count}; re-encode it or leave it out")
                if size not in (None, (frame.width, frame.height)):
                    raise InputError(f"{path}: the frame size changes at frame {count}; re-encode it at one size")
                size, count = (frame.width, frame.height), count + 1
                yield _upright(frame)
    except FFmpegError as error:
        at = f"damaged after {count} frames" if count else "not a readable video"
        raise InputError(f"{path}: {at} ({error.strerror}); re-encode it or leave it out") from None
    if count < info.frames:
        raise InputError(f"{path}: truncated, {count} of {info.frames} frames decode; get the whole file")


def load_driving(
    path: str | Path, canvas: tuple[int, int], *, fps: float | None = None, max_frames: int | None = None
) -> tuple[FrameStore, float, Fit]:
    """Decodes a driving video onto the model's canvas, frame by frame.

    Args:
        canvas: (H, W).
        fps: resample to this rate by repeating or leaving out frames; None keeps every frame.
        max_frames: at most this many frames come out; the rest is not decoded.

    Returns:
        the frames [T,H,W,3], their rate, and where the picture lies on the canvas.

    Raises:
        InputError: not a readable video, damaged, or fewer than 5 frames come out.
    """
    source_fps = probe_video(path).fps
    if not source_fps > 0:
        raise InputError(f"{path}: has no frame rate; re-encode it at a constant frame rate")
    rate = fps or source_fps
    store, where = FrameStore(*canvas), None
    frames = decode_frames(path)
    try:
        for i, frame in enumerate(frames):
            if max_frames is not None and len(store) >= max_frames:
                break
            where = where or fit(frame, canvas)
            wanted = _ticks_until(i, source_fps, rate) - len(store)
            if wanted:
                fitted = place(frame, where)
                for _ in range(wanted if max_frames is None else min(wanted, max_frames - len(store))):
                    store.append(fitted)
        if len(store) < MIN_FRAMES or where is None:
            at = f" at {rate:g} frames/s" if fps else ""
            raise InputError(f"{path}: {len(store)} frames{at}; a driving video needs at least {MIN_FRAMES}")
    except BaseException:
        store.close()
        raise
    finally:
        frames.close()
    return store, rate, where


def _ticks_until(frame: int, source_fps: float, fps: float) -> int:
    """How many output frames fall within source frames 0..frame: output frame k shows what is on screen at k/fps seconds."""
    return int(np.ceil((frame + 1) * fps / source_fps - 1e-9))


def _upright(frame: av.VideoFrame) -> np.ndarray:
    rgb = frame.to_ndarray(format="rgb24")
    # FFmpeg's display rotation is counter-clockwise, like np.rot90's.
    turns = round((frame.rotation or 0) / 90) % 4
    return np.rot90(rgb, turns) if turns else rgb
