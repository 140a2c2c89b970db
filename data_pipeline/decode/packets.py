"""From packets to pictures, with the books kept: what went into the decoder must come out of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from data_pipeline.sources import Unusable

NOT_CODED_BYTES = 24  # an MPEG-4 packet below this may say "as before" and give no frame
SHOWN = 0x10  # in the first byte of a VP8 frame (RFC 6386, 9.1)


class Packets:
    """What went into the decoder, against what came out of it: one frame for each packet, at its time.

    Attributes:
        count, discarded: packets; those that an edit list cuts away. end: when the last one ends, in the stream's time base.
    """

    def __init__(self, stream: VideoStream):
        self.count = self.discarded = 0
        self.end: int | None = None
        self._codec = stream.codec_context.name
        self._watch = True
        self._key: int | None = None
        self._leading = True
        self._waiting: set[int] = set()
        self._owed = 0

    def went_in(self, packet: av.Packet, *, ordered: bool) -> None:
        """A packet on its way to the decoder; ``ordered``: its presentation time can be trusted. Raises Unusable: no_keyframe."""
        self.count += 1
        stamp = packet.pts if ordered else packet.dts
        if self.count == 1:
            if not packet.is_keyframe:
                raise Unusable("no_keyframe", "it begins amid a group of pictures; cut it at a keyframe")
            self._key = stamp
        self.discarded += packet.is_discard
        if stamp is None or not ordered:
            self._watch = False
            if stamp is None:
                return
        self.end = max(stamp + (packet.duration or 0), self.end if self.end is not None else stamp)
        if packet.is_discard or not self._watch or self._gives_nothing(packet):
            return
        # What is shown before the first keyframe may lean on what was cut away before it (open GOP); nothing else may miss.
        self._leading = self._leading and (self.count == 1 or (self._key is not None and stamp < self._key))
        if self.count == 1 or not self._leading:
            self._waiting.add(stamp)
            self._owed += 1

    def _gives_nothing(self, packet: av.Packet) -> bool:
        if self._codec == "vp8":
            return not memoryview(packet)[0] & SHOWN
        return self._codec == "mpeg4" and packet.size < NOT_CODED_BYTES

    def came_out(self, picture: av.VideoFrame, number: int) -> None:
        """A frame. Raises Unusable when one before it never came: corrupt."""
        if picture.pts is None or picture.interlaced_frame:  # a field of its own is a packet that gives no frame
            self._watch = False
        if not self._watch or picture.pts is None:
            return
        if picture.pts in self._waiting:
            self._waiting.remove(picture.pts)
            self._owed -= 1
        lost = sum(pts < picture.pts for pts in self._waiting)
        if lost:
            raise Unusable("corrupt", f"{lost} frame(s) before frame {number} did not decode")

    def left(self) -> int:
        """Packets that never became a frame."""
        return self._owed if self._watch else 0


def pictures(
    container: InputContainer, stream: VideoStream, packets: Packets | None, *, jumped: bool = False
) -> Iterator[av.VideoFrame]:
    """The stream's pictures in presentation order, from where the container stands; ``packets`` None leaves the books unkept.

    ``jumped``: what is shown before the keyframe that the container stands at is left out; it leans on what was jumped over.

    Raises:
        Unusable: corrupt, size_changes, no_keyframe.
    """
    count, size = 0, None
    # AVI has no presentation times, and for these FFmpeg's are in the order of decoding: frames take the packets' times in turn.
    misplaced = container.format.name == "avi" and stream.codec_context.name in ("h264", "hevc")
    stamps: deque[int] | None = deque() if misplaced else None
    try:
        for packet in _without_leading(container, stream) if jumped else _demuxed(container, stream):
            if packet.is_corrupt:
                raise Unusable("corrupt", f"damaged data after frame {count}")
            if packet.size:
                if stamps is not None and packet.dts is not None:
                    stamps.append(packet.dts)
                if packets is not None:
                    packets.went_in(packet, ordered=stamps is None)
            for picture in packet.decode():
                assert isinstance(picture, av.VideoFrame)
                size = size or (picture.width, picture.height)
                if picture.is_corrupt:
                    raise Unusable("corrupt", f"damaged at frame {count}")
                if (picture.width, picture.height) != size:
                    raise Unusable("size_changes", f"the frame size changes at frame {count}")
                if stamps is not None:
                    picture.pts = stamps.popleft() if stamps else None
                elif packets is not None:
                    packets.came_out(picture, count)
                yield picture
                count += 1
    except FFmpegError as error:
        raise Unusable("corrupt", f"damaged after {count} frames ({error.strerror})") from None


def _demuxed(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The stream's packets. FFmpeg looks for the next intact place of a damaged Matroska file and only logs it: damage for us.

    Raises:
        Unusable: corrupt.
    """
    packets = container.demux(stream)
    if "matroska" not in container.format.name:
        yield from packets
        return
    while True:
        with _Complaints(container.format.name) as said:
            packet = next(packets, None)
        if said.what:
            raise Unusable("corrupt", f"damaged container ({said.what})")
        if packet is None:
            return
        yield packet


def _without_leading(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    key: int | None = None
    for packet in _demuxed(container, stream):
        if key is None and packet.is_keyframe:
            key = packet.pts
        if key is not None and (packet.pts is None or packet.pts >= key):
            yield packet


class _Complaints:
    """FFmpeg's error messages of this thread, from one of its parts, while this is open. The log's settings are put back."""

    def __init__(self, part: str):
        self._part, self.what = part, ""
        self._capture = av.logging.Capture()

    def __enter__(self) -> _Complaints:
        self._level, self._skip = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(max(av.logging.ERROR, self._level or av.logging.ERROR))
        av.logging.set_skip_repeated(False)
        self._logs = self._capture.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.__exit__(None, None, None)
        av.logging.set_skip_repeated(self._skip)
        av.logging.set_level(self._level)
        mine = [text for level, part, text in self._logs if level <= av.logging.ERROR and part == self._part]
        self.what = mine[0].strip() if mine else ""
