"""Reading and writing videos and images, with damage refused instead of passed on.

PyAV, because it alone exposes FFmpeg's damage flags (PEERS: 40 flipped bytes passed silently through three other readers).
"""

from __future__ import annotations

import io
import tempfile
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from imanim.data.files import write_atomic
from imanim.errors import InputError, from_os_error

Source = str | Path | bytes


@dataclass
class Video:
    """Decoded frames, uint8 [T,H,W,3] RGB, upright; ``fps`` is the stream's average rate, ``times_sec`` [T] when shown."""

    frames: np.ndarray
    fps: float
    times_sec: np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What the container says, nothing decoded. ``frames`` is 0 when the container does not say."""

    frames: int
    fps: float
    width: int
    height: int
    duration_sec: float
    codec: str


def read_video(source: Source, *, min_frames: int = 1, max_frames: int | None = None, name: str | None = None) -> Video:
    """Decodes a video's first video stream.

    Args:
        source: a path, or the file's bytes.
        min_frames: fewer decodable frames than this is refused.
        max_frames: stop after this many frames (damage behind them goes unseen).
        name: how errors call the video; the path by default.

    Raises:
        InputError: missing, empty, no video stream, corrupt or truncated, or too short.
    """
    name = name or _name(source)
    frames: list[np.ndarray] = []
    times: list[float] = []
    try:
        with _open(source, name) as container:
            stream = _video_stream(container, name)
            stream.thread_type = "AUTO" if stream.width * stream.height > 512 * 512 else "NONE"
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            expected = stream.frames
            converter = (
                VideoReformatter()
            )  # kept over the frames: making one costs more than a small frame's conversion
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise InputError(f"{name}: damaged at frame {len(frames)}; re-encode it or leave it out")
                frames.append(_upright(frame, converter))
                times.append(float(frame.time) if frame.time is not None else len(times) / (fps or 1.0))
                if max_frames is not None and len(frames) >= max_frames:
                    break
    except FFmpegError as error:
        at = f"damaged after {len(frames)} frames" if frames else "not a readable video"
        raise InputError(f"{name}: {at} ({error.strerror}); re-encode it or leave it out") from None
    if max_frames is None and len(frames) < expected:
        raise InputError(f"{name}: truncated, {len(frames)} of {expected} frames decode; get the whole file")
    if len(frames) < max(1, min_frames):
        raise InputError(f"{name}: {len(frames)} frames; at least {max(1, min_frames)} are needed")
    if len({f.shape for f in frames}) != 1:
        raise InputError(f"{name}: the frame size changes inside the video; re-encode it at one size")
    if not fps > 0:
        raise InputError(f"{name}: has no frame rate; re-encode it at a constant frame rate")
    return Video(np.stack(frames), fps, np.asarray(times))


def probe_video(source: Source, *, name: str | None = None) -> VideoInfo:
    """Reads a video's header. Raises InputError when it is no video."""
    name = name or _name(source)
    try:
        with _open(source, name) as container:
            s = _video_stream(container, name)
            duration = (
                float(s.duration * s.time_base) if s.duration and s.time_base else (container.duration or 0) / 1e6
            )
            rate = float(s.average_rate or s.guessed_rate or 0)
            return VideoInfo(s.frames, rate, s.width, s.height, duration, s.codec_context.name)
    except FFmpegError as error:
        raise InputError(f"{name}: not a readable video ({error.strerror}); re-encode it or leave it out") from None


