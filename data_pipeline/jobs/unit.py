"""The unit of work: one video, wholly, wherever it runs (this process, a process of its own, a Slurm task, a Ray worker)."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from data_pipeline import shot_finders
from data_pipeline.config import VideosConfig
from data_pipeline.faces import backends as face_backends
from data_pipeline.identity import backends as identity_backends
from data_pipeline.pose import backends
from data_pipeline.quality import text
from data_pipeline.sources import Unusable
from data_pipeline.video import sidecar, steps
from data_pipeline.video.analysis import Beat, Networks
from data_pipeline.video.artefacts import Row, VideoFolder, sha256_of
from data_pipeline.video.one_video import Source, process
from imanim import weights
from imanim.data.files import sha256
from imanim.errors import InputError


@dataclass(frozen=True)
class VideoTask:
    """A file of the plan."""

    path: Path
    name: str
    config: VideosConfig


_LOADED: dict[str, Networks] = {}


def load_networks(config: VideosConfig) -> Networks:
    """This process's networks, loaded on first use. Raises InputError naming every file that is missing, or the runtime."""
    name = repr((config.pose, config.face, config.identity, config.quality, config.shots))
    if name not in _LOADED:
        needed = [
            *backends.required_weights(config.pose),
            *face_backends.required_weights(config.face),
            *identity_backends.required_weights(config.identity),
            *text.required_weights(config.quality.text),
        ]
        weights.require_all(needed)
        _LOADED[name] = Networks(
            backends.build(config.pose),
            face_backends.build(config.face),
            identity_backends.build(config.identity),
            text.build(config.quality.text, side_px=config.quality.text_side_px),
            dict(shot_finders.build(config.shots).models),
        )
    return _LOADED[name]


def work(task: VideoTask, beat: Beat = lambda: None) -> Row:
    """One video: its row of the report, which is in the works folder when this returns, with its samples.

    A video whose row is there under the same settings is not touched.

    Raises:
        InputError: the output refuses (disk full) or a network is missing: the whole batch stops.
    """
    row: Row = {"file": task.name}
    try:
        row |= {"sha256": sha256_of(task.config.output, task.name, task.path), "bytes": task.path.stat().st_size}
    except OSError as error:
        return {**row, "reason": "unreadable", "detail": error.strerror or str(error)}
    beat()
    networks = load_networks(task.config)
    keys = steps.keys(task.config, networks.models())
    folder = VideoFolder(task.config.output, row["sha256"])
    beside = sidecar_mark(task.path)
    earlier = folder.row(keys["samples"])
    if earlier is not None and earlier.get("sidecar") == beside:
        return {**earlier, **row, "finished": True}
    try:
        row |= process(Source(task.path, task.name, row["sha256"]), task.config, networks, keys, beat)
    except Unusable as error:
        row |= {"reason": error.reason, "detail": error.detail, "quarantined": error.reason in DAMAGED}
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # A defect of ours met by one strange file must not cost a batch of thousands; the report keeps the place.
        place = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(place.filename).name}:{place.lineno}"
        row |= {"reason": "internal_error", "detail": f"{type(error).__name__}: {error} ({at})"}
    row["sidecar"] = beside
    folder.save_row(keys["samples"], row)
    return row


DAMAGED = (
    "corrupt", "truncated", "not_a_video", "bad_timestamps", "size_changes", "unreadable", "too_large", "bad_aspect", "no_keyframe"
)  # fmt: skip
"""Reasons that put a file into quarantine: the file itself is at fault, not what it shows."""


def sidecar_mark(video: Path) -> str:
    """A hash of what the user says beside a video: another text makes other samples."""
    try:
        return sha256(repr(sidecar.read(video)).encode())[:16]
    except Unusable as error:
        return sha256(error.detail.encode())[:16]
