"""What a video's header and first frame say, before anything is decoded for good."""

from __future__ import annotations

import contextlib
import errno
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.stream import VideoStream

from data_pipeline.decode.matroska import refuse_shorter_than_declared
from data_pipeline.sources import Unusable

MAX_PIXELS = 8192 * 4608
"""A larger declared frame is a damaged header: memory for it is never asked for."""
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,m4v,av1,obu,ivf,flv,asf,ogg,gif,mxf,dv,nut,"
    "mp3,aac,wav,flac"
)
"""What holds a video in one file. Playlists and scripts are not among them: they would make FFmpeg open other files."""
MAX_ASPECT = 4.0
"""Of a stored pixel's sides: more is a damaged header, not a lens."""
DOLBY_VISION = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
"""Codec tags of streams that are Dolby Vision and nothing else."""
HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics (ITU-T H.273) of HDR."""
DAMAGE = "crccheck+bitstream+buffer+explode"
"""FFmpeg's `err_detect`: whatever the bitstream lets the decoder notice ends decoding instead of being painted over."""


@dataclass(frozen=True)
class Probe:
    """A video before it is decoded.

    Attributes:
        width, height: as shown, in pixels: upright, square pixels, at most ``max_side`` on the longer side.
        source_width, source_height: as stored. mirrored, rotation_deg: what turns a stored picture upright: left and right
            swapped first, then counter-clockwise.
        aspect: width over height of a stored pixel. bit_depth: of a colour channel.
        rate_fps, frames_told, seconds_told: what the header says, 0 where it does not; seconds from the first frame on.
        start_sec: when the first frame is shown, on the file's own clock.
        interlaced: what the first frame says.
    """

    container: str
    codec: str
    pix_fmt: str
    bit_depth: int
    width: int
    height: int
    source_width: int
    source_height: int
    rotation_deg: int
    mirrored: bool
    aspect: float
    interlaced: bool
    rate_fps: float
    frames_told: int
    seconds_told: float
    start_sec: float
    audio_streams: int


def probe(path: Path, *, max_side: int) -> Probe:
    """Reads the header and the first frame.

    Raises:
        Unusable: empty_file, not_a_video, audio_only (a cover picture is no video), no_decoder, encrypted, too_large, bad_aspect,
            odd_rotation (not by quarter turns), hdr (PQ, HLG and Dolby Vision are not tone-mapped), corrupt (the first frame
            cannot be decoded), truncated (a Matroska file that ends before its end), unreadable (the system refuses).
    """
    with opened(path) as container:
        if "matroska" in container.format.name:
            refuse_shorter_than_declared(path)
        stream = video_stream(container)
        context = stream.codec_context
        _refuse_size(context.width, context.height)
        first = _first_frame(container, stream)
        transfer = first.color_trc or context.color_trc
        if transfer in HDR:
            raise Unusable("hdr", f"{HDR[transfer]} transfer curve; tone-map it to SDR first")
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        if not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
            raise Unusable("bad_aspect", f"its pixels are {aspect:.3g} times as wide as high")
        mirrored, rotation = _orientation(first)
        wide, high = first.width * aspect, float(first.height)
        if rotation % 180:
            wide, high = high, wide
        scale = min(1.0, max_side / max(wide, high))
        return Probe(
            container=container.format.name,
            codec=context.name,
            pix_fmt=first.format.name,
            bit_depth=max((c.bits for c in first.format.components), default=8),
            width=max(1, round(wide * scale)),
            height=max(1, round(high * scale)),
            source_width=first.width,
            source_height=first.height,
            rotation_deg=rotation,
            mirrored=mirrored,
            aspect=aspect,
            interlaced=bool(first.interlaced_frame),
            rate_fps=float(stream.average_rate or stream.guessed_rate or 0),
            frames_told=stream.frames,
            seconds_told=_seconds_told(container, stream),
            start_sec=_start_sec(stream),
            audio_streams=len(container.streams.audio),
        )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """The container; FFmpeg's and the system's refusals become :class:`Unusable`, whoever meets them."""
    try:
        if path.stat().st_size == 0:
            raise Unusable("empty_file", "0 bytes")
        # `file:`, because a file may be called like an address. FFmpeg decodes frames to know the streams: the limit on pixels
        # must hold for these already.
        options = {"max_pixels": str(MAX_PIXELS), "format_whitelist": FORMATS, "protocol_whitelist": "file"}
        with av.open(f"file:{path}", metadata_errors="replace", options=options) as container:
            yield container
    except FFmpegError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from None
        raise Unusable("not_a_video", f"{error.strerror}") from None
    except OSError as error:
        raise Unusable("unreadable", error.strerror or str(error)) from None


