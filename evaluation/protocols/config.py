"""A protocol as a file: everything under ``protocol`` decides the numbers and is hashed; nothing else does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from evaluation.metrics import registry
from imanim.config import opt, req

BASELINES = ("hold", "hold_autoencoder", "driver", "autoencoder")
"""Training-free videos beside the measured one. hold: the character held still; driver: the driver's own video; both beat
methods that do not work. The ``autoencoder`` ones exist only where a model with one is measured: ``hold_autoencoder`` pays the same
blur as the model, ``autoencoder`` (the truth, coded and decoded) is its ceiling."""


@dataclass
class SourceConfig:
    """Where the samples come from, and which of them count."""

    kind: Literal["shards", "clips", "pairs"] = req(
        "shards (imanim's own), clips (a folder a clip), pairs (characters and drivers)"
    )
    generate: str | None = opt(None, "shards: without data=FOLDER, the Doubles configuration that makes them")
    splits: list[str] = opt(["test"], "shards: splits to measure")
    levels: list[str] = opt([], "shards: only clips of these difficulty levels (L0 to L5); empty = all")
    pairing: Literal["cross", "self"] = opt(
        "cross", "shards: cross (somebody else drives) or self (the truth drives itself)"
    )
    joint_clips: int | None = opt(None, "shards: clips a split whose joints are measured, spread evenly; null = all")
    video_clips: int | None = opt(None, "of these, clips whose video is measured (slow); null = all, 0 = none")
    clips: list[str] = opt([], "clips: names of the folders or videos; empty = all, in the order of their names")
    character_frame: int = opt(0, "clips: the frame that shows the character; it is also measured")
    grid: bool = opt(
        False, "pairs without a pairs.json: every character with every driver; false = the first with the first, ..."
    )

    def problems(self) -> list[str]:
        found = [] if self.splits else ["splits: names no split"]
        for name in ("joint_clips", "video_clips", "character_frame"):
            value = getattr(self, name)
            if value is not None and value < 0:
                found.append(f"{name}: {value} must not be negative")
        if self.generate is not None and self.kind != "shards":
            found.append(f"generate: makes shards, but kind is {self.kind}")
        return found


@dataclass
class ProtocolConfig:
    """What is measured, on what, and how."""

    name: str = req("name of the protocol")
    version: int = req("whole number; raised whenever numbers change")
    source: SourceConfig = req("samples")
    metrics: list[str] = req("metrics by name (`launchers/evaluate.py metrics` lists them)")
    size: list[int] | None = opt(
        None, "[height, width] in pixels at which everything is measured; null = the samples' own"
    )
    frames: int | None = opt(None, "frames of a sample, its first ones; null = all of them")
    fps: float | None = opt(
        None, "frames a second that samples are brought to, by leaving out or repeating; null = their own"
    )
    resize: Literal["refuse", "bicubic"] = opt(
        "refuse", "made videos of another size: refuse, or Pillow's bicubic to the protocol's"
    )
    seed: int = opt(0, "of the noise; sample i uses seed + i")
    steps: int | None = opt(None, "sampling steps; null = what suits the model's weights (and is written down)")
    shift: float | None = opt(None, "shift of the sampling noise levels; null = what suits the model's weights")
    joints: bool = opt(False, "also measure the joints a model reads from its own tokens, where true joints are known")
    baselines: list[str] = opt(["hold", "driver"], f"beside the measured videos, any of {', '.join(BASELINES)}")
    set_baselines: list[str] = opt(["hold", "driver"], "of these, the ones that FID, KID and FVD are computed for too")
    metric_settings: dict[str, dict[str, Any]] = opt({}, "settings of a metric, by its name")
    headline: list[str] = opt([], "values that the verdict and the comparisons with baselines speak of; empty = all")
    bootstrap: int = opt(1000, "draws for the intervals of FID, KID and FVD; 0 = none")
    leakage: dict[str, Any] | None = opt(
        None, "settings of the leakage probes (Doubles shards and a model); null = none"
    )

    def problems(self) -> list[str]:
        # Settings of a metric that is not measured this time are no mistake (protocol.metrics=[psnr]); of an unknown one they are.
        found = [f"metric_settings.{n}: no such metric" for n in self.metric_settings if n not in registry.known()]
        found += [
            f"metrics: `{n}` is unknown; known: {', '.join(sorted(registry.known()))}"
            for n in self.metrics
            if n not in registry.known()
        ]
        if not self.metrics and not self.joints:
            found.append("metrics: none named")
        if len(set(self.metrics)) != len(self.metrics):
            found.append("metrics: one is named twice")
        for name in ("baselines", "set_baselines"):
            found += [
                f"{name}: `{b}` is unknown; known: {', '.join(BASELINES)}"
                for b in getattr(self, name)
                if b not in BASELINES
            ]
        found += [f"set_baselines: `{b}` is not among baselines" for b in self.set_baselines if b not in self.baselines]
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 16):
            found.append(f"size: {self.size}; give [height, width], each at least 16")
        if self.frames is not None and self.frames < 2:
            found.append(f"frames: {self.frames}; a video has at least 2")
        if self.fps is not None and not self.fps > 0:
            found.append(f"fps: {self.fps}; must be above 0")
        if self.steps is not None and self.steps < 1:
            found.append(f"steps: {self.steps}; must be at least 1")
        if self.bootstrap < 0:
            found.append(f"bootstrap: {self.bootstrap}; must not be negative")
        if self.source.kind != "shards" and (self.joints or self.leakage is not None):
            found.append("joints, leakage: need the exact labels of shards")
        return found
