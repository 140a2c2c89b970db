"""Who is who over all videos of a set, and which split each person is in."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipeline.config import SplitConfig
from data_pipeline.jobs import persons
from data_pipeline.video.artefacts import Artefact, Row
from data_pipeline.video.person_faces import track_vectors
from imanim.data.files import sha256


@dataclass
class Cast:
    """``person``, ``split``: by (video's sha256, track). ``leakage``: the report of `persons.leakage`."""

    person: dict[tuple[str, int], str] = field(default_factory=dict)
    split: dict[tuple[str, int], str] = field(default_factory=dict)
    leakage: dict[str, Any] = field(default_factory=dict)


def cast(rows: list[Row], tracks: dict[str, list[int]], identities: dict[str, Artefact], config: SplitConfig) -> Cast:
    """Links the tracks of all videos by face and gives every person a split.

    Args:
        rows: of the videos that have clips. tracks: sha256 -> the tracks that clips show. identities: sha256 -> the identity step.

    Raises:
        InputError: pinned files put one person, or one video, into two splits.
    """
    entries = [
        (row["sha256"], track) for row in sorted(rows, key=lambda r: r["sha256"]) for track in tracks[row["sha256"]]
    ]
    if not entries:
        return Cast()
    names = {row["sha256"]: row["file"] for row in rows}
    vectors = {sha: track_vectors(identity) for sha, identity in identities.items()}
    size = max((identity["vector"].shape[1] for identity in identities.values()), default=1) or 1
    nobody = np.full(size, np.nan, np.float32)
    matrix = np.stack([vectors[sha].get(track, nobody) for sha, track in entries])
    threshold = max((identity.facts["threshold"] for identity in identities.values()), default=0.0)
    videos = [sha for sha, _ in entries]
    numbers = persons.link(matrix, threshold)
    ids = [f"{sha}-{track}" for sha, track in entries]
    # A person is called after the smallest of their tracks: the name stays when other people come to the set.
    first = {n: min(ids[i] for i in np.flatnonzero(numbers == n)) for n in np.unique(numbers)}
    person = [f"person-{sha256(first[n].encode())[:12]}" for n in numbers]
    groups = persons.groups(numbers, videos)
    pinned = {i: split for i, sha in zip(ids, videos) if (split := _pin(names[sha], config)) is not None}
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    shown = [names[sha] for sha in videos]
    splits = persons.assign(groups, ids, shown, fractions, pinned)
    leakage = persons.leakage(matrix, person, splits, shown, threshold)
    return Cast(dict(zip(entries, person)), dict(zip(entries, splits)), leakage)


def _pin(name: str, config: SplitConfig) -> str | None:
    """The split that the first matching pattern pins a file to."""
    return next((split for pattern, split in config.pinned.items() if fnmatch.fnmatch(name, pattern)), None)