def write_video(
    path: str | Path | None, frames: np.ndarray, fps: float, *, crf: int = 18, gop_frames: int = 16
) -> bytes:
    """Encodes H.264 (yuv420p, constant frame rate, a keyframe every ``gop_frames``, faststart) and returns the file.

    Random access is why the keyframes are close: a random window decodes 13 times faster than from videos as found.
    One thread and no timestamps of the day: the same frames give the same bytes.

    Args:
        path: where to write it (atomically), or None to return the bytes only.
        frames: uint8 [T,H,W,3] RGB, H and W even.
        crf: x264's quality, lower is better; 18 is visually lossless at these sizes.

    Raises:
        InputError: wrong shape or type, odd sizes, or the system refuses to write.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise InputError(f"video to write: expected uint8 [T,H,W,3], found {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise InputError(f"video to write: {width}x{height} has an odd side; H.264 in yuv420p needs even sides")
    # faststart rewrites the file from its end, which FFmpeg can do on disk only.
    with tempfile.TemporaryDirectory(prefix="imanim-") as folder:
        file = Path(folder, "clip.mp4")
        try:
            _encode(file, frames, fps, crf, gop_frames)
            data = file.read_bytes()
        except OSError as error:
            raise from_os_error(error, folder) from None
    if path is not None:
        write_atomic(path, data)
    return data


def read_image(source: Source, *, background: str | None = None, name: str | None = None) -> np.ndarray:
    """Reads an image as uint8 [H,W,3] RGB, turned upright by its EXIF orientation.

    Args:
        background: the colour (``white``, ``#80ff00``) that shows through where the image is transparent.

    Raises:
        InputError: missing or damaged, or transparent without a ``background``.
    """
    name = name or _name(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except (
        UnidentifiedImageError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
        SyntaxError,
        ValueError,
    ):
        raise InputError(f"{name}: not a readable image (or absurdly large); give a PNG or JPEG") from None
    except OSError as error:
        if error.errno is None:
            raise InputError(f"{name}: a damaged image ({error}); get the whole file") from None
        raise from_os_error(error, name) from None
    return np.array(_opaque(image, background, name))


def exif_rotated(source: Source) -> bool:
    """True when the image's EXIF data say that it is to be shown turned or mirrored."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return image.getexif().get(0x0112, 1) != 1


def write_png(path: str | Path | None, image: np.ndarray) -> bytes:
    """Encodes uint8 [H,W,3] or [H,W] as PNG; writes it atomically when a path is given."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    data = buffer.getvalue()
    if path is not None:
        write_atomic(path, data)
    return data


def _opaque(image: Image.Image, background: str | None, name: str) -> Image.Image:
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if "A" not in image.getbands():
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema()[0] == 255:
        return rgba.convert("RGB")
    if background is None:
        raise InputError(f"{name}: is partly transparent; say what shows through with --background white (or #rrggbb)")
    try:
        canvas = Image.new("RGBA", rgba.size, (*ImageColor.getrgb(background)[:3], 255))
    except ValueError:
        raise InputError(f"--background {background}: not a colour; use a name or #rrggbb") from None
    return Image.alpha_composite(canvas, rgba).convert("RGB")


def _encode(file: Path, frames: np.ndarray, fps: float, crf: int, gop_frames: int) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    # mbtree=0: with it x264 gives other bytes each time on CPUs with AVX-512 (one clip: 21 ways in 24 encodings).
    options = {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": "scenecut=0:open-gop=0:mbtree=0"}
    with av.open(str(file), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.gop_size = gop_frames
        # Without these a player guesses the matrix from the frame size and colours shift.
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(
                stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"))
            )
        container.mux(stream.encode())


def _name(source: Source) -> str:
    return "video" if isinstance(source, bytes) else str(source)


def _open(source: Source, name: str) -> InputContainer:
    if isinstance(source, bytes):
        if not source:
            raise InputError(f"{name}: empty (0 bytes); make it again")
        return cast(InputContainer, av.open(io.BytesIO(source)))
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{name}: no such file; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{name}: empty (0 bytes); get the whole file")
    return av.open(str(path))


def _video_stream(container: InputContainer, name: str) -> av.video.stream.VideoStream:
    if not container.streams.video:
        raise InputError(f"{name}: has no video stream; give a video file")
    stream = container.streams.video[0]
    # A stream without a decoder (damaged header, unknown codec) has no codec context and so no size.
    if stream.codec_context is None or not stream.codec_context.width:
        raise InputError(f"{name}: not a readable video (no decodable video stream); re-encode it or leave it out")
    return stream


def _upright(frame: av.VideoFrame, converter: VideoReformatter) -> np.ndarray:
    rgb = converter.reformat(frame, format="rgb24").to_ndarray()
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    # FFmpeg's display rotation is counter-clockwise, like np.rot90's.
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
