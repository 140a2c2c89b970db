"""Long videos: clips of the length the model was trained for, cross-faded where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from imanim.clock import Window


def stitch(
    windows: Sequence[Window], render: Callable[[Window], np.ndarray], total_frames: int
) -> Iterator[np.ndarray]:
    """Renders window after window and yields finished frames, keeping one window in memory.

    Over the n frames that two neighbours share, the new one's weight rises evenly, 1/(n+1) ... n/(n+1), so neither
    end of the overlap is a step.

    Args:
        windows: in order, as :func:`imanim.clock.windows` gives them.
        render: a window's frames, float32 [T,H,W,3] in [0,255].
        total_frames: frames beyond this (a video shorter than a window was padded) are cut.

    Yields:
        uint8 [H,W,3], exactly ``total_frames`` of them, frame i at place i.
    """
    tail: np.ndarray = np.empty(0)
    done = 0
    for i, window in enumerate(windows):
        frames = render(window).astype(np.float32)
        shared = len(tail)
        if shared:
            weight = (np.arange(1, shared + 1, dtype=np.float32) / (shared + 1)).reshape(-1, 1, 1, 1)
            frames[:shared] = (1 - weight) * tail + weight * frames[:shared]
        final = (windows[i + 1].start if i + 1 < len(windows) else window.stop) - window.start
        for frame in frames[: min(final, total_frames - done)]:
            yield np.rint(frame).clip(0, 255).astype(np.uint8)
            done += 1
        tail = frames[final:]


def padded(frames: np.ndarray, length: int) -> np.ndarray:
    """[n,...] with its last frame repeated up to ``length`` frames."""
    if len(frames) >= length:
        return frames
    return np.concatenate([frames, np.repeat(frames[-1:], length - len(frames), 0)])
