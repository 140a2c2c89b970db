"""Hard cuts: one frame at which the picture changes far more than around it."""

from __future__ import annotations

import numpy as np

REACH_FRAMES = 8
STILL_CHANGE = 0.004  # added to the usual change, so that coding noise in a still picture is not "many times more"


def find_cuts(
    step: np.ndarray, times_sec: np.ndarray, *, ratio: float, change: float, max_gap_sec: float
) -> np.ndarray:
    """Decode indices of the first frames of new shots (frame 0 is not one); int [C], increasing.

    Args:
        step: [T-1] mean change of the picture from frame t to t+1, 0 to 1.
        times_sec: [T] timestamps; a hole longer than ``max_gap_sec`` is a cut.
        ratio: how many times larger than the median change of its neighbours a cut's change is.
        change: and the least mean change, 0 to 1.
    """
    cuts = []
    for t in range(len(step)):
        around = np.concatenate([step[max(0, t - REACH_FRAMES) : t], step[t + 1 : t + 1 + REACH_FRAMES]])
        usual = float(np.median(around)) if len(around) else 0.0
        jump = step[t] >= change and step[t] >= ratio * (usual + STILL_CHANGE)
        if jump or times_sec[t + 1] - times_sec[t] > max_gap_sec:
            cuts.append(t + 1)
    return np.array(cuts, int)


def shots_of_ticks(picks: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """The shot number of each tick: int [N] from the decode indices shown at the ticks and the cuts."""
    return np.searchsorted(cuts, picks, side="right")
