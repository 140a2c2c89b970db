"""Who performs what: the plan of a split, a pure function of (config, split, index) that draws nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Literal

import numpy as np

from data_pipeline.doubles.config import LEVEL_NAMES, PORTRAIT_KINDS, DoublesConfig, SplitConfig

Role = Literal["driver", "target"]


@dataclass(frozen=True)
class Pose:
    """The moment an identity image shows; kind None is the rest pose (level L0)."""

    kind: str | None
    seed: int
    time_sec: float


@dataclass(frozen=True)
class Group:
    """One motion on a few bodies: every ordered pair of them is a sample.

    Each body is filmed twice, as a driver and as a target, because the two roles differ in view and scene.
    """

    split: str
    index: int
    kind: str
    motion_seed: int
    level: int
    portrait: bool
    bodies: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]  # (driver, target) body ids; the same id twice is a self pair
    poses: dict[int, Pose]  # identity image of each body
    camera_seed: int
    scene_seeds: dict[tuple[int, str], int]  # by (body id, role)

    @property
    def framing(self) -> Literal["full_body", "portrait"]:
        return "portrait" if self.portrait else "full_body"

    def key(self, driver: int, target: int) -> str:
        """Sample key, unique in a data set: split, motion seed, kind, driver, target."""
        return f"{self.split}-m{self.motion_seed:06d}-{self.kind}-d{driver:05d}-t{target:05d}"


def group_count(split: SplitConfig) -> int:
    """One group a motion seed."""
    return split.motions[1] - split.motions[0]


def plan_group(config: DoublesConfig, name: str, index: int) -> Group:
    """The index-th group of a split."""
    split = config.splits[name]
    seed = split.motions[0] + index
    rng = np.random.default_rng([config.seed, zlib.crc32(name.encode()), index])
    weights = np.array([split.levels.get(level, 0.0) for level in LEVEL_NAMES])
    level = int(rng.choice(len(LEVEL_NAMES), p=weights / weights.sum()))
    wants_portrait = bool(rng.random() < config.portrait_fraction)
    candidates = [k for k in split.kinds if k in PORTRAIT_KINDS]
    portrait = wants_portrait and len(candidates) > 1  # the identity image needs another kind
    possible = candidates if portrait else split.kinds
    kind = possible[index % len(possible)]
    bodies = tuple(int(b) for b in rng.choice(np.arange(*split.bodies), config.bodies_per_motion, replace=False))
    others = [k for k in possible if k != kind]
    poses = {body: _pose(rng, split, others, level) for body in bodies}
    scenes = {(body, role): int(rng.integers(1 << 31)) for body in bodies for role in ("driver", "target")}
    pairs = tuple(permutations(bodies, 2)) + (tuple((b, b) for b in bodies) if config.self_pairs else ())
    camera_seed = int(rng.integers(1 << 31))
    return Group(name, index, kind, seed, level, portrait, bodies, pairs, poses, camera_seed, scenes)


def _pose(rng: np.random.Generator, split: SplitConfig, kinds: list[str], level: int) -> Pose:
    kind, seed, time_sec = (
        str(rng.choice(kinds)),
        int(rng.integers(split.motions[0], split.motions[1])),
        float(rng.uniform(0.1, 1.3)),
    )
    return Pose(None, 0, 0.0) if level == 0 else Pose(kind, seed, time_sec)


def leaks(metas: Mapping[str, Iterable[Mapping[str, Any]]], seen_kinds: Iterable[str] = ()) -> list[str]:
    """What splits share though they must not, from the samples' own metadata: {split: metas} -> one line a leak.

    seen_kinds names the splits that may share motion kinds.
    """
    used: dict[str, dict[str, set[Any]]] = {}
    for split, samples in metas.items():
        sets = used.setdefault(split, {"bodies": set(), "motion seeds": set(), "kinds": set()})
        for meta in samples:
            sets["bodies"] |= {meta["driver"]["body"], meta["target"]["body"]}
            for motion in (meta["motion"], meta["identity"]["motion"]):
                if motion["kind"] is not None:
                    sets["motion seeds"].add(motion["seed"])
                    sets["kinds"].add(motion["kind"])
    found = []
    for (a, one), (b, two) in combinations(used.items(), 2):
        for what in one:
            common = one[what] & two[what]
            if common and not (what == "kinds" and {a, b} & set(seen_kinds)):
                found.append(f"{a} and {b} share {what}: {', '.join(map(str, sorted(common)))}")
    return found
