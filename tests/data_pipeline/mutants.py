"""Damaged video files, and what decoding makes of them, for processes of their own."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline import decode
from data_pipeline.sources import Unusable

MOST_PIXELS = 1 << 16


@dataclass(frozen=True)
class Batch:
    """Files to look at in one process."""

    name: str
    paths: tuple[Path, ...]


def outcome(path: Path) -> dict:
    """``reason`` of the refusal; or the frames' ``times`` and the ``pixels``' hashes."""
    try:
        probe = decode.probe(path, max_side=1280)
        times, pixels = [], []
        for frame in decode.frames(path, probe):
            times.append(frame.time_sec)
            # A damaged size may be large: its picture is whatever it is, and not the rendered one.
            small = probe.width * probe.height <= MOST_PIXELS
            pixels.append(hashlib.sha256(frame.rgb().tobytes()).hexdigest() if small else "")
    except Unusable as error:
        return {"reason": error.reason}
    return {"times": times, "pixels": pixels}


def work(batch: Batch, beat) -> list[dict]:
    """For :func:`isolation.run`. An exception that nobody expects is a result like others, with its name."""
    out = []
    for path in batch.paths:
        beat()
        try:
            out.append(outcome(path))
        except Exception as error:
            out.append({"exception": f"{type(error).__name__}: {error}"})
    return out


def cut(data: bytearray, random: np.random.Generator) -> bytearray:
    return data[: int(random.integers(1, len(data)))]


def cut_tail(data: bytearray, random: np.random.Generator) -> bytearray:
    return data[: len(data) - int(random.integers(1, len(data) // 8))]


def bit(data: bytearray, random: np.random.Generator) -> bytearray:
    data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return data


def bits(data: bytearray, random: np.random.Generator) -> bytearray:
    for _ in range(12):
        data = bit(data, random)
    return data


def zeros(data: bytearray, random: np.random.Generator) -> bytearray:
    size = int(random.integers(8, 512))
    at = int(random.integers(len(data) - size))
    data[at : at + size] = bytes(size)
    return data


def insert(data: bytearray, random: np.random.Generator) -> bytearray:
    at = int(random.integers(len(data)))
    data[at:at] = random.bytes(int(random.integers(1, 64)))
    return data


def remove(data: bytearray, random: np.random.Generator) -> bytearray:
    at = int(random.integers(len(data) - 64))
    del data[at : at + int(random.integers(1, 64))]
    return data


def swap_blocks(data: bytearray, random: np.random.Generator) -> bytearray:
    a, b = sorted(int(v) * 64 for v in random.choice(len(data) // 64, 2, replace=False))
    data[a : a + 64], data[b : b + 64] = data[b : b + 64], data[a : a + 64]
    return data


ANYWHERE = {f.__name__: f for f in (cut, cut_tail, bit, bits, zeros, insert, remove, swap_blocks)}


def without_box(data: bytes, box: bytes) -> bytes:
    """An mp4 whose box of that name is named otherwise, so that readers skip it."""
    at = data.index(box)
    return data[:at] + b"junk" + data[at + 4 :]


def huge_track(data: bytes, width: int, height: int) -> bytes:
    """An mp4 whose track header and sample description tell another size."""
    out = bytearray(data)
    at = out.index(b"tkhd") + 4 + 76
    struct.pack_into(">2I", out, at, width << 16, height << 16)
    at = re.search(b"avc1|hvc1|hev1", bytes(out)).start() + 4 + 24
    struct.pack_into(">2H", out, at, width & 0xFFFF, height & 0xFFFF)
    return bytes(out)


def _bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


def _golomb(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def huge_sps(data: bytes, width_blocks: int, height_blocks: int) -> bytes:
    """An H.264 mp4 of the baseline profile whose sequence parameters tell another size, in blocks of 16 pixels.

    Parameters get longer and the boxes around them keep their sizes, so that unused bits at the end make room.
    """
    at = data.index(b"avcC") + 4
    size = struct.unpack_from(">H", data, at + 6)[0]
    begin = at + 8
    text = _bits(data[begin + 4 : begin + size])
    place = 0

    def skip() -> int:
        nonlocal place
        zeros_ = 0
        while text[place + zeros_] == "0":
            zeros_ += 1
        value = int(text[place + zeros_ : place + 2 * zeros_ + 1], 2) - 1
        place += 2 * zeros_ + 1
        return value

    skip()  # its number
    skip()  # frame numbers
    order = skip()
    if order == 0:
        skip()
    skip()  # references
    place += 1
    head = text[:place]
    skip(), skip()
    new = head + _golomb(width_blocks - 1) + _golomb(height_blocks - 1) + "1" + "1" + "0" + "0" + "1"
    new += "0" * (-len(new) % 8)
    raw = bytes(int(new[i : i + 8], 2) for i in range(0, len(new), 8))
    assert len(raw) <= size - 4
    return data[: begin + 4] + raw + bytes(size - 4 - len(raw)) + data[begin + size :]
