"""How far apart one person's tracks are, and two people's: what the linking threshold should be on footage like yours.

    python -m data_pipeline.identity.measure PEOPLE [key=value ...]

PEOPLE holds a folder of videos for each person, named after them, each video of that person alone. Every video is cut into
`tracks` equal tracks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import PoseConfig
from data_pipeline.faces import backends as face_backends
from data_pipeline.faces.base import Face, head_region
from data_pipeline.faces.config import FaceConfig
from data_pipeline.identity import backends
from data_pipeline.identity.base import choose, combine, look
from data_pipeline.identity.config import IdentityConfig
from data_pipeline.pose import backends as pose_backends
from imanim import cli, config
from imanim.config import opt
from imanim.data.video import read_video
from imanim.errors import InputError

EXTENSIONS = (".mp4", ".mov", ".mkv", ".webm", ".m4v", ".avi")
FRAMES_LOOKED_AT = 8  # of a track, for each one embedded


@dataclass
class MeasureConfig:
    """The networks to measure."""

    tracks: int = opt(3, "tracks that each video is cut into")
    pose: PoseConfig = opt(PoseConfig(), "")
    face: FaceConfig = opt(FaceConfig(), "")
    identity: IdentityConfig = opt(IdentityConfig(), "")


@dataclass(frozen=True)
class Track:
    """One person in one stretch of one video: the vector, NaN where no face was good enough."""

    person: str
    video: str
    vector: np.ndarray


def measure(people: Path, settings: MeasureConfig) -> dict[str, Any]:
    """Embeds every video under ``people`` and sums up. Raises InputError when there is nothing to compare."""
    videos = sorted(p for p in people.glob("*/*") if p.suffix.lower() in EXTENSIONS)
    if len({p.parent for p in videos}) < 2:
        raise InputError(
            f"{people}: holds videos of {len({p.parent for p in videos})} people; give a folder for each of several"
        )
    pose, faces = pose_backends.build(settings.pose), face_backends.build(settings.face)
    network = backends.build(settings.identity)

    def tracks() -> Iterator[Track]:
        for path in videos:
            frames = read_video(path).frames
            for part in np.array_split(np.arange(len(frames)), settings.tracks):
                step = max(1, len(part) // (FRAMES_LOOKED_AT * settings.identity.faces_per_track))
                seen = [(frames[t], _face(frames[t], pose, faces)) for t in part[::step]]
                best = choose(np.array([look(*s, settings.identity) for s in seen]), settings.identity.faces_per_track)
                found = [network.embed(seen[i][0], face) for i in best if (face := seen[i][1]) is not None]
                yield Track(path.parent.name, path.name, combine(np.array(found).reshape(-1, network.size)))

    return {"network": network.name, "models": network.models, **summarise(list(tracks()), network.threshold)}


def _face(frame: np.ndarray, pose: Any, faces: Any) -> Face | None:
    people = pose.find(frame)
    found = pose.pose(frame, people[0]) if people else None
    region = head_region(found.head) if found is not None else None
    return faces.find(frame, region) if region is not None else None


def summarise(tracks: Sequence[Track], threshold: float) -> dict[str, Any]:
    """For JSON: distances of one person's tracks (in one video, in two) and of two people's, errors at the threshold, and
    ``between``, the range of thresholds without error, None when there is none.
    """
    known = [t for t in tracks if np.isfinite(t.vector).all()]
    kinds: dict[str, list[tuple[float, Track, Track]]] = {"same_video": [], "same_person": [], "different": []}
    for a, b in combinations(known, 2):
        kind = "different" if a.person != b.person else "same_video" if a.video == b.video else "same_person"
        kinds[kind].append((float(np.linalg.norm(a.vector.astype(np.float64) - b.vector)), a, b))
    same = sorted(d for kind in ("same_video", "same_person") for d, _, _ in kinds[kind])
    different = sorted(kinds["different"], key=lambda pair: pair[0])
    if not same or not different:
        raise InputError(
            f"{len(known)} of {len(tracks)} tracks show a face well enough: too few to compare; give more video"
        )
    apart = same[-1] < different[0][0]
    return {
        "tracks": len(tracks),
        "without_vector": len(tracks) - len(known),
        **{kind: _quantiles([d for d, _, _ in pairs]) for kind, pairs in kinds.items()},
        "threshold": threshold,
        "missed": sum(d >= threshold for d in same),
        "false": sum(d < threshold for d, _, _ in different),
        "between": [round(same[-1], 3), round(different[0][0], 3)] if apart else None,
        "nearest": [
            {"distance": round(d, 3), "a": f"{a.person}/{a.video}", "b": f"{b.person}/{b.video}"}
            for d, a, b in different[:5]
        ],
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    names = ("smallest", "median", "largest")
    cuts: Sequence[float] = np.percentile(values, [0, 50, 100]).tolist() if values else []
    return {"pairs": len(values), **{name: round(v, 3) for name, v in zip(names, cuts)}}


def main(argv: list[str]) -> int:
    """Prints the summary as JSON."""
    parser = cli.parser(__doc__ or "", config=False)
    parser.add_argument("people", type=Path, help="folder with a folder of videos for each person")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. tracks=2 identity.faces_per_track=8")
    args = cli.parse(parser, argv)
    print(json.dumps(measure(args.people, config.load(MeasureConfig, None, args.overrides)), indent=1))
    return 0


if __name__ == "__main__":
    cli.run(main)
