"""Video files of every kind, rendered by the tests: pictures that tell their number, in whatever container, codec and timing."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 8


def numbered(count: int, height: int = 96, width: int = 128) -> np.ndarray:
    """uint8 [T,H,W,3]: a bright square moves over a gradient; ``BITS`` bars along the top tell the frame's number."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.empty((count, height, width, 3), np.uint8)
    for t in range(count):
        out[t] = np.stack([60 + 80 * x / width, 60 + 80 * y / height, np.full((height, width), 90)], axis=-1)
        left, top = int(width * (0.4 + 0.3 * math.sin(t / 7))), int(height * (0.5 + 0.2 * math.cos(t / 5)))
        out[t, top : top + height // 4, left : left + width // 4] = (220, 180, 60)
        for bit in range(BITS):
            wide = width // BITS
            out[t, : height // 5, bit * wide : (bit + 1) * wide] = 225 if t >> bit & 1 else 25
    return out


def number_in(image: np.ndarray) -> int:
    """What :func:`numbered` wrote into a frame (modulo 256)."""
    height, width = image.shape[:2]
    wide = width // BITS
    bars = [image[: height // 5, bit * wide + wide // 4 : (bit + 1) * wide - wide // 4].mean() for bit in range(BITS)]
    return sum(int(bar > 125) << bit for bit, bar in enumerate(bars))


def render(
    path: Path,
    images: np.ndarray,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    fps: int = 24,
    times_sec: list[float] | None = None,
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    rotation_deg: int = 0,
    aspect: Fraction | None = None,
    tags: tuple[int, int, int] | None = None,
    full_range: bool = False,
    matrix: int | None = None,
    interlaced: bool = False,
    start_sec: float = 0.0,
    audio_sec: float = 0.0,
    muxing: dict[str, str] | None = None,
) -> Path:
    """A file of the images.

    Args:
        tags: primaries, transfer, matrix (ITU-T H.273) that the file claims. matrix, full_range: how RGB really becomes YUV.
        aspect: width over height of a pixel.
        audio_sec: of a tone beside it.
    """
    base = Fraction(1, 24000)
    with av.open(str(path), "w", format=container, options=muxing or {}) as out:
        stream = out.add_stream(codec, rate=fps)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt, stream.options = pix_fmt, options or {}
        context = stream.codec_context
        if codec not in ("mpeg4", "gif"):
            context.time_base = stream.time_base = base
        else:
            base = Fraction(1, fps)
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if tags is not None:
            context.color_primaries, context.color_trc, context.colorspace = tags
        if full_range:
            context.color_range = 2
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        tone = out.add_stream("aac", rate=44100, layout="mono") if audio_sec else None
        for t, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pix_fmt != "rgb24" and pix_fmt != "rgb8":
                frame = frame.reformat(
                    format=pix_fmt,
                    src_colorspace=matrix or 5,
                    dst_colorspace=matrix or 5,
                    dst_color_range=2 if full_range else 1,
                )
            else:
                frame = frame.reformat(format=pix_fmt)
            if tags is not None:
                frame.color_primaries, frame.color_trc, frame.colorspace = tags
            elif pix_fmt.startswith("yuv"):
                frame.colorspace = 2
            seconds = start_sec + (times_sec[t] if times_sec is not None else t / fps)
            frame.pts, frame.time_base = round(seconds / base), base
            if interlaced:
                frame = _flagged_interlaced(frame)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if tone is not None:
            _hum(out, tone, audio_sec, start_sec)
    return path


def _flagged_interlaced(frame: av.VideoFrame) -> av.VideoFrame:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base
    )
    graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    made = graph.pull()
    made.time_base = frame.time_base
    return made


def _hum(out: av.container.OutputContainer, stream: av.AudioStream, seconds: float, start_sec: float) -> None:
    for n in range(math.ceil(seconds * 44100 / 1024)):
        wave = np.sin(2 * np.pi * 220 * (np.arange(1024) + n * 1024) / 44100)[None].astype(np.float32) * 0.2
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, round(start_sec * 44100) + n * 1024, Fraction(1, 44100)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def sound(path: Path, codec: str, seconds: float = 1.0, cover: np.ndarray | None = None) -> Path:
    """A file of sound, with a cover picture if one is given."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=44100, layout="mono")
        picture = None
        if cover is not None:
            picture = out.add_stream("mjpeg", rate=1)
            picture.height, picture.width = cover.shape[:2]
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        if picture is not None:
            frame = av.VideoFrame.from_ndarray(cover, format="rgb24")
            frame.pts = 0
            out.mux([*picture.encode(frame), *picture.encode()])
        step = stream.codec_context.frame_size or 1024
        fmt = stream.codec_context.format.name
        for n in range(math.ceil(seconds * 44100 / 1152)):
            wave = np.zeros((1, step), {"s16": np.int16, "s32": np.int32}.get(fmt[:3], np.float32))
            frame = av.AudioFrame.from_ndarray(wave, format=fmt, layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, n * step, Fraction(1, 44100)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path
