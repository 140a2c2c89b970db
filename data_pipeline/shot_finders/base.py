"""What every shot finder gives."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class ShotFinder(Protocol):
    """Finds the cuts of one video while its frames go by.

    Attributes:
        models: sha256 of every network file by the file's name; empty when there is none.
        delay_frames: how far the decision lags: of the frames up to ``index - delay_frames`` all cuts are known once frame
            ``index`` was pushed.
    """

    name: str
    models: dict[str, str]
    delay_frames: int

    def push(self, index: int, time_sec: float, gap_sec: float, small: np.ndarray) -> None:
        """The next frame.

        Args:
            index: decode index, one more than the last one; the first is 0.
            time_sec: from the first frame on. gap_sec: since the frame before.
            small: uint8 [h,w,3] RGB, the whole picture made small; not changed later.
        """

    def cuts(self) -> list[int]:
        """Decode indices of the first frames of new shots as far as decided, increasing; nothing is ever taken back."""

    def close(self) -> list[int]:
        """All cuts, now that the video has ended."""
