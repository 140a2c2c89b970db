"""Pixel frames and latent frames: the only place that knows ``T = 4n + 1``.

A Wan video autoencoder turns T = 4n+1 pixel frames into F = n+1 latent frames: latent frame 0 holds pixel frame 0 alone,
latent frame f > 0 holds pixel frames 4f-3 .. 4f (docs/method.md, "Frame clock"). Everything that aligns motion, expression or
joints with latents asks this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from imanim.errors import InputError

STRIDE = 4
"""Pixel frames in every latent frame but the first."""


def is_clip_length(frames: int) -> bool:
    """True for 1, 5, 9, 13, ..."""
    return frames >= 1 and frames % STRIDE == 1


def latent_frames(pixel_frames: int) -> int:
    """F for T pixel frames. Raises InputError unless T = 4n+1."""
    if not is_clip_length(pixel_frames):
        lower = max(1, (pixel_frames - 1) // STRIDE * STRIDE + 1)
        raise InputError(
            f"{pixel_frames} frames: a clip needs 4n+1 frames (1, 5, 9, ...); use {lower} or {lower + STRIDE}"
        )
    return (pixel_frames - 1) // STRIDE + 1


def pixel_frames(latent_frames: int) -> int:
    """T for F latent frames. Raises InputError for F < 1."""
    if latent_frames < 1:
        raise InputError(f"{latent_frames} latent frames: at least one is needed")
    return (latent_frames - 1) * STRIDE + 1


def latent_of_pixel(pixel_frame: int) -> int:
    """The latent frame that holds this pixel frame."""
    if pixel_frame < 0:
        raise InputError(f"pixel frame {pixel_frame}: frames count from 0")
    return (pixel_frame + STRIDE - 1) // STRIDE


def pixels_of_latent(latent_frame: int) -> range:
    """The pixel frames that this latent frame holds."""
    if latent_frame < 0:
        raise InputError(f"latent frame {latent_frame}: frames count from 0")
    return range(1) if latent_frame == 0 else range(STRIDE * latent_frame - STRIDE + 1, STRIDE * latent_frame + 1)


def slots(frames: int) -> list[list[int]]:
    """For each latent frame exactly four pixel frames; the first latent frame is [-1, -1, -1, 0] (-1: no frame)."""
    table = []
    for f in range(latent_frames(frames)):
        owned = list(pixels_of_latent(f))
        table.append([-1] * (STRIDE - len(owned)) + owned)
    return table


@dataclass(frozen=True)
class Window:
    """Pixel frames ``start`` (inclusive) to ``stop`` (exclusive)."""

    start: int
    stop: int


def windows(total_frames: int, window_frames: int, overlap_frames: int) -> list[Window]:
    """Windows of one length that cover a video; neighbours share at least ``overlap_frames``.

    The last window ends with the video, so its overlap may be larger. A video shorter than a window gives one window that
    is longer than the video: the caller pads. Raises InputError unless ``window_frames`` is 4n+1 and larger than the overlap.
    """
    latent_frames(window_frames)
    if not 0 <= overlap_frames < window_frames:
        raise InputError(
            f"overlap of {overlap_frames} frames: must be 0 to {window_frames - 1} for {window_frames}-frame windows"
        )
    if total_frames <= window_frames:
        return [Window(0, window_frames)]
    step = window_frames - overlap_frames
    starts = list(range(0, total_frames - window_frames, step)) + [total_frames - window_frames]
    return [Window(s, s + window_frames) for s in starts]
