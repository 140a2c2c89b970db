"""Measures Doubles: do planted feet skate, do hands pass through trunks, how fast is it made.

python -m data_pipeline.doubles.measure [--seeds N] [--bodies N] [--exaggerated] [--motions N]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from tqdm import tqdm

from data_pipeline.doubles.bodies import Body, load_asset
from data_pipeline.doubles.motions import KINDS, Motion
from data_pipeline.doubles.performance import Performer
from data_pipeline.doubles.takes import make_changes, make_identity
from imanim import cli
from imanim.errors import InputError

Array = np.ndarray
FPS = 12.0
TOUCHING_M = 0.012
"""A sole point this near to the floor touches it."""
HEAVY = {"gender": 0.7, "age": 0.7, "muscle": 0.2, "weight": 1.0, "height": 0.5, "proportions": 0.5}
"""The phenotype with the least room between arms and trunk."""


def main(argv: list[str]) -> int:
    args = _parse(argv)
    bodies = [Body(HEAVY), *(Body(make_identity(i).phenotype) for i in range(args.bodies - 1))]
    if args.exaggerated:
        bodies = [Body(make_identity(i).phenotype, make_changes(i)) for i in range(args.bodies)]
    people = [Performer(body) for body in bodies]
    takes = [(kind, seed) for kind in KINDS for seed in range(args.seeds)]
    speeds = np.concatenate([stance_speeds(p, kind, seed) for kind, seed in tqdm(takes, "feet") for p in people])
    inside = HandsInTrunk()
    hits = [inside.frames(p, kind, seed) for kind, seed in tqdm(takes, "hands") for p in people]
    deep, frames = sum(h.sum() for h in hits), sum(h.size for h in hits)
    print(
        f"{len(takes) * len(people)} takes: {len(KINDS)} kinds, {args.seeds} seeds, {len(people)} bodies, 17 frames each"
    )
    print(
        f"speed of soles that stand: mean {speeds.mean():.4f} m/s, 99th percentile {np.percentile(speeds, 99):.3f} m/s, "
        f"largest {speeds.max():.2f} m/s ({speeds.size} points)"
    )
    print(f"hand vertices inside the trunk: in {deep} of {frames} frames ({100 * deep / frames:.2f} %)")
    if not args.motions:
        return 0
    sec, count = generation_sec_per_frame(args.motions)
    print(
        f"making samples at 128x128, all in: {1000 * sec:.1f} CPU-ms a frame ({count} frames of {args.motions} motions, "
        "rendered, masked, measured, encoded; this process alone)"
    )
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--seeds", type=int, default=2, help="motion seeds of every kind (default 2)")
    p.add_argument("--bodies", type=int, default=4, help="bodies, the first of them heavy (default 4)")
    p.add_argument(
        "--exaggerated", action="store_true", help="bodies 0, 1, ... with the proportions of level L5 instead"
    )
    p.add_argument("--motions", type=int, default=20, help="motions to generate for the speed, 0: none (default 20)")
    args = cli.parse(p, argv)
    for name, least in (("seeds", 1), ("bodies", 1), ("motions", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least {least}")
    return args


# ---------------------------------------------------------------------------------------------------------- feet


def sole_speeds(soles: Array) -> Array:
    """Horizontal speeds, m/s, of sole points [T,8,3] that touch the floor in two frames on end."""
    speed = np.linalg.norm(np.diff(soles[..., :2], axis=0), axis=-1) * FPS
    touching = soles[..., 2] < TOUCHING_M
    return speed[touching[1:] & touching[:-1]]


def stance_speeds(person: Performer, kind: str, seed: int) -> Array:
    """:func:`sole_speeds` of a person performing a motion."""
    p = person.perform(Motion(kind, seed))
    return sole_speeds(person.body.joints_only(p.deltas, p.root).soles)


# --------------------------------------------------------------------------------------------------------- hands


def winding(points: Array, triangles: Array) -> Array:
    """Generalised winding number of points [P,3] in a nearly closed surface [F,3,3]: about 1 inside, 0 outside."""
    v = triangles[None] - points[:, None, None]
    a, b, c = (v[:, :, i] for i in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    top = (a * np.cross(b, c)).sum(-1)
    below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (a * c).sum(-1) * lb
    return np.abs(np.arctan2(top, below).sum(1) / (2 * np.pi))


class HandsInTrunk:
    """Which frames show a hand inside the clothed trunk."""

    TRUNK = ("root", "pelvis", "spine", "clavicle", "shoulder", "neck", "upperleg01")

    def __init__(self) -> None:
        asset = load_asset()
        bones = np.array(asset.bone_names)[np.asarray(asset.skin_weights.argmax(1)).ravel()]
        cloth, skin = asset.triangles[asset.groups == 5], np.unique(asset.triangles[asset.groups == 0])
        self.trunk = cloth[np.array([b.startswith(self.TRUNK) for b in bones])[cloth].all(1)]
        hands = np.flatnonzero([b.startswith(("finger", "wrist")) for b in bones])
        self.hands = np.intersect1d(hands, skin)[::40]

    def frames(self, person: Performer, kind: str, seed: int, every: int = 4) -> Array:
        """bool: each looked-at frame of a person performing a motion."""
        p = person.perform(Motion(kind, seed))
        posed = person.body.pose(p.deltas[::every], p.root[::every])
        return np.array([(winding(v[self.hands], v[self.trunk]) > 0.5).any() for v in posed.vertices])


# --------------------------------------------------------------------------------------------------------- speed


def generation_sec_per_frame(motions: int, size: int = 128) -> tuple[float, int]:
    """(CPU seconds a rendered frame takes, frames): whole samples, after the kernels were compiled by a first one."""
    from data_pipeline.doubles.config import DoublesConfig
    from data_pipeline.doubles.generate import GroupMaker
    from data_pipeline.doubles.splits import plan_group

    config = DoublesConfig(output="", height=size, width=size)
    split = next(iter(config.splits))
    maker = GroupMaker(config)
    maker.make(plan_group(config, split, 0))
    began, count = time.process_time(), 0
    for i in tqdm(range(1, motions + 1), "speed"):
        group = plan_group(config, split, i)
        maker.make(group)
        # Every body of a group is filmed as a driver, as a target, and once for its picture.
        count += len(group.bodies) * (2 * config.frames + 1)
    return (time.process_time() - began) / count, count


if __name__ == "__main__":
    cli.run(main)
