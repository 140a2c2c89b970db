"""Every frame of a video in presentation order, at its exact time; and single frames again, found by seeking."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from data_pipeline.decode.header import Probe, opened, video_stream
from data_pipeline.decode.interlaced import progressive
from data_pipeline.decode.packets import Packets, pictures
from data_pipeline.sources import Unusable

UNSPECIFIED = 2  # colour matrix (ITU-T H.273)
BT709, BT601 = 1, 5
HD_HEIGHT = 720  # untagged pictures of this height and more are BT.709, smaller ones BT.601: what players assume
WORTH_SEEKING = 48  # frames that are skipped by decoding rather than by looking for a keyframe
LATE = 1.5  # frames that the end may be off: a last frame has no duration in some files
MOST_SECONDS = 48 * 3600.0
WARM_UP = 2  # frames that a deinterlacer sees before it gives what it gives amid the video
REORDERED = 17  # frames: more than a decoder may hold back to put them in order, so a jump this much early lands before the frame


class _Tools:
    """Each remembers its last conversion, so the two that alternate have one each."""

    def __init__(self) -> None:
        self.small, self.whole = VideoReformatter(), VideoReformatter()


class Frame:
    """One decoded frame.

    Attributes:
        index: in presentation order. time_sec: from the first frame on. gap_sec: since the frame before, 0 for the first.
    """

    def __init__(
        self, index: int, time_sec: float, gap_sec: float, picture: av.VideoFrame, probe: Probe, tools: _Tools
    ):
        self.index, self.time_sec, self.gap_sec = index, time_sec, gap_sec
        self._picture, self._probe, self._tools = picture, probe, tools
        self._rgb: np.ndarray | None = None

    def small(self, width: int, height: int) -> np.ndarray:
        """uint8 [height,width,3]: the whole picture averaged down, as stored (not turned upright)."""
        return self._convert(self._tools.small, width, height)

    def rgb(self) -> np.ndarray:
        """uint8 [H,W,3]: upright, square pixels, at the probe's size; converted once."""
        if self._rgb is None:
            turns = self._probe.rotation_deg // 90
            size = (self._probe.width, self._probe.height)
            image = self._convert(self._tools.whole, *(size[::-1] if turns % 2 else size))
            if self._probe.mirrored:
                image = image[:, ::-1]
            self._rgb = np.ascontiguousarray(np.rot90(image, turns))
        return self._rgb

    def _convert(self, tool: VideoReformatter, width: int, height: int) -> np.ndarray:
        matrix = int(self._picture.colorspace)
        if matrix == UNSPECIFIED:
            matrix = BT709 if self._picture.height >= HD_HEIGHT else BT601
        # swscale wants a matrix on both sides; the one of RGB changes nothing.
        same = (self._picture.width, self._picture.height) == (width, height)
        out = tool.reformat(
            self._picture,
            width,
            height,
            "rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            interpolation="BILINEAR" if same else "AREA",
            threads=1,
        )
        return out.to_ndarray()


def frames(path: Path, probe: Probe) -> Iterator[Frame]:
    """Decodes a video from its first frame to its last.

    Interlaced frames are deinterlaced (bwdif, one frame each). 10-bit pictures become 8-bit, turned ones upright.

    Damage passes unnoticed where a format has no checksum to notice it by. Of 2,560 small files with random damage (cuts,
    flipped bits, zeroed, inserted, removed and swapped bytes) 80.4% were refused, 11.3% gave every frame bit for bit, 7.6% every
    frame at its time with some other pixels (H.264 and H.265 0.9 to 5.6%, MPEG-4 3.4%, VP8 and VP9 22 to 24%; of single flipped
    bits a third), and 0.7% a frame less or at another time, because a number in the container was another and as plausible as
    the first. Files cut short, and bytes inserted or removed, never passed as whole.

    Raises:
        Unusable: corrupt (the decoder or the Matroska reader complains, or a frame never came out), truncated (fewer frames or
            seconds than the header tells), no_keyframe (at its beginning), size_changes, bad_timestamps; not_a_video, unreadable.
            The end of a video is only known to be whole when the iterator has ended.
    """
    with opened(path) as container:
        stream = video_stream(container)
        count, packets, last, gap = 0, Packets(stream), -math.inf, 0.0
        clock, tools = _Timestamps(stream, probe), _Tools()
        for picture in progressive(pictures(container, stream, packets)):
            time_sec = clock.seconds(picture)
            if count and time_sec <= last:
                raise Unusable("bad_timestamps", f"frame {count} is not after frame {count - 1}")
            if time_sec > MOST_SECONDS:
                raise Unusable("bad_timestamps", f"frame {count} is {time_sec / 3600:.0f} hours after the first")
            gap = time_sec - last if count else 0.0
            yield Frame(count, time_sec, gap, picture, probe, tools)
            last = time_sec
            count += 1
    _refuse_cut_short(probe, packets, clock, count, last, gap)


