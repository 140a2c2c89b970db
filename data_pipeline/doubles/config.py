"""Settings of the Doubles generator (`source: doubles`)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from data_pipeline.doubles.motions import KINDS
from imanim.clock import is_clip_length
from imanim.config import opt

LEVEL_NAMES = ("L0", "L1", "L2", "L3", "L4", "L5")

# Kinds that stay in the picture when only head and shoulders are shown.
PORTRAIT_KINDS = (
    "box", "circles", "conduct", "dance", "drum", "gesture", "idle", "point", "talk", "twist", "wave",
)  # fmt: skip

_TRAIN_KINDS = (
    "balance", "bow", "box", "dance", "gesture", "hop", "idle", "jacks", "jog", "kick", "march", "point", "squat",
    "stretch", "talk", "walk", "wave",
)  # fmt: skip
_VAL_KINDS = ("drum", "sidestep", "twist")
_TEST_KINDS = ("circles", "conduct", "lunge", "reach", "throw", "turn")
_MIXTURE = {"L0": 0.10, "L1": 0.15, "L2": 0.20, "L3": 0.35, "L4": 0.20}


@dataclass
class SplitConfig:
    """One split. Bodies and motion seeds are absolute: body 17 is the same person in every data set."""

    bodies: list[int] = opt([], "first and last+1 body id")
    motions: list[int] = opt(
        [], "first and last+1 motion seed; every seed is one motion, performed by bodies_per_motion bodies"
    )
    kinds: list[str] = opt([], "motion kinds, used in turn")
    levels: dict[str, float] = opt({"L3": 1.0}, "weights of the difficulty levels L0..L5")
    seen_kinds: bool = opt(False, "kinds may also appear in other splits (unseen bodies, seen kinds)")
    level_counts: dict[str, int] = opt(
        {}, "exactly so many motions of each level, spread evenly; levels then says nothing"
    )
    in_turn: bool = opt(False, "bodies take turns, so that all perform equally often; otherwise they are drawn")
    framing: Literal["mixed", "full_body", "portrait"] = opt("mixed", "mixed: portraits as portrait_fraction says")
    strong_faces: bool = opt(False, "faces act at full strength, another expression every few frames")
    only: list[int] = opt(
        [], "make these motions alone (0 is the first seed of motions), as they are in the whole split"
    )
    may_share_bodies: list[str] = opt([], "splits whose bodies may appear here too")
    may_share_kinds: list[str] = opt([], "splits whose kinds may appear here too")

    def problems(self) -> list[str]:
        found = []
        for name in ("bodies", "motions"):
            value = getattr(self, name)
            if len(value) != 2 or not 0 <= value[0] < value[1]:
                found.append(f"{name}: expected [first, last+1] with 0 <= first < last+1, found {value}")
        unknown = [k for k in self.kinds if k not in KINDS]
        if unknown:
            found.append(f"kinds: {', '.join(unknown)} unknown; choose from {', '.join(KINDS)}")
        if len(set(self.kinds)) < 2:
            found.append(f"kinds: {self.kinds}: at least two, the identity image shows another kind than the clip")
        if not self.levels or min(self.levels.values()) < 0 or sum(self.levels.values()) <= 0:
            found.append(f"levels: {self.levels}: expected weights >= 0 with a positive sum")
        found += [
            f"levels.{k}: unknown level; choose from {', '.join(LEVEL_NAMES)}"
            for k in self.levels
            if k not in LEVEL_NAMES
        ]
        return found + self._count_problems()

    def _count_problems(self) -> list[str]:
        found: list[str] = []
        if len(self.motions) != 2:
            return found
        count = self.motions[1] - self.motions[0]
        unknown = [k for k in self.level_counts if k not in LEVEL_NAMES]
        if unknown or min(self.level_counts.values(), default=0) < 0:
            found.append(f"level_counts: {self.level_counts}: expected counts >= 0 of {', '.join(LEVEL_NAMES)}")
        elif self.level_counts and sum(self.level_counts.values()) != count:
            found.append(
                f"level_counts: {sum(self.level_counts.values())} motions in all, but motions {self.motions} are {count}"
            )
        if any(not 0 <= i < count for i in self.only) or sorted(set(self.only)) != self.only:
            found.append(f"only: {self.only}: expected rising numbers from 0 to {count - 1}")
        if self.framing == "portrait" and len(set(self.kinds) & set(PORTRAIT_KINDS)) < 2:
            found.append(f"kinds: {self.kinds}: a portrait split needs two of {', '.join(PORTRAIT_KINDS)}")
        return found


def _default_splits() -> dict[str, SplitConfig]:
    hard = {"L3": 0.6, "L4": 0.4}
    return {
        "train": SplitConfig([0, 600], [0, 500], list(_TRAIN_KINDS), dict(_MIXTURE)),
        "val": SplitConfig([600, 640], [100000, 100020], list(_VAL_KINDS), dict(hard)),
        "test": SplitConfig([640, 700], [200000, 200040], list(_TEST_KINDS), dict(hard)),
        "test_seen_kinds": SplitConfig([700, 760], [300000, 300040], list(_TRAIN_KINDS), dict(hard), True),
    }


@dataclass
class DoublesConfig:
    """What to generate. Everything is a pure function of these settings, whatever the number of workers."""

    source: Literal["doubles"] = opt("doubles", "where samples come from")
    output: str = opt("data/doubles", "folder for shards, manifest, report and contact sheets")
    seed: int = opt(0, "draws scenes, cameras and who performs what; bodies and motions keep their own ids")
    height: int = opt(128, "frame height, pixels")
    width: int = opt(80, "frame width, pixels")
    frames: int = opt(17, "frames of a clip, 4n+1")
    fps: float = opt(12.0, "frames a second")
    supersample: int = opt(2, "rendered pixels per pixel and side")
    crf: int = opt(18, "H.264 quality of the clips, lower is better")
    device: str = opt("cpu", "renderer's device: cpu or cuda")
    bodies_per_motion: int = opt(3, "bodies that perform each motion")
    self_pairs: bool = opt(False, "also a sample of every body with itself as the driver")
    portrait_fraction: float = opt(0.25, "fraction of motions filmed as head and shoulders, with kinds that allow it")
    workers: int = opt(2, "processes; 0 runs in this one")
    samples_per_shard: int = opt(64, "samples of a shard, at most")
    splits: dict[str, SplitConfig] = opt(_default_splits(), "the splits by name")
    pairs: Literal["all", "ring"] = opt(
        "all", "samples of a motion: every ordered pair of its bodies, or each body driven by the next alone"
    )
    details: bool = opt(False, "also store facial actions (expression.npy) and body measures (in the metadata)")

    @property
    def samples_per_motion(self) -> int:
        g = self.bodies_per_motion
        cross = g * (g - 1) if self.pairs == "all" or g < 2 else g
        return cross + (g if self.self_pairs else 0)

    def problems(self) -> list[str]:
        found = []
        for name, low in (("height", 16), ("width", 16), ("supersample", 1), ("bodies_per_motion", 1), ("workers", 0)):
            if getattr(self, name) < low:
                found.append(f"{name}: {getattr(self, name)} is below {low}")
        if self.height % 2 or self.width % 2:
            found.append(f"height, width: {self.height}x{self.width} must be even for H.264")
        if not is_clip_length(self.frames):
            found.append(f"frames: {self.frames} is not 4n+1; take {4 * max(1, round((self.frames - 1) / 4)) + 1}")
        if not self.fps > 0:
            found.append(f"fps: {self.fps} must be positive")
        if not 0 <= self.portrait_fraction <= 1:
            found.append(f"portrait_fraction: {self.portrait_fraction} lies outside 0..1")
        if self.samples_per_motion < 1:
            found.append("bodies_per_motion: one body without self_pairs makes no sample; take 2 or more")
        if self.samples_per_shard < 1:
            found.append(f"samples_per_shard: {self.samples_per_shard} is below 1")
        return found + self._split_problems()

    def _split_problems(self) -> list[str]:
        found = [
            f"splits.{n}: a name has letters, digits and `_` only"
            for n in self.splits
            if not n.replace("_", "a").isalnum()
        ]
        for name, split in self.splits.items():
            if len(split.bodies) == 2 and split.bodies[1] - split.bodies[0] < self.bodies_per_motion:
                found.append(
                    f"splits.{name}.bodies: {split.bodies} holds fewer than bodies_per_motion={self.bodies_per_motion}"
                )
        found += self._permission_problems()
        for (a, one), (b, two) in combinations(self.splits.items(), 2):
            for what in ("bodies", "motions"):
                x, y = getattr(one, what), getattr(two, what)
                allowed = what == "bodies" and (b in one.may_share_bodies or a in two.may_share_bodies)
                if len(x) == len(y) == 2 and max(x[0], y[0]) < min(x[1], y[1]) and not allowed:
                    remedy = "; or name one in the other's may_share_bodies" if what == "bodies" else ""
                    found.append(
                        f"splits.{a}.{what} {x} and splits.{b}.{what} {y} overlap; splits must be disjoint{remedy}"
                    )
            common = sorted(set(one.kinds) & set(two.kinds))
            allowed = one.seen_kinds or two.seen_kinds or b in one.may_share_kinds or a in two.may_share_kinds
            if common and not allowed:
                found.append(f"splits.{a} and splits.{b} share kinds {', '.join(common)}; or set seen_kinds on one")
        return found

    def _permission_problems(self) -> list[str]:
        return [
            f"splits.{name}.{what}: {other} is not another split; choose from {', '.join(self.splits)}"
            for name, split in self.splits.items()
            for what in ("may_share_bodies", "may_share_kinds")
            for other in getattr(split, what)
            if other not in self.splits or other == name
        ]