def video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures, ready to be decoded. Raises Unusable: audio_only, not_a_video, no_decoder."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    moving = [s for s in container.streams.video if not s.disposition & still]
    if not moving:
        if container.streams.audio:
            raise Unusable("audio_only", "sound and no moving picture")
        raise Unusable("not_a_video", "it has no video stream")
    stream = moving[0]
    # A stream without a decoder (unknown codec, damaged header) has no codec context and so no size.
    if stream.codec_context is None:
        raise Unusable("no_decoder", "FFmpeg has no decoder for its video stream")
    if stream.codec_context.codec_tag in DOLBY_VISION:
        raise Unusable("hdr", "Dolby Vision without a plain layer")
    # One process decodes one video: threads inside FFmpeg would only fight the other processes.
    stream.thread_type = "NONE"
    stream.codec_context.options = {"err_detect": DAMAGE, "max_pixels": str(MAX_PIXELS)}
    return stream


def _refuse_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unusable("too_large", f"its header declares {width}x{height} pixels")


def _first_frame(container: InputContainer, stream: VideoStream) -> av.VideoFrame:
    try:
        for packet in container.demux(stream):
            if packet.has_sidedata("encryption_info"):
                raise Unusable("encrypted", "its pictures are encrypted")
            for frame in packet.decode():
                _refuse_size(frame.width, frame.height)
                return frame
    except FFmpegError as error:
        raise Unusable("corrupt", f"its first frame cannot be decoded ({error.strerror})") from None
    raise Unusable("too_few_frames", "0 frames")


def _orientation(frame: av.VideoFrame) -> tuple[bool, int]:
    """What a player does with the picture: swaps left and right, then turns it counter-clockwise by this many degrees.

    FFmpeg's own angle takes mirroring for a turn, so this looks at the display matrix itself.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if isinstance(matrix, SideData):
        a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(matrix), np.int32)[:5])
        mirrored = a * d - b * c < 0
        if mirrored:
            a, b = -a, -b
        degrees = math.degrees(math.atan2(-b, a)) % 360
        turned = round(degrees / 90) * 90
        if abs(degrees - turned) > 1:
            raise Unusable("odd_rotation", f"it is to be shown turned by {degrees:.0f} degrees; re-encode it upright")
        return mirrored, turned % 360
    return False, 0


def _start_sec(stream: VideoStream) -> float:
    return float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0


def _seconds_told(container: InputContainer, stream: VideoStream) -> float:
    """What the header promises for the picture (not for a longer sound track), from its first frame on; 0 when it does not say."""
    if container.format.name == "avi":  # FFmpeg makes it shorter when the file is
        return stream.frames / float(stream.average_rate) if stream.average_rate else 0.0
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    hours = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)\0*", stream.metadata.get("DURATION", ""))
    told = 0.0 if len(container.streams) > 1 else (container.duration or 0) / 1e6
    if hours:
        told = int(hours[1]) * 3600 + int(hours[2]) * 60 + float(hours[3])
    # Matroska tells the end on its clock, which need not begin at 0.
    return max(0.0, told - max(0.0, _start_sec(stream)))