def images(
    path: Path, probe: Probe, wanted: Sequence[int], *, times_sec: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames with the given indices in increasing order: (index, uint8 [H,W,3] as ``Frame.rgb`` gives it).

    Long stretches that nobody wants are jumped over, from keyframe to keyframe. Every frame is known by its time, so a jump that
    lands elsewhere is noticed and the way is walked instead.

    Args:
        times_sec: [T] of all frames, as :func:`frames` gave them.

    Raises:
        Unusable: truncated: a frame is not there any more.
    """
    rest = sorted({int(i) for i in wanted})
    place = {float(t): i for i, t in enumerate(times_sec)}
    jumps = True
    while rest:
        jump = jumps and rest[0] > WORTH_SEEKING
        got = 0
        for index, image in _walk(path, probe, rest, place, times_sec, jump=jump, stops=jumps):
            yield index, image
            got += 1
        if got == 0 and not jump:
            raise Unusable(
                "truncated", f"frame {rest[0]} decoded at first and is gone now; is the file still changing?"
            )
        # A jump that did not help is not tried again: whatever is left is decoded from the beginning.
        jumps = jumps and got > 0
        rest = rest[got:]


def _walk(
    path: Path,
    probe: Probe,
    rest: list[int],
    place: dict[float, int],
    times_sec: np.ndarray,
    *,
    jump: bool,
    stops: bool,
) -> Iterator[tuple[int, np.ndarray]]:
    """The wanted frames up to a stretch worth jumping over (if it ``stops`` there), or to the first that cannot be had this way."""
    with opened(path) as container:
        stream = video_stream(container)
        clock, tools, at = _Timestamps(stream, probe), _Tools(), 0
        if jump and not clock.jump(container, float(times_sec[max(0, rest[0] - REORDERED)])):
            return
        # What is shown before the keyframe that was jumped to may lean on frames before it.
        sound = not jump
        try:
            for picture in progressive(pictures(container, stream, None, jumped=jump)):
                index = place.get(clock.seconds(picture), -1)
                sound = sound or (bool(picture.key_frame) and index <= rest[0] - WARM_UP)
                if index > rest[at] or (index == rest[at] and not sound):
                    return
                if index == rest[at]:
                    yield index, Frame(index, 0.0, 0.0, picture, probe, tools).rgb()
                    at += 1
                    if at == len(rest) or (stops and rest[at] - index > WORTH_SEEKING):
                        return
        except Unusable:
            return


class _Timestamps:
    """Seconds from the first frame on: by presentation timestamp, or counted where the file has none."""

    def __init__(self, stream: VideoStream, probe: Probe):
        self._base, self._rate = Fraction(stream.time_base or Fraction(1, 1)), probe.rate_fps
        self._stream, self._count = stream, 0
        self.first: int | None = None

    def seconds(self, picture: av.VideoFrame) -> float:
        """Raises Unusable: bad_timestamps."""
        self._count += 1
        stamp = picture.pts
        if stamp is None or (self.first is None and self._count > 1):
            if self.first is not None:
                raise Unusable("bad_timestamps", f"frame {self._count - 1} has no timestamp")
            if self._rate <= 0:
                raise Unusable("bad_timestamps", "the file has neither timestamps nor a frame rate")
            return (self._count - 1) / self._rate
        if self.first is None:
            self.first = stamp
        return self.since_first(stamp)

    def since_first(self, stamp: int) -> float:
        """From the first frame to a timestamp."""
        return (stamp - (self.first or 0)) * self._base.numerator / self._base.denominator

    def jump(self, container: InputContainer, time_sec: float) -> bool:
        """Goes to the keyframe at or before a time. False where nobody knows times (AVI counts packets)."""
        first = next((frame for frame in container.decode(self._stream)), None)
        if first is None or first.pts is None or container.format.name == "avi":
            return False
        self.seconds(first)
        try:
            container.seek(round(Fraction(time_sec) / self._base) + first.pts, stream=self._stream, backward=True)
        except FFmpegError:
            return False
        return True


def _refuse_cut_short(
    probe: Probe, packets: Packets, clock: _Timestamps, count: int, last_sec: float, gap_sec: float
) -> None:
    """The header tells what was meant to be there: mp4 counts frames, mkv, webm and avi give a duration."""
    if packets.left():
        raise Unusable("corrupt", f"{packets.left()} frame(s) at the end did not decode")
    # AVI counts the places of frames that repeat the one before them, too: a count holds only where there are none.
    if packets.count < probe.frames_told and (
        probe.container != "avi" or round(last_sec * probe.rate_fps) + 1 == count
    ):
        raise Unusable("truncated", f"{packets.count} of {probe.frames_told} frames are there")
    # Edit lists cut frames away on purpose; they are counted in and not shown.
    if count < 1 or packets.discarded or probe.seconds_told <= 0 or packets.end is None or clock.first is None:
        return
    step = 1 / probe.rate_fps if probe.rate_fps > 0 else gap_sec
    end = max(last_sec, clock.since_first(packets.end))
    if end < probe.seconds_told - LATE * max(step, gap_sec):
        raise Unusable("truncated", f"{end:.2f} s decode of {probe.seconds_told:.2f} s")
    if last_sec > probe.seconds_told + probe.start_sec + LATE * step:
        raise Unusable(
            "bad_timestamps", f"frame {count - 1} is at {last_sec:.2f} s, after the end at {probe.seconds_told:.2f} s"
        )
