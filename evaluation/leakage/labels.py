"""What is known about the person in a driving clip, and which clips must not be told apart by memory.

Doubles knows everything that made a person (``meta.json``); a shard of real video knows a person's id alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from imanim.errors import InputError

Meta = Mapping[str, Any]
RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class Driver:
    """Who moves in one clip.

    ``scene``: what clips may share beside their person: the motion in Doubles, the source video in real footage (with it go
    room, clothes and light). ``person`` is empty when nobody knows it. ``values``: the labels' numbers; ``missing``: why not.
    """

    key: str
    person: str
    motion: str
    scene: str
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Label:
    """A property of a person. ``dims`` are its numbers' names; none: the person's id, a class."""

    words: str
    dims: tuple[str, ...] = ()
    read: Callable[[Meta], Sequence[float]] | None = None


def _shape(meta: Meta) -> list[float]:
    phenotype = meta["driver"]["identity"]["phenotype"]
    return [phenotype[name] for name in SHAPE[:-1]] + [meta["driver"]["height_m"]]


def _colour(part: str) -> Callable[[Meta], Sequence[float]]:
    return lambda meta: meta["driver"]["identity"][part]


SHAPE = ("age", "gender", "height", "muscle", "proportions", "weight", "height_m")
"""Anny's phenotype in [0,1], and the body's height in metres."""
LABELS: dict[str, Label] = {
    "person": Label("who it is"),
    "body_shape": Label("the body's shape", SHAPE, _shape),
    "skin": Label("the skin's colour", RGB, _colour("skin")),
    "shirt": Label("the shirt's colour", RGB, _colour("shirt")),
    "pants": Label("the trousers' colour", RGB, _colour("pants")),
    "shoes": Label("the shoes' colour", RGB, _colour("shoes")),
}
"""By name. Colours are RGB in [0,1] before any light falls on them."""


def driver_of(key: str, meta: Meta) -> Driver:
    """Who drives a sample, from its ``meta.json``. In a self pair the driver is the person of the target.

    Raises:
        InputError: a label that is there holds something else than finite numbers.
    """
    motion = meta.get("motion")
    name = motion.get("id") if isinstance(motion, Mapping) else motion
    video = meta.get("video")
    scene = video.get("sha256") if isinstance(video, Mapping) else None
    values, missing = {}, {}
    for label, spec in LABELS.items():
        if spec.read is None:
            continue
        try:
            numbers = tuple(float(v) for v in spec.read(meta))
        except (KeyError, TypeError, ValueError):
            missing[label] = f"the data do not say {spec.words} (only Doubles does)"
            continue
        if len(numbers) != len(spec.dims) or not np.isfinite(numbers).all():
            raise InputError(
                f"sample {key}: {spec.words} is {numbers}, not {len(spec.dims)} numbers; make the shard again"
            )
        values[label] = numbers
    person = str(meta.get("driver_person") or meta.get("person") or "")
    if not person:
        missing["person"] = "the data do not say who drives (meta.json: person, driver_person)"
    return Driver(key, person, str(name or key), str(scene or name or key), values, missing)


@dataclass(frozen=True)
class Table:
    """One label of many clips. ``rows``: the clips that have it.

    ``y``: float64 [n,d], or for the person int64 [n]. ``groups``: folds and bootstrap keep the clips of a group together;
    ``by``: what a group is (``motion`` or ``video`` for the person's id, ``person`` for everything else).
    """

    name: str
    rows: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    by: str
    left_out: int = 0

    @property
    def is_class(self) -> bool:
        return self.y.ndim == 1


def table(name: str, drivers: Sequence[Driver], *, min_groups_a_person: int = 3) -> Table:
    """A label's table.

    A property of a body is tested on people that the probe never saw, so that nothing is remembered; an id can only be
    tested on people that it saw, so there the folds are apart by what else their clips share.

    Args:
        min_groups_a_person: people in fewer scenes are left out of the id's table: no fold could learn and test them.

    Raises:
        InputError: no clip has this label, or (the id) fewer than two people recur.
    """
    if name not in LABELS:
        raise InputError(f"label `{name}`: unknown; known: {', '.join(LABELS)}")
    have = [i for i, d in enumerate(drivers) if d.person and name not in d.missing]
    if not have:
        reasons = {d.missing.get(name) or d.missing.get("person") for d in drivers} - {None}
        raise InputError(f"{name}: {'; '.join(sorted(str(r) for r in reasons)) or 'no clips'}; probe another label")
    if LABELS[name].dims:
        y = np.array([drivers[i].values[name] for i in have])
        return Table(name, np.array(have), y, _codes([drivers[i].person for i in have]), "person", 0)
    scenes: dict[str, set[str]] = {}
    for i in have:
        scenes.setdefault(drivers[i].person, set()).add(drivers[i].scene)
    kept = [i for i in have if len(scenes[drivers[i].person]) >= min_groups_a_person]
    people = {drivers[i].person for i in kept}
    by = "motion" if all(d.scene == d.motion for d in drivers) else "video"
    if len(people) < 2:
        raise InputError(
            f"{name}: {len(people)} of {len(scenes)} people are in {min_groups_a_person} {by}s or more; at least 2 are "
            "needed; give more clips a person"
        )
    y, groups = _codes([drivers[i].person for i in kept]), _codes([drivers[i].scene for i in kept])
    return Table(name, np.array(kept), y, groups, by, len(have) - len(kept))


def _codes(names: Sequence[str]) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]
