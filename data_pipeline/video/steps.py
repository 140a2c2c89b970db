"""The steps of a video, what each depends on, and the key under which its result is kept.

A step's key is a hash of its name and version, the settings it reads, the networks it runs (their sha256) and the keys of the
steps it needs. So a changed setting gives new keys to the steps that depend on it and to no others: those alone are done again.
A version goes up when the step's code changes what comes out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_pipeline.config import VideosConfig
from imanim.config import to_dict

Models = Mapping[str, Mapping[str, str]]
"""Step -> file name -> sha256 of the networks it runs."""


@dataclass(frozen=True)
class Step:
    """``needs``: the steps whose results it reads; ``settings``: dotted names of what it reads of the configuration."""

    name: str
    version: int
    needs: tuple[str, ...]
    settings: tuple[str, ...]


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("shots", 1, (), ("max_side", "clip.fps", "shots")),
        Step("people", 1, ("shots",), ("people.multiple", "people.max_followed", "people.detect_every_frames",
             "people.other_person_size", "pose.backend", "pose.min_person_score")),
        Step("pose", 1, ("people",), ("pose.min_visibility", "pose.fill_gap_sec", "pose.smoothing")),
        Step("face", 1, ("people",), ("face",)),
        Step("quality", 1, ("people",), ("quality",)),
        Step("identity", 1, ("face",), ("identity",)),
        Step("clips", 1, ("pose", "face", "quality", "identity"), ("clip", "people", "framing", "rules", "pairing")),
        Step("samples", 1, ("clips",), ("clip.crf", "captions", "licence", "origin", "dropped_strips")),
    )
}  # fmt: skip
"""In the order in which a video goes through them. Files of networks count by their sha256, not by their path."""

PATHS = ("detector", "landmarks", "embedding", "text_model")
"""Settings that name a file of a network: what is in it counts, not where it lies."""


def keys(config: VideosConfig, models: Models) -> dict[str, str]:
    """Step -> its key (16 hex digits) under these settings and networks."""
    settings = to_dict(config)
    out: dict[str, str] = {}
    for step in STEPS.values():
        what = {
            "step": step.name,
            "version": step.version,
            "settings": {name: _without_paths(_at(settings, name)) for name in step.settings},
            "models": dict(models.get(step.name, {})),
            "needs": {name: out[name] for name in step.needs},
        }
        text = json.dumps(what, sort_keys=True, default=str)
        out[step.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return out


def _at(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = settings[part]
    return settings


def _without_paths(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in PATHS} if isinstance(value, dict) else value
