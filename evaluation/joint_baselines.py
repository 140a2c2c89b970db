"""Joint errors of the training-free baselines over a Doubles set, by level and by split: how hard the set is without a model.

python -m evaluation.joint_baselines FOLDER [--by level|split|kind]

No frames are decoded. Every baseline is given the true joints of driver and character (evaluation/baselines.py).
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from evaluation import baselines
from evaluation.metrics.joints import joint_error
from imanim import cli
from imanim.data.shards import ShardSet, read_manifest
from imanim.errors import InputError

BASELINES = ("hold", "copy", "scale + shift", "2D bone length")
_MEMBERS = ("joints.npy", "driving_joints.npy", "identity_joints.npy", "meta.json")


def errors(truth: np.ndarray, driving: np.ndarray, identity: np.ndarray, height: int, width: int) -> list[float]:
    """Joint error of each of BASELINES, % of the true person's height; NaN where no joint counts.

    truth, driving [T,J,3], identity [J,3]; height, width of the frame in pixels.
    """
    guesses = (
        baselines.hold_joints(identity, len(truth)),
        baselines.copy_joints(driving),
        baselines.scale_shift_joints(driving, identity, height, width),
        baselines.bone_length_joints(driving, identity, height, width),
    )
    return [joint_error(guess, truth, height, width) for guess in guesses]


def measure(folder: Path, by: str) -> dict[str, list[list[float]]]:
    """Errors of every sample with a driver of its own, by ``level`` (``portrait`` apart), ``split`` or ``kind``.

    Raises:
        InputError: a sample without the joints that baselines need.
    """
    found = defaultdict(list)
    for split in read_manifest(folder)["splits"]:
        shards = ShardSet(folder, split)
        for i in range(len(shards)):
            key, members = shards.read(i, list(_MEMBERS))
            if not set(_MEMBERS) <= set(members):
                raise InputError(
                    f"{folder}: sample {key} lacks joints of driver or character; give a set of cross pairs"
                )
            meta = json.loads(members["meta.json"])
            arrays = [np.load(io.BytesIO(members[name]), allow_pickle=False) for name in _MEMBERS[:3]]
            group = {"split": split, "kind": meta["motion"]["kind"], "level": meta["level"]}[by]
            if by == "level" and meta["framing"] == "portrait":
                group += " portrait"
            found[group].append(errors(*arrays, *meta["size"]))
    return dict(sorted(found.items()))


def table(found: dict[str, list[list[float]]]) -> Iterable[str]:
    """Markdown rows: samples and the mean error of each baseline."""
    yield f"| | samples | {' | '.join(BASELINES)} |"
    yield "|---" * (2 + len(BASELINES)) + "|"
    for group, rows in found.items():
        means = np.nanmean(np.array(rows), 0)
        yield f"| {group} | {len(rows)} | {' | '.join(f'{m:.1f}' for m in means)} |"


def main(argv: list[str]) -> int:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("folder", type=Path, help="a folder that configs/data/doubles_v1.yaml made")
    p.add_argument(
        "--by", choices=("level", "split", "kind"), default="level", help="rows of the table (default level)"
    )
    args = cli.parse(p, argv)
    print("\n".join(table(measure(args.folder, args.by))))
    return 0


if __name__ == "__main__":
    cli.run(main)
