"""How shots are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_pipeline.plugins import backend_problem
from imanim.config import opt

BACKENDS = ("pyscenedetect", "transnetv2")


@dataclass
class ShotsConfig:
    """Settings of the shot finder."""

    backend: str = opt(
        "pyscenedetect",
        "pyscenedetect (compares frames), transnetv2 (a network; extra `transnet`) or package.module:factory,"
        " called with these settings",
    )
    min_ratio: float = opt(
        5.0, "pyscenedetect: a cut changes the picture this many times as much as the frames around it do"
    )
    min_change: float = opt(
        8.0, "pyscenedetect: and at least this much, mean over hue, saturation and value in 0 to 255"
    )
    sure_change: float = opt(
        50.0, "pyscenedetect: brightness changing by more than this is a cut, whatever is around it"
    )
    window_frames: int = opt(4, "pyscenedetect: how many frames before and after are those around")
    min_probability: float = opt(0.5, "transnetv2: frames above this belong to a transition")
    min_shot_sec: float = opt(0.1, "cuts nearer than this to the last one are the same transition")
    flash_sec: float = opt(0.2, "a picture that is back within this time was interrupted by a flash, not cut; 0: off")
    max_gap_sec: float = opt(0.5, "a longer hole between two frames is a cut")
    options: dict[str, Any] = opt({}, "for a plug-in: whatever it reads")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = backend_problem(self.backend, BACKENDS)
        if not self.min_ratio > 1:
            found.append(f"min_ratio: {self.min_ratio}; give more than 1, else every frame is a cut")
        for name in ("min_change", "sure_change"):
            if not 0 < getattr(self, name) < 255:
                found.append(f"{name}: {getattr(self, name)}; give 0 to 255, both excluded")
        if self.window_frames < 2:
            found.append(f"window_frames: {self.window_frames}; give 2 or more")
        if not 0 < self.min_probability < 1:
            found.append(f"min_probability: {self.min_probability}; give 0 to 1, both excluded")
        for name in ("min_shot_sec", "flash_sec"):
            if not getattr(self, name) >= 0:
                found.append(f"{name}: {getattr(self, name)}; give 0 or more seconds")
        if not self.max_gap_sec > 0:
            found.append(f"max_gap_sec: {self.max_gap_sec}; give more than 0 seconds")
        return found
