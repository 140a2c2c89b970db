"""What can be known of a Doubles set: joint errors of somebody who knows all but the character's view, by level.

python -m evaluation.unknown_view FOLDER

From L3 on the character is filmed from another side than the driver, and no input says from which: the character's image shows
another motion, whose heading is its own. The best that can be said is a mean over the views that the level allows. Here it is told
from the character's true body, motion in space, zoom, place and elevation; once without and once with the side that the driver is
filmed from, which rules out views (a character's camera stands within 29 degrees of the front). A video shows that side as far as
people face the front. So what can be known lies between the two. Portraits are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline.doubles.bodies import Body
from data_pipeline.doubles.camera import LEVELS, MAX_AZIMUTH_RAD, MAX_VIEW_GAP_RAD, MIN_VIEW_GAP_RAD, Camera
from data_pipeline.doubles.motions import Motion
from data_pipeline.doubles.performance import Performer
from data_pipeline.doubles.takes import make_changes, make_identity
from evaluation.metrics import joints as joint_metrics
from imanim import cli
from imanim.data.sample import decode
from imanim.data.shards import ShardSet, read_manifest
from imanim.errors import InputError

VIEWS = 16
"""To each side, evenly over the gaps that the level allows; those count that the character's camera can have."""
COLUMNS = {"joint_error": "joint error", "moving_error": "of the motion alone"}
KNOWN = {False: "driver's side unknown", True: "known"}


class People:
    """Bodies that perform, kept."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool], Performer] = {}

    def points(self, meta: Mapping[str, Any], fps: float, frames: int) -> np.ndarray:
        """A sample's character in space: [T,20,3] metres."""
        body, exaggerated = meta["target"]["body"], meta["level"] == "L5"
        at = (body, exaggerated)
        if at not in self._known:
            self._known[at] = Performer(
                Body(make_identity(body).phenotype, make_changes(body) if exaggerated else None)
            )
        person, motion = self._known[at], meta["motion"]
        done = person.perform(Motion(motion["kind"], motion["seed"], fps, frames))
        return person.body.joints_only(done.deltas, done.root, done.expressions).keypoints


def mean_over_views(points: np.ndarray, meta: Mapping[str, Any], side_known: bool) -> np.ndarray:
    """Joints [T,20,2] of points [T,20,3]: the mean of their projections into every view that the driver's allows."""
    level = LEVELS.index(meta["level"])
    gaps = np.linspace(MIN_VIEW_GAP_RAD[level], MAX_VIEW_GAP_RAD[level], VIEWS)
    camera = meta["target"]["camera"]
    height, width = meta["size"]
    here, driver = _azimuth(camera), _azimuth(meta["driver"]["camera"])
    azimuths = driver + np.concatenate([gaps, -gaps])
    if side_known:
        azimuths = azimuths[np.abs(azimuths) <= MAX_AZIMUTH_RAD]
    seen = [_turned(camera, azimuth - here).project(points, width, height)[0] for azimuth in azimuths]
    return np.mean(seen, 0)


def measure(folder: Path) -> dict[str, list[list[float]]]:
    """Level to each full-body sample's COLUMNS, for each of KNOWN.

    Raises:
        InputError: samples that Doubles did not make with their truth.
    """
    found, people = defaultdict(list), People()
    for split in read_manifest(folder)["splits"]:
        shards = ShardSet(folder, split)
        for i in tqdm(range(len(shards)), desc=split, unit="sample"):
            sample = decode(*shards.read(i))
            if sample.meta.get("source") != "doubles" or sample.joints is None:
                raise InputError(f"{folder}: sample {sample.key} is not of Doubles; give a folder that Doubles made")
            if sample.meta["framing"] == "portrait":
                continue
            joints = np.asarray(sample.joints)
            points = people.points(sample.meta, sample.fps, len(joints))
            row = []
            for known in KNOWN:
                guess = mean_over_views(points, sample.meta, known)
                errors = joint_metrics.errors(guess, joints, *sample.meta["size"])
                row += [errors[name] for name in COLUMNS]
            found[sample.meta["level"]].append(row)
    return dict(sorted(found.items()))


def table(found: Mapping[str, list[list[float]]]) -> Iterable[str]:
    """Markdown rows: samples and the mean of each column."""
    heads = [f"{known}: {name}" for known in KNOWN.values() for name in COLUMNS.values()]
    yield f"| | samples | {' | '.join(heads)} |"
    yield "|---" * (2 + len(heads)) + "|"
    for level, rows in found.items():
        yield f"| {level} | {len(rows)} | {' | '.join(f'{m:.2f}' for m in np.nanmean(np.array(rows), 0))} |"


def _azimuth(camera: Mapping[str, Any]) -> float:
    away = np.subtract(camera["eye"], camera["target"])
    return float(np.arctan2(away[0], -away[1]))


def _turned(camera: Mapping[str, Any], angle: float) -> Camera:
    """The camera carried round the vertical through the world's origin, where the person is."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    (ex, ey, ez), (tx, ty, tz) = (turn @ camera[name] for name in ("eye", "target"))
    return Camera((float(ex), float(ey), float(ez)), (float(tx), float(ty), float(tz)), camera["focal"])


def main(argv: list[str]) -> int:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("folder", type=Path, help="a folder that configs/data/doubles_v1.yaml made")
    args = cli.parse(p, argv)
    print("\n".join(table(measure(args.folder))))
    return 0


if __name__ == "__main__":
    cli.run(main)
