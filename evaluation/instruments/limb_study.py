"""Which 2D limb lengths tell of the body and not of the pose? `python -m evaluation.instruments.limb_study`: true joints alone.

A limb's length over a clip against the true one, for another body in the right pose (to be seen), for the right body in a wrong
pose and for joints off by a pixel (not to be seen). Printed: mean error in % over motions, as docs/instruments.md shows it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from data_pipeline.doubles.bodies import Body
from data_pipeline.doubles.camera import plan_cameras
from data_pipeline.doubles.motions import KINDS, Motion
from data_pipeline.doubles.performance import Performer
from data_pipeline.doubles.takes import make_identity
from evaluation.instruments.truth import HEIGHT_PX, WIDTH_PX
from evaluation.metrics.doubles import LIMBS
from imanim.data.sample import JOINTS

PEOPLE, MOTIONS, LEVEL = range(640, 650), 40, 3
LEFT_OUT = {
    "forearm": (("r_elbow", "r_wrist"), ("l_elbow", "l_wrist")),
    "shoulders": (("r_shoulder", "l_shoulder"),),
    "head": (("nose", "neck"),),
}


@cache
def performer(body_id: int) -> Performer:
    """A person of Doubles, undressed of pictures: joints alone."""
    return Performer(Body(make_identity(body_id).phenotype))


def joints_px(body_id: int, motion: Motion, seed: int) -> np.ndarray:
    """Joints [T,20,2] in pixels, in the target's view of camera plan ``seed``."""
    who = performer(body_id)
    done = who.perform(motion)
    camera = plan_cameras(np.random.default_rng(seed), LEVEL).target.camera(who.body.height_m)
    points = who.body.joints_only(done.deltas, done.root).keypoints
    return camera.project(points, WIDTH_PX, HEIGHT_PX)[0] * (WIDTH_PX, HEIGHT_PX)


def lengths(joints: np.ndarray, sides: tuple[tuple[str, str], ...]) -> np.ndarray:
    """[T,sides] in pixels, at least 1."""
    ends = np.array([[JOINTS.index(end) for end in side] for side in sides])
    return np.maximum(np.linalg.norm(joints[:, ends[:, 0]] - joints[:, ends[:, 1]], axis=-1), 1)


def main() -> None:
    """Prints a line a limb."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[list[float]]] = {}
    for seed in range(MOTIONS):
        motion, other = (Motion(str(rng.choice(KINDS)), int(rng.integers(10**6))) for _ in range(2))
        driver, target = (int(i) for i in rng.choice(list(PEOPLE), 2, replace=False))
        true = joints_px(target, motion, seed)
        made = {
            "driver's body": joints_px(driver, motion, seed),
            "first frame held": np.repeat(true[:1], len(true), 0),
            "another motion": joints_px(target, other, seed),
            "off by 1 px": true + rng.normal(0, 1, true.shape),
        }
        for limb, sides in {**LIMBS, **LEFT_OUT}.items():
            pairs = [(lengths(joints, sides), lengths(true, sides)) for joints in made.values()]
            by_frame = [100 * abs(float(np.median(a / b)) - 1) for a, b in pairs]
            medians = [100 * abs(float(np.median(a) / np.median(b)) - 1) for a, b in pairs]
            rows.setdefault(limb, []).append(by_frame + medians)
    print("median of read / true, by frame | ratio of medians: " + ", ".join(made))
    for limb, values in rows.items():
        means = np.mean(values, 0)
        print(f"{limb}: " + " | ".join(" / ".join(f"{v:.1f}" for v in half) for half in (means[:4], means[4:])))


if __name__ == "__main__":
    main()
