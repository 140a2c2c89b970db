"""Who is the same person across videos, and which split everybody goes to, so that no person and no video stands in two.

Pure functions of numbers: tracks are the items (one person in one stretch of one video), M of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imanim.errors import InputError

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)
TILE = 2048  # tracks a side of the block whose distances are held at once: 32 MB


def link(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """The person of each track: tracks are one person when a chain of pairs nearer than the threshold joins them.

    Single linkage errs towards joining, which costs some variety; an error the other way would leak a person into two splits.
    Memory does not grow with the number of pairs.

    Args:
        vectors: [M,D]; a row with NaN (no face was seen) is a person of its own.
        threshold: Euclidean distance.

    Returns:
        int [M], numbered from 0 in the order of first appearance.
    """
    ends: list[np.ndarray] = []
    known = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    for start in range(0, len(known), TILE):
        rows = known[start : start + TILE]
        for other in range(start, len(known), TILE):
            columns = known[other : other + TILE]
            i, j = np.nonzero(_nearer(vectors[rows], vectors[columns], threshold))
            # What a block of any density says about who belongs together fits into one edge a node.
            nodes = np.concatenate([rows, columns])
            label = _components(len(nodes), i, j + len(rows))
            _, first = np.unique(label, return_index=True)
            ends.append(np.stack([nodes, nodes[first[label]]]))
    joined = np.concatenate(ends, axis=1) if ends else np.empty((2, 0), int)
    return _in_order(_components(len(vectors), joined[0], joined[1]))


def groups(persons: Sequence[int] | np.ndarray, videos: Sequence[str]) -> np.ndarray:
    """What must stay in one split: tracks joined by chains of "the same person" and "the same video".

    Returns:
        int [M], numbered from 0 in the order of first appearance.
    """
    _, person = np.unique(np.asarray(persons), return_inverse=True)
    _, video = np.unique(np.asarray(videos, dtype=object).astype(str), return_inverse=True)
    tracks = len(person)
    # Tracks, then persons, then videos are the nodes.
    people = int(person.max(initial=-1)) + 1
    own = np.arange(tracks)
    nodes = tracks + people + int(video.max(initial=-1)) + 1
    label = _components(nodes, np.tile(own, 2), np.concatenate([tracks + person, tracks + people + video]))
    return _in_order(label[:tracks])


def assign(
    group: Sequence[int] | np.ndarray,
    ids: Sequence[str],
    videos: Sequence[str],
    fractions: Mapping[str, float],
    pinned: Mapping[str, str] | None = None,
) -> list[str]:
    """The split of each track, the same for a whole group.

    A hash of the group's smallest id decides, so groups keep their split when others come and go. Then, in small sets:
    a group with more than half of all tracks trains, and a wanted split without a group gets the free one whose hash is
    nearest to its range, as long as its old split keeps another and training keeps one.

    Args:
        group: [M], what :func:`groups` gives. ids: [M], unique. videos: [M], for messages.
        fractions: of the groups, by split (`val`, `test`); the rest is `train`.
        pinned: id -> split; decides for the id's whole group.

    Raises:
        InputError: an unknown split or pinned id, ids that are not unique, fractions above 1, or contradictory pins.
    """
    _check(ids, fractions, pinned or {})
    members: dict[int, list[int]] = {}
    for track, number in enumerate(np.asarray(group).tolist()):
        members.setdefault(number, []).append(track)
    ranges = _ranges(fractions)
    fixed = {g: _pin(tracks, ids, videos, pinned or {}) for g, tracks in members.items()}
    place = {g: _unit_hash(min(ids[t] for t in tracks)) for g, tracks in members.items()}
    largest = {g for g, tracks in members.items() if 2 * len(tracks) > len(ids)}
    trains = largest if TRAIN in ranges else set()
    chosen = {g: fixed[g] or (TRAIN if g in trains else _split_at(place[g], ranges)) for g in members}
    _fill_empty(chosen, [g for g in members if not fixed[g] and g not in trains], place, ranges)
    return [chosen[g] for g in np.asarray(group).tolist()]


def leakage(
    vectors: np.ndarray,
    persons: Sequence[Any] | np.ndarray,
    splits: Sequence[str],
    videos: Sequence[str],
    threshold: float,
    keep: int = 20,
) -> dict[str, Any]:
    """How near the splits come to each other: the proof that nobody stands in two.

    Returns:
        for JSON: ``ok`` (nobody nearer than the threshold, no person or video in two splits), ``threshold``, ``distances``
        (``train/val`` -> the smallest distance, None without vectors), ``nearest`` (the ``keep`` nearest pairs of tracks of
        different splits: ``a`` and ``b`` with video, person and split, and ``distance``), ``persons_in_two``,
        ``videos_in_two`` and ``without_vector`` (tracks that could not be compared).
    """
    names = [*(s for s in SPLITS if s in splits), *sorted({*splits} - {*SPLITS})]
    known = np.isfinite(vectors).all(axis=1)
    of_split = {name: np.flatnonzero(known & np.array([s == name for s in splits], bool)) for name in names}
    people = np.asarray(persons).tolist()
    distances: dict[str, float | None] = {}
    nearest: list[tuple[float, int, int]] = []
    for one, two in combinations(names, 2):
        found = _nearest_pairs(vectors, of_split[one], of_split[two], max(keep, 1))
        distances[f"{one}/{two}"] = found[0][0] if found else None
        nearest = sorted(nearest + found)[:keep]
    in_two = [_in_two(people, splits), _in_two(list(videos), splits)]
    too_near = any(d is not None and d < threshold for d in distances.values())

    def track(i: int) -> dict[str, Any]:
        return {"video": videos[i], "person": people[i], "split": splits[i]}

    return {
        "ok": not too_near and not any(in_two),
        "threshold": float(threshold),
        "distances": distances,
        "nearest": [{"a": track(i), "b": track(j), "distance": d} for d, i, j in nearest],
        "persons_in_two": in_two[0],
        "videos_in_two": in_two[1],
        "without_vector": int((~known).sum()),
    }


# -------------------------------------------------------------------------------------------------------- distances


def _squared(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Squared distances [m,n] of rows by one matrix product, and the error that its cancellation can leave."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)
    return np.maximum(lengths - 2.0 * (a @ b.T), 0.0), 1e-12 * float(lengths.max(initial=0.0))


def _exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of rows with their counterparts, [n]."""
    apart = a.astype(np.float64) - b.astype(np.float64)
    return np.sqrt((apart * apart).sum(axis=1))


