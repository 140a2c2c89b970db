"""Samples out of imanim's own shards: Doubles (the truth known exactly) and preprocessed real video (self pairs)."""

from __future__ import annotations

import json
from typing import Any

from evaluation.choosing import spread
from evaluation.metrics import pixels
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item, Material
from imanim.data.files import sha256
from imanim.data.sample import Sample, decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError

_INPUTS = ("driving.mp4", "target.mp4", "identity.png", "joints.npy", "parts.png")
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
