"""Who performs what: the plan of a split, a pure function of (config, split, index) that draws nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Literal

import numpy as np

from data_pipeline.doubles.config import LEVEL_NAMES, PORTRAIT_KINDS, DoublesConfig, SplitConfig

Role = Literal["driver", "target"]
EXAGGERATED = LEVEL_NAMES.index("L5")


@dataclass(frozen=True)
class Pose:
    """The moment an identity image shows; kind None is the rest pose (level L0)."""

    kind: str | None
    seed: int
    time_sec: float


@dataclass(frozen=True)
class Group:
    """One motion on a few bodies; ``pairs`` of them are samples.

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
    strong_faces: bool = False

    @property
    def exaggerated(self) -> bool:
        """Whether the characters have proportions that nobody has (L5); their drivers are ordinary."""
        return self.level == EXAGGERATED

    @property
    def framing(self) -> Literal["full_body", "portrait"]:
        return "portrait" if self.portrait else "full_body"

    def key(self, driver: int, target: int) -> str:
        """Sample key, unique in a data set: split, motion seed, kind, driver, target."""
        return f"{self.split}-m{self.motion_seed:06d}-{self.kind}-d{driver:05d}-t{target:05d}"


def group_indices(split: SplitConfig) -> list[int]:
    """The groups of a split, one a motion seed; a split of ``only`` some has the same ones, fewer."""
    return list(split.only) or list(range(split.motions[1] - split.motions[0]))


def plan_group(config: DoublesConfig, name: str, index: int) -> Group:
    """The index-th group of a split."""
    split = config.splits[name]
    seed = split.motions[0] + index
    rng = np.random.default_rng([config.seed, zlib.crc32(name.encode()), index])
    weights = np.array([split.levels.get(level, 0.0) for level in LEVEL_NAMES])
    level, turn = int(rng.choice(len(LEVEL_NAMES), p=weights / weights.sum())), index
    if split.level_counts:
        order = level_order(split.level_counts)
        level = order[index]
        turn = sum(other < level for other in order) + order[:index].count(
            level
        )  # every level has its own kinds in turn
    wants_portrait = bool(rng.random() < config.portrait_fraction)
    if split.framing != "mixed":
        wants_portrait = split.framing == "portrait"
    candidates = [k for k in split.kinds if k in PORTRAIT_KINDS]
    portrait = wants_portrait and len(candidates) > 1  # the identity image needs another kind
    possible = candidates if portrait else split.kinds
    kind = possible[turn % len(possible)]
    bodies = tuple(int(b) for b in rng.choice(np.arange(*split.bodies), config.bodies_per_motion, replace=False))
    if split.in_turn:
        bodies = _next_bodies(config, name, index)
    others = [k for k in possible if k != kind]
    poses = {body: _pose(rng, split, others, level) for body in bodies}
    scenes = {(body, role): int(rng.integers(1 << 31)) for body in bodies for role in ("driver", "target")}
    pairs = _pairs(config, bodies)
    camera_seed = int(rng.integers(1 << 31))
    return Group(
        name, index, kind, seed, level, portrait, bodies, pairs, poses, camera_seed, scenes, split.strong_faces
    )


def level_order(counts: Mapping[str, int]) -> list[int]:
    """Levels of the motions in turn, each spread evenly over the split: {L0: 1, L3: 2} -> [3, 0, 3]."""
    places = [((k + 0.5) / n, LEVEL_NAMES.index(level)) for level, n in counts.items() for k in range(n)]
    return [level for _, level in sorted(places)]


def _next_bodies(config: DoublesConfig, name: str, index: int) -> tuple[int, ...]:
    """Bodies dealt out like cards: a new shuffle whenever too few are left for a motion."""
    split, size = config.splits[name], config.bodies_per_motion
    everybody = np.arange(*split.bodies)
    a_round = len(everybody) // size
    rng = np.random.default_rng([config.seed, zlib.crc32(name.encode()), _DEAL_STREAM, index // a_round])
    start = index % a_round * size
    return tuple(int(b) for b in rng.permutation(everybody)[start : start + size])


_DEAL_STREAM = 1 << 20


def _pairs(config: DoublesConfig, bodies: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(driver, target) of a motion's samples."""
    ring = tuple(zip(bodies[1:] + bodies[:1], bodies, strict=True)) if len(bodies) > 1 else ()
    cross = ring if config.pairs == "ring" else tuple(permutations(bodies, 2))
    return cross + (tuple((b, b) for b in bodies) if config.self_pairs else ())


def _pose(rng: np.random.Generator, split: SplitConfig, kinds: list[str], level: int) -> Pose:
    kind, seed, time_sec = (
        str(rng.choice(kinds)),
        int(rng.integers(split.motions[0], split.motions[1])),
        float(rng.uniform(0.1, 1.3)),
    )
    return Pose(None, 0, 0.0) if level == 0 else Pose(kind, seed, time_sec)


def leaks(
    metas: Mapping[str, Iterable[Mapping[str, Any]]],
    seen_kinds: Iterable[str] = (),
    permitted: Collection[tuple[str, str, str]] = (),
) -> list[str]:
    """What splits share though they must not, from the samples' own metadata: {split: metas} -> one line a leak.

    seen_kinds names the splits that may share motion kinds with all; permitted holds (what, split, split), what being
    ``bodies`` or ``kinds`` (:func:`permissions`).
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
            allowed = {(what, a, b), (what, b, a)} & set(permitted) or (what == "kinds" and {a, b} & set(seen_kinds))
            if common and not allowed:
                found.append(f"{a} and {b} share {what}: {', '.join(map(str, sorted(common)))}")
    return found


def permissions(config: DoublesConfig) -> set[tuple[str, str, str]]:
    """What the configuration lets splits share: (``bodies`` or ``kinds``, split, split)."""
    return {
        (what, name, other)
        for name, split in config.splits.items()
        for what, others in (("bodies", split.may_share_bodies), ("kinds", split.may_share_kinds))
        for other in others
    }
