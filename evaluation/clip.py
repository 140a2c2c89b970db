"""What every metric is given: one item of a protocol, beside the video that some method made for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imanim.errors import InputError


@dataclass
class Clip:
    """One made video and everything known about what it should be. T frames of H x W pixels.

    Frames of ``made`` and ``truth`` have one size and one rate: sizes and rates are the protocol's business, no metric
    resamples them (what a network wants, its own preprocessing gives it).
    """

    key: str
    made: np.ndarray
    """uint8 [T,H,W,3]: what is measured."""
    driving: np.ndarray
    """uint8 [T,h,w,3]: whose motion."""
    character: np.ndarray
    """uint8 [h,w,3]: whose body and face."""
    fps: float
    truth: np.ndarray | None = None
    """uint8 [T,H,W,3]; None: nobody knows it (cross-identity pairs of real people)."""
    mask: np.ndarray | None = None
    """bool [T,H,W]: the truth's person, a little grown."""
    joints: np.ndarray | None = None
    """float32 [T,20,3], the truth's, as in :mod:`imanim.data.sample`: x,y in [0,1], visibility."""
    parts: np.ndarray | None = None
    """uint8 [T,H,W]: the truth's part labels as in :mod:`imanim.data.sample`; known exactly or not at all."""
    actions: np.ndarray | None = None
    """float32 [T,A]: the truth's facial actions, :data:`evaluation.instruments.truth.ACTIONS`; portraits of Doubles alone."""
    driving_joints: np.ndarray | None = None
    """float32 [T,20,3] in the driving frames."""
    identity_joints: np.ndarray | None = None
    """float32 [20,3] in the character's image."""
    made_joints: np.ndarray | None = None
    """float32 [T,20,2]: where the method itself says that the joints are (retargeted tokens); None: it does not."""
    unit: str = ""
    """What is drawn in a bootstrap: clips of one unit (one motion) fail together. Empty: the key."""
    labels: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unit = self.unit or self.key
        problem = self.problem()
        if problem:
            raise InputError(f"clip {self.key}: {problem}")

    def problem(self) -> str | None:
        """The first thing wrong with it, or None."""
        for name, clip in (("made", self.made), ("driving", self.driving), ("truth", self.truth)):
            if clip is not None and (clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or not len(clip)):
                return f"{name} is {clip.dtype} {list(clip.shape)}; give uint8 [T,H,W,3]"
        if self.truth is not None and self.truth.shape != self.made.shape:
            return f"made is {_size(self.made)}, the truth {_size(self.truth)} (frames x height x width); make it alike"
        if len(self.driving) != len(self.made):
            return f"made has {len(self.made)} frames, the driving video {len(self.driving)}; make it alike"
        return None


def _size(frames: np.ndarray) -> str:
    return "x".join(map(str, frames.shape[:3]))
