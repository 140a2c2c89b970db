"""A clip's filmstrip and its side-by-side video: character, driver, truth and what a method made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from PIL import Image

from imanim.inference.filmstrip import filmstrip, pick

_TALLEST_PX = 320
"""Of a side-by-side video: it is looked at, not measured."""


class Pictures(Protocol):
    """What is shown of a clip; :class:`evaluation.clip.Clip` is one."""

    @property
    def character(self) -> np.ndarray:
        """uint8 [h,w,3]."""

    @property
    def driving(self) -> np.ndarray:
        """uint8 [T,h,w,3]."""

    @property
    def made(self) -> np.ndarray:
        """uint8 [T,H,W,3]."""

    @property
    def truth(self) -> np.ndarray | None:
        """uint8 [T,H,W,3]; None: nobody knows it."""

    @property
    def fps(self) -> float:
        """Frames a second of all of them."""


FramesOf = Callable[[str], Pictures | None]
"""A clip's frames by its key; None: they are not here."""


def clip_strip(clip: Pictures, *, frames: int = 7, height: int = 192, name: str = "ours") -> np.ndarray:
    """``frames`` moments spread over the clip, uint8 [H,W,3]; a row each for driver, truth (where known) and ``name``."""
    shown = pick(len(clip.made), frames)
    rows = [(caption, video[shown]) for caption, video in _videos(clip, name)]
    return filmstrip(rows, height=height, lead=("character", clip.character))


def side_by_side(clip: Pictures, *, name: str = "ours") -> tuple[np.ndarray, str]:
    """(character, driver, truth and made as one video uint8 [T,H,W,3], its caption); all of one height, even sides."""
    height = min(_TALLEST_PX, clip.made.shape[1]) // 2 * 2
    still = np.broadcast_to(clip.character, (len(clip.made), *clip.character.shape))
    parts = [("character", still), *_videos(clip, name)]
    return np.concatenate([_scaled(video, height) for _, video in parts], 2), " · ".join(
        caption for caption, _ in parts
    )


def _videos(clip: Pictures, name: str) -> list[tuple[str, np.ndarray]]:
    known = [("driver", clip.driving), ("truth", clip.truth), (name, clip.made)]
    return [(caption, video) for caption, video in known if video is not None]


def _scaled(video: np.ndarray, height: int) -> np.ndarray:
    """uint8 [T,h,w,3] at a height, its width even."""
    size = (max(2, round(video.shape[2] * height / video.shape[1] / 2) * 2), height)
    if size == (video.shape[2], video.shape[1]):
        return video
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in video])
