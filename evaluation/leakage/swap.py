"""Identity swap: the same motion by another driver. What changes is what came from the driver's person.

Tokens are compared frame by frame. A clip i and a clip j of the same person in another motion agree as far as their motions
and their person do; the clips of *other* people in j's motion are what to compare with, so that motion and camera cancel.

Videos are made twice for one character, under two drivers of one motion: their difference stands beside that of two noise
seeds, and the colours of the difference beside the drivers' own colours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from evaluation.leakage.labels import driver_of
from evaluation.metrics.pixels import person_mask
from imanim.data.sample import Sample, decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError

if TYPE_CHECKING:
    from imanim.inference.pipeline import AnimationPipeline

MAX_CLIPS = 1024
"""Clips compared with each other (evenly spread whole motions beyond): pairs grow with the square."""


# ------------------------------------------------------------------------------------------------------------ tokens


def agreement(codes: np.ndarray) -> np.ndarray:
    """Share of equal codes [n,n] of codes [n,T,K], frame by frame and token by token."""
    flat = codes.reshape(len(codes), -1)
    return np.stack([(flat == row).mean(1) for row in flat])


def cosine(tokens: np.ndarray) -> np.ndarray:
    """Cosine [n,n] of clips' tokens [n,T,K,D] less their mean over all clips and frames (what every clip shares says nothing)."""
    flat = (tokens - tokens.mean((0, 1))).reshape(len(tokens), -1).astype(np.float64)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return flat @ flat.T


def spread_motions(motions: Sequence[str], most: int = MAX_CLIPS) -> list[int]:
    """Places of clips to compare: all of them, or of evenly spread whole motions as many as ``most`` holds."""
    places: dict[str, list[int]] = {}
    for i, name in enumerate(motions):
        places.setdefault(name, []).append(i)
    groups = list(places.values())
    if len(motions) > most:
        wanted = max(1, len(groups) * most // len(motions))
        groups = [groups[int(i)] for i in (np.arange(wanted) + 0.5) * len(groups) / wanted]
    return sorted(i for group in groups for i in group)


def swap_tokens(
    alike: np.ndarray, motions: Sequence[str], persons: Sequence[str], *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """How much clips agree for their motion and how much for their driver.

    Args:
        alike: symmetric [n,n]: :func:`agreement` or :func:`cosine`.
        motions, persons: of each clip; one clip a person and motion.

    Returns:
        same_motion: mean over pairs of one motion by two drivers; same_driver: of one driver in two motions; neither: of two
        drivers in two motions. driver_pull: same_driver less what other drivers reach in the very same two motions, ``low``
        and ``high`` over drivers, ``found`` when that interval lies above 0. motion_pull: same_motion less neither.

    Raises:
        InputError: no motion has two drivers, or no driver with two motions can be compared.
    """
    motion, person = (np.unique(names, return_inverse=True)[1] for names in (motions, persons))
    same_motion = motion[:, None] == motion
    same_person = person[:, None] == person
    if not (same_motion & ~same_person).any():
        raise InputError(
            "identity swap: no motion is performed by two drivers; use Doubles (bodies_per_motion of 2 or more)"
        )
    pulls = _pulls(alike, motion, person)
    if len(pulls) < 2:
        raise InputError(
            f"identity swap: {len(pulls)} drivers perform two motions; at least 2 are needed; give more clips"
        )
    values = np.array([np.mean(p) for p in pulls])
    rng = np.random.default_rng([seed, 3])
    draws = values[rng.integers(len(values), size=(bootstrap, len(values)))].mean(1)
    low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5]))
    means = {
        "same_motion": float(alike[same_motion & ~same_person].mean()),
        "same_driver": float(alike[~same_motion & same_person].mean()),
        "neither": float(alike[~same_motion & ~same_person].mean()),
    }
    pull = {"value": float(values.mean()), "low": low, "high": high, "found": low > 0, "drivers": len(values)}
    return {**means, "driver_pull": pull, "motion_pull": means["same_motion"] - means["neither"]}


def _pulls(alike: np.ndarray, motion: np.ndarray, person: np.ndarray) -> list[list[float]]:
    """For each driver and each ordered pair of their clips (i, j): agreement less that of i with other drivers of j's motion."""
    out = []
    for who in np.unique(person):
        mine, found = np.flatnonzero(person == who), []
        for i in mine:
            for j in mine[motion[mine] != motion[i]]:
                others = np.flatnonzero((motion == motion[j]) & (person != who))
                if len(others):
                    found.append(float(alike[i, j] - alike[i, others].mean()))
        if found:
            out.append(found)
    return out


# ------------------------------------------------------------------------------------------------------------ videos


@dataclass(frozen=True)
class Trio:
    """Samples of one motion and one character under two drivers (places in the shard set)."""

    motion: str
    first: int
    second: int