def _nearer(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """bool [m,n]: rows nearer than the threshold. Close calls are computed again, so every caller decides alike."""
    squared, error = _squared(a, b)
    near = squared < threshold**2
    i, j = np.nonzero(np.abs(squared - threshold**2) <= error)
    near[i, j] = _exact(a[i], b[j]) < threshold
    return near


def _nearest_pairs(vectors: np.ndarray, one: np.ndarray, two: np.ndarray, count: int) -> list[tuple[float, int, int]]:
    """The ``count`` nearest pairs between two sets of tracks: (distance, track, track), the nearest first."""
    best: list[tuple[float, int, int]] = []
    for start in range(0, len(one), TILE):
        rows = one[start : start + TILE]
        for other in range(0, len(two), TILE):
            columns = two[other : other + TILE]
            flat = _squared(vectors[rows], vectors[columns])[0].reshape(-1)
            some = np.argpartition(flat, count - 1)[:count] if count < len(flat) else np.arange(len(flat))
            i, j = rows[some // len(columns)], columns[some % len(columns)]
            pairs = zip(_exact(vectors[i], vectors[j]).tolist(), i.tolist(), j.tolist())
            best = sorted([*best, *pairs])[:count]
    return best


# ----------------------------------------------------------------------------------------------------------- graphs


def _components(nodes: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """int [nodes]: the connected component of each node of an undirected graph with edges i-j."""
    graph = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1]


def _in_order(label: np.ndarray) -> np.ndarray:
    """The same partition, numbered from 0 in the order of first appearance."""
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


# ----------------------------------------------------------------------------------------------------------- splits


def _in_two(things: Sequence[Any], splits: Sequence[str]) -> list[Any]:
    seen: dict[Any, str] = {}
    return sorted({thing for thing, split in zip(things, splits) if seen.setdefault(thing, split) != split})


def _unit_hash(text: str) -> float:
    """A number in [0,1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _ranges(fractions: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The range of hashes of each split that is wanted: val, test, and what they leave to train."""
    val, test = fractions.get(VAL, 0.0), fractions.get(TEST, 0.0)
    edges = {TRAIN: (val + test, 1.0), VAL: (0.0, val), TEST: (val, val + test)}
    return {split: (low, high) for split, (low, high) in edges.items() if low < high}


def _split_at(place: float, ranges: dict[str, tuple[float, float]]) -> str:
    return next(split for split, (low, high) in ranges.items() if low <= place < high)


def _pin(tracks: list[int], ids: Sequence[str], videos: Sequence[str], pinned: Mapping[str, str]) -> str | None:
    """The split that pins ask for a group, if they do."""
    asked = [t for t in tracks if ids[t] in pinned]
    for t in asked[1:]:
        one, two = pinned[ids[asked[0]]], pinned[ids[t]]
        if one != two:
            raise InputError(
                f"splits: {videos[asked[0]]} ({ids[asked[0]]}) is pinned to {one} and {videos[t]} ({ids[t]}) to {two}, but they"
                " show the same person or are joined by people they share; pin them to one split, or lower the threshold"
            )
    return pinned[ids[asked[0]]] if asked else None


def _fill_empty(
    chosen: dict[int, str], free: list[int], place: dict[int, float], ranges: dict[str, tuple[float, float]]
) -> None:
    """Moves one free group into each wanted split that has none, training first."""
    for split, (low, high) in ranges.items():
        taken = list(chosen.values())
        if split in taken:
            continue
        givers = [g for g in free if split == TRAIN or taken.count(chosen[g]) > 1]
        if givers:
            nearest = min(givers, key=lambda g: (max(low - place[g], place[g] - high, 0.0), place[g]))
            chosen[nearest] = split


def _check(ids: Sequence[str], fractions: Mapping[str, float], pinned: Mapping[str, str]) -> None:
    if len(set(ids)) != len(ids):
        raise InputError("splits: two tracks have one id; ids must differ")
    for split in sorted({*fractions, *pinned.values()} - {*SPLITS}):
        raise InputError(f"splits: `{split}` is no split; use {', '.join(SPLITS)}")
    if TRAIN in fractions:
        raise InputError("splits: `train` is no fraction of its own, it is what val and test leave; drop it")
    if any(not f >= 0 for f in fractions.values()) or not sum(fractions.values()) <= 1:
        raise InputError(f"splits: fractions {dict(fractions)}; give numbers from 0 on with a sum of at most 1")
    strays = sorted({*pinned} - {*ids})
    if strays:
        raise InputError(
            f"splits: `{strays[0]}` is pinned to {pinned[strays[0]]}, and there is no such track; drop the pin"
        )
