"""One video through all steps: what is there already is not done again, and what is new is kept at once.

Two passes over the file at most: one in which every step looks (`analysis`), one for the frames of the clips (`cutting`).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from data_pipeline import decode, plugins
from data_pipeline.config import VideosConfig
from data_pipeline.reporting.reasons import reason_of
from data_pipeline.video import sidecar, tracks
from data_pipeline.video.analysis import LOOKING, Beat, Networks, StageClock, analyse
from data_pipeline.video.artefacts import Artefact, Row, VideoFolder
from data_pipeline.video.cutting import Caption, Lane, Strip, Video, cut_out
from data_pipeline.video.framing import Crop
from data_pipeline.video.pairing import Clip, Dropped, plan_clips, reasons_of
from data_pipeline.video.person_faces import track_vectors
from data_pipeline.video.quality_track import judge_of

CAPTIONS: dict[str, Callable[[sidecar.Sidecar], Caption | None]] = {
    "none": lambda beside: None,
    "sidecar": lambda beside: lambda frames, meta: beside.caption,
}


@dataclass(frozen=True)
class Source:
    """A video to work on: the file, how the report calls it, and the sha256 of its bytes."""

    path: Path
    name: str
    sha256: str


def process(
    source: Source, config: VideosConfig, networks: Networks, keys: dict[str, str], beat: Beat = lambda: None
) -> Row:
    """Makes a video's samples and leaves them in the works folder, with every step's result.

    Args:
        keys: the steps' keys (`steps.keys`).
        beat: called at every frame.

    Returns:
        the video's row of the report, which is not saved yet.

    Raises:
        Unusable: nothing can be made of this file, with the reason.
        InputError: the output refuses (disk full).
    """
    begun = time.monotonic()
    folder, clock = VideoFolder(config.output, source.sha256), StageClock()
    beside = sidecar.read(source.path)
    probe = decode.probe(source.path, max_side=config.max_side)
    found = _looked_at(source, folder, probe, config, networks, keys, clock, beat)
    with clock.stage("plan", len(found["shots"]["picks"])):
        found["pose"] = folder.load("pose", keys["pose"]) or tracks.clean(found["people"], config.pose, config.clip.fps)
        folder.save("pose", keys["pose"], found["pose"])
        lanes = plan(found, config, probe)
    video = Video(source.path, source.name, source.sha256, probe, found["shots"], beside, networks.pose.name)
    folder.save("clips", keys["clips"], _as_artefact(video, lanes))
    caption = _caption(config, beside)
    samples, strips = cut_out(video, lanes, config, caption, clock, beat)
    folder.save_samples(keys["samples"], samples)
    folder.save("strips", keys["samples"], _strips(strips))
    return {
        **_facts(found, probe, config, lanes),
        "licence": beside.licence or config.licence,
        "source": beside.source or config.origin,
        "wall_sec": round(time.monotonic() - begun, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "cpu_sec": {stage: round(seconds, 3) for stage, seconds in sorted(clock.cpu_sec.items())},
        "stage_frames": {stage: count for stage, count in sorted(clock.frames.items()) if count},
    }


def _looked_at(
    source: Source,
    folder: VideoFolder,
    probe: decode.Probe,
    config: VideosConfig,
    networks: Networks,
    keys: dict[str, str],
    clock: StageClock,
    beat: Beat,
) -> dict[str, Artefact]:
    stored = {step: folder.load(step, keys[step]) for step in LOOKING}
    have = {step: artefact for step, artefact in stored.items() if artefact is not None}
    if "people" not in have:  # what was found on sightings that will be numbered anew says nothing
        have = {step: artefact for step, artefact in have.items() if step == "shots"}
    if "face" not in have:
        have.pop("identity", None)
    found = analyse(source.path, probe, config, networks, have, clock, beat)
    for step in LOOKING:
        if step not in have:
            folder.save(step, keys[step], found[step])
    return found


def plan(found: dict[str, Artefact], config: VideosConfig, probe: decode.Probe) -> list[Lane]:
    """The clips of a video, by the people in it. ``found``: the results of all steps up to identity."""
    shots = found["shots"]
    of_tick = np.searchsorted(shots["cuts"], shots["picks"], side="right")
    apart = config.people.multiple == "split"
    least = max(1, int(config.clip.frames * config.framing.min_frames_with_person))
    all_tracks = tracks.lanes(
        len(of_tick),
        found["people"],
        found["pose"],
        found["face"],
        _same_faces(found, config),
        apart=apart,
        least_ticks=least,
    )
    out = []
    for number, track in enumerate(all_tracks):
        clips, dropped = plan_clips(track, of_tick, config, probe.width, probe.height, judge_of(found, config, probe))
        if apart:
            # Where this one is not, others may be: only what this one is in counts as dropped.
            dropped = [d for d in dropped if (track.person[d.start : d.stop] > 0).any()]
        out.append(Lane(track, clips, dropped, f"p{number}" if apart else ""))
    return out


def _same_faces(found: dict[str, Artefact], config: VideosConfig) -> dict[int, int]:
    """Person followed -> a number that people with surely the same face share; who showed no face is like nobody.

    For splits people are joined when in doubt (`persons.link`); here, where a wrong one would be shown as the character, only
    when every pair of them is well within the threshold.
    """
    people = np.unique(found["people"]["person"]).tolist()
    identity = found["identity"]
    vectors = {p: v for p, v in track_vectors(identity).items() if np.isfinite(v).all()}
    alone = {p: -p for p in people}  # people are numbered from 1, groups too
    if len(vectors) < 2:
        return alone
    tree = linkage(np.stack(list(vectors.values())), method="complete")
    groups = fcluster(tree, config.pairing.certainty * identity.facts["threshold"], criterion="distance")
    return alone | {p: int(group) for p, group in zip(vectors, groups)}


def _caption(config: VideosConfig, beside: sidecar.Sidecar) -> Caption | None:
    name = config.captions.backend
    return CAPTIONS[name](beside) if name in CAPTIONS else plugins.function(name)


# ------------------------------------------------------------------------------------------------------------- records


def _as_artefact(video: Video, lanes: list[Lane]) -> Artefact:
    """The plan as facts: every clip, kept or dropped, with its quality."""
    clips, dropped = [], []
    for lane in lanes:
        clips += [
            {**_record(video, lane, c), "identity_tick": c.identity, "crop": _numbers(c.crop)} for c in lane.clips
        ]
        dropped += [{**_record(video, lane, d), "reason": d.reason} for d in lane.dropped]
    return Artefact({"clips": clips, "dropped": dropped})


def _record(video: Video, lane: Lane, clip: Clip | Dropped) -> dict[str, Any]:
    start, last = video.time_sec(clip.start), video.time_sec(clip.stop - 1)
    people = lane.track.person[clip.start : clip.stop]
    people = people[people > 0]
    return {
        "key": video.key(lane, clip.start),
        "start": clip.start,
        "frames": clip.stop - clip.start,
        "start_sec": start,
        "seconds": round(last - start, 4),
        "track": int(np.bincount(people).argmax()) if len(people) else None,
        "quality": {k: round(v, 4) for k, v in sorted(clip.quality.items()) if np.isfinite(v)},
    }


def _numbers(crop: Crop) -> list[float]:
    return [round(v, 2) for v in (crop.x, crop.y, crop.width, crop.height)]


def _strips(strips: list[Strip]) -> Artefact:
    """Pictures of dropped clips: their bytes one behind the other."""
    facts = [{"reason": s.reason, "key": s.key, "bytes": len(s.jpeg)} for s in strips]
    return Artefact({"strips": facts}, {"jpeg": np.frombuffer(b"".join(s.jpeg for s in strips), np.uint8)})


def strips_of(artefact: Artefact) -> list[Strip]:
    """What :func:`process` kept as ``strips``."""
    data, out, at = artefact["jpeg"].tobytes(), [], 0
    for fact in artefact.facts["strips"]:
        out.append(Strip(fact["reason"], fact["key"], data[at : at + fact["bytes"]]))
        at += fact["bytes"]
    return out


def _facts(found: dict[str, Artefact], probe: decode.Probe, config: VideosConfig, lanes: list[Lane]) -> Row:
    shots, people = found["shots"], found["people"]
    left_out = reasons_of([d for lane in lanes for d in lane.dropped])
    known = (found["pose"]["joints"][..., 2] > 0).sum(axis=1) >= config.framing.min_known_joints
    row: Row = {
        "seconds": round(float(shots["times_sec"][-1]), 3),
        "size": [probe.source_height, probe.source_width],
        "rate_fps": round((len(shots["times_sec"]) - 1) / float(shots["times_sec"][-1]), 3),
        "codec": probe.codec,
        "frames": len(shots["times_sec"]),
        "ticks": len(shots["picks"]),
        "cuts": shots["cuts"].tolist(),
        "shots": len(shots["cuts"]) + 1,
        "people": int(people.facts["people"]),
        "person_ticks": len(np.unique(people["tick"][known])),
        "clips": sum(len(lane.clips) for lane in lanes),
        "left_out": dict(sorted(left_out.items())),
    }
    if not row["clips"]:
        row |= {"reason": reason_of(left_out), "detail": "no clip could be made"}
    return row
