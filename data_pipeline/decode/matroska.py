"""The one thing that FFmpeg does not tell of a Matroska file: whether all of it is there."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.sources import Unusable

EBML, SEGMENT = 0x1A45DFA3, 0x18538067
"""Elements (RFC 8794, RFC 9559): the header, and all the rest."""
FIRST_BYTES = 4096


def refuse_shorter_than_declared(path: Path) -> None:
    """Raises Unusable: truncated, when the file ends before the segment does. A segment of unknown size (live) says nothing."""
    with path.open("rb") as stream:
        data = stream.read(FIRST_BYTES)
    at = 0
    for wanted in (EBML, SEGMENT):
        identity, at = _number(data, at, keep_marker=True)
        size, at = _number(data, at)
        if identity != wanted or size is None:
            return
        at += size
    there = path.stat().st_size
    if there < at:
        raise Unusable("truncated", f"{there} of {at} bytes are there")


def _number(data: bytes, at: int, *, keep_marker: bool = False) -> tuple[int | None, int]:
    """A variable-length number and where it ends; None when it is not whole, or "unknown" (all ones)."""
    if at >= len(data) or data[at] == 0:
        return None, at
    length = 9 - data[at].bit_length()
    raw = int.from_bytes(data[at : at + length])
    ones = (1 << 7 * length) - 1
    if keep_marker:
        return raw, at + length
    return (None if raw & ones == ones or at + length > len(data) else raw & ones), at + length