def trios(shards: ShardSet, limit: int) -> list[Trio]:
    """At most ``limit`` of them, one a motion, evenly spread. Raises InputError when there is none."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for i in range(len(shards)):
        key, members = shards.read(i, ["meta.json"])
        meta = json.loads(members["meta.json"])
        driver, person = driver_of(key, meta), str(meta.get("person") or "")
        if driver.person and person and driver.person != person:
            found.setdefault(driver.motion, {}).setdefault(person, {})[driver.person] = i
    out = []
    for motion, characters in found.items():
        places = next((list(d.values()) for d in characters.values() if len(d) > 1), None)
        if places:
            out.append(Trio(motion, places[0], places[1]))
    if not out:
        raise InputError(
            f"{shards.folder}: no character is driven by two people in one motion; use Doubles (bodies_per_motion of 3 or more)"
        )
    if limit >= len(out):
        return out
    return [out[int(i)] for i in (np.arange(limit) + 0.5) * len(out) / limit]


def swap_videos(
    pipeline: AnimationPipeline,
    shards: ShardSet,
    *,
    motions: int,
    steps: int | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    progress: bool = True,
) -> dict[str, Any]:
    """Makes a character's video under two drivers, and under one of them with two noise seeds.

    Returns:
        driver_change, seed_change: mean absolute difference inside the truth's person, in grey levels (0 to 255), with
        intervals over motions; colour_pull: how far the person's mean colour moves towards the driver's when the driver is
        exchanged, 0 not at all, 1 all the way (least squares over motions and channels).

    Raises:
        InputError: no two drivers of one motion and character, samples of another size, or without part masks.
    """
    rows = []
    for trio in tqdm(trios(shards, motions), desc="swap drivers", unit="motion", disable=not progress):
        first, second = (_whole(shards, i, pipeline) for i in (trio.first, trio.second))
        steps = steps or pipeline.default_steps
        made = [_make(pipeline, sample, steps, s) for sample, s in ((first, seed), (second, seed), (first, seed + 1))]
        rows.append({"motion": trio.motion, **_compare(first, second, *made)})
    return _pooled(rows, bootstrap, seed)


def _compare(first: Sample, second: Sample, one: np.ndarray, other: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """One motion's numbers: videos uint8 [T,H,W,3] under the first driver, the second, and the first with another seed."""
    mask = person_mask(_parts(first, "parts"))
    moved = _colour(one, mask) - _colour(other, mask)
    apart = _colour(first.driving, _parts(first, "driving_parts") > 0)
    apart = apart - _colour(second.driving, _parts(second, "driving_parts") > 0)
    return {
        "driver_change": _difference(one, other, mask),
        "seed_change": _difference(one, again, mask),
        "pulled": float(moved @ apart),
        "apart": float(apart @ apart),
    }


def _pooled(rows: list[dict[str, Any]], bootstrap: int, seed: int) -> dict[str, Any]:
    table = np.array([[r["driver_change"], r["seed_change"], r["pulled"], r["apart"]] for r in rows])
    rng = np.random.default_rng([seed, 4])
    drawn = table[rng.integers(len(table), size=(bootstrap, len(table)))].mean(1)
    out: dict[str, Any] = {"motions": len(rows), "rows": rows}
    for i, name in enumerate(("driver_change", "seed_change")):
        out[name] = _interval(float(table[:, i].mean()), drawn[:, i])
    whole = table.mean(0)
    out["colour_pull"] = _interval(float(whole[2] / max(whole[3], 1e-12)), drawn[:, 2] / np.maximum(drawn[:, 3], 1e-12))
    return out


def _interval(value: float, draws: np.ndarray) -> dict[str, float]:
    return {"value": value, "low": float(np.percentile(draws, 2.5)), "high": float(np.percentile(draws, 97.5))}


def _difference(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64))[mask].mean())


def _colour(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean colour [3] inside a mask [T,H,W]."""
    return frames[mask].astype(np.float64).mean(0)


def _parts(sample: Sample, which: str) -> np.ndarray:
    labels = getattr(sample, which)
    if labels is None or not labels.any():
        raise InputError(
            f"sample {sample.key}: has no {which}.png with a person; swap videos on Doubles, or leave videos out"
        )
    return labels


def _whole(shards: ShardSet, i: int, pipeline: AnimationPipeline) -> Sample:
    key, members = shards.read(i)
    sample = decode(key, members, skip=("target.mp4",))
    wanted = (pipeline.animator.config.frames, *pipeline.canvas_size)
    if sample.driving.shape[:3] != wanted:
        raise InputError(
            f"sample {key}: {list(sample.driving.shape[:3])}, the model makes {list(wanted)} (frames, height, width); "
            "preprocess with the model's size"
        )
    return sample


def _make(pipeline: AnimationPipeline, sample: Sample, steps: int, seed: int) -> np.ndarray:
    """The character's video uint8 [T,H,W,3]."""
    from evaluation.leakage.features import to_tensor

    frames = len(sample.driving)
    images = to_tensor(sample.identity[None])
    identity, image = pipeline.encode_character(images), pipeline.encode_condition(images, frames)
    motion = pipeline.read_motion(to_tensor(sample.driving)[None], identity, image=image)
    latents = pipeline.sample(motion.conditions, pipeline.noise(frames, seed), steps, low_noise=motion.low_noise)
    return pipeline.decode(latents)[0].movedim(1, -1).mul(255).round().byte().cpu().numpy()
