"""Samples out of imanim's own shards: Doubles (the truth known exactly) and preprocessed real video (self pairs)."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from typing import Any

from evaluation.choosing import spread
from evaluation.instruments.truth import facial_actions
from evaluation.metrics import pixels
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item, Material
from imanim.data.files import sha256
from imanim.data.sample import Sample, decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError

_INPUTS = ("driving.mp4", "target.mp4", "identity.png", "joints.npy", "parts.png", "expression.npy")
_FIXED = {"size": "size", "frames": "number of frames", "fps": "rate"}


def items(protocol: ProtocolConfig, data: str) -> list[Item]:
    """The samples of every split, in the set's order.

    Raises:
        InputError: no such folder or split, no clip of the levels, or another size than the protocol fixes.
    """
    found = []
    for split in protocol.source.splits:
        found += _of_split(protocol, ShardSet(data, split))
    return found


def _of_split(protocol: ProtocolConfig, shards: ShardSet) -> list[Item]:
    source = protocol.source
    every = list(range(len(shards)))
    if source.levels:
        every = [i for i in every if _meta(shards, i).get("level") in source.levels]
        if not every:
            raise InputError(f"{shards.folder}: split {shards.split} has no clips of level {', '.join(source.levels)}")
    chosen = [every[i] for i in spread(len(every), source.joint_clips)]
    filmed = {chosen[i] for i in spread(len(chosen), source.video_clips)}
    return [_item(protocol, shards, i, i in filmed) for i in chosen]


def _item(protocol: ProtocolConfig, shards: ShardSet, i: int, filmed: bool) -> Item:
    key, members = shards.read(i, [*_INPUTS, "meta.json"])
    meta = json.loads(members["meta.json"])
    own = protocol.source.pairing == "self"
    motion = meta.get("motion")
    kind, name = (motion.get("kind"), motion.get("id")) if isinstance(motion, dict) else (None, motion)
    driver = meta.get("person") if own or "target.mp4" not in members else meta.get("driver_person")
    labels = {
        "level": meta.get("level", "all"),
        "framing": meta.get("framing"),
        "kind": kind,
        "motion": name or key,
        "person": meta.get("person"),
        "driver_person": driver,
        "cell": shards.split,
        **_gaps(meta, own),
    }
    return Item(
        key=key,
        load=lambda: _load(protocol, shards, i),
        content={name: sha256(members[name]) for name in _INPUTS if name in members},
        number=i,
        unit=str(name or key),
        split=shards.split,
        labels=labels,
        filmed=filmed,
    )


def _gaps(meta: Mapping[str, Any], own: bool) -> dict[str, Any]:
    """How a sample's driver and target differ, as Doubles knows it; empty for other data.

    scale_gap: log of the target's height over the driver's. proportion_gap: spread (standard deviation) of the same log over
    all body measures, 0 for bodies that differ in size alone; where the metadata has measures. view_gap_deg: between the
    cameras' directions round the person. exaggerated: the target has proportions that no phenotype gives.
    """
    target, driver = meta.get("target"), meta.get("target" if own else "driver")
    if meta.get("source") != "doubles" or not isinstance(target, dict) or not isinstance(driver, dict):
        return {}
    gaps = {
        "scale_gap": round(math.log(target["height_m"] / driver["height_m"]), 4),
        "view_gap_deg": round(_angle_between(target["camera"], driver["camera"]), 2),
        "exaggerated": "exaggeration" in target,
    }
    if "measures" in target and "measures" in driver:
        ratios = [math.log(target["measures"][n] / driver["measures"][n]) for n in sorted(target["measures"])]
        gaps["proportion_gap"] = round(statistics.pstdev(ratios), 4)
    return gaps


def _angle_between(one: Mapping[str, Any], two: Mapping[str, Any]) -> float:
    """Degrees between the horizontal directions of two cameras, 0 to 180."""
    a, b = (math.atan2(c["eye"][0] - c["target"][0], c["target"][1] - c["eye"][1]) for c in (one, two))
    return abs(math.degrees(math.remainder(a - b, 2 * math.pi)))


def _load(protocol: ProtocolConfig, shards: ShardSet, i: int) -> Material:
    sample = decode(*shards.read(i), skip=("driving_parts.png",))
    _check(protocol, sample)
    own = protocol.source.pairing == "self"
    return Material(
        driving=sample.truth if own else sample.driving,
        character=sample.identity,
        fps=sample.fps,
        truth=sample.truth,
        mask=None if sample.parts is None else pixels.person_mask(sample.parts),
        joints=sample.joints,
        parts=sample.parts,
        actions=facial_actions(sample),
        driving_joints=sample.joints if own else sample.joints_of_driver,
        identity_joints=sample.identity_joints,
    )


def _check(protocol: ProtocolConfig, sample: Sample) -> None:
    """Shards are at their size and rate already: another one would be another protocol."""
    has: dict[str, Any] = {
        "size": list(sample.driving.shape[1:3]),
        "frames": len(sample.driving),
        "fps": sample.fps,
    }
    for name, found in has.items():
        wanted = getattr(protocol, name)
        if wanted is not None and wanted != found:
            raise InputError(
                f"sample {sample.key}: its {_FIXED[name]} is {found}, the protocol wants {wanted}; preprocess with that"
            )


def _meta(shards: ShardSet, i: int) -> dict[str, Any]:
    return json.loads(shards.read(i, ["meta.json"])[1]["meta.json"])
