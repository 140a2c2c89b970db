"""Says whether generated samples are those of the Doubles benchmark, version 1: identical, equal within tolerance, or different.

python -m data_pipeline.doubles.verify FOLDER [--record]

The committed record (assets/doubles_v1.safetensors) holds for every sample a digest of its bytes, a digest of what was drawn
(bodies, looks, motion, scenes, rounded), and, since pixels and the last digits of floats differ between processors, numbers that
are compared within TOLERANCES: cameras, joints, facial actions, every frame's mean colour and 8x5 thumbnails.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from imanim import cli
from imanim.data.files import read_json, sha256, write_atomic
from imanim.data.sample import Sample, decode
from imanim.data.shards import ShardSet, read_manifest
from imanim.errors import InputError

RECORD_PATH = Path(__file__).parent / "assets" / "doubles_v1.safetensors"
TOLERANCES = {"cameras": 1e-3, "joints": 5e-4, "expression": 2 / 255, "colours": 0.5, "thumbnails": 5.0}
"""Largest difference that two platforms may have: metres and focal lengths; image sides; weights; grey levels of 255, twice."""
_STEPS = {"cameras": 1.0, "joints": 1e-4, "expression": 1 / 255, "colours": 1 / 64, "thumbnails": 1.0}
_TYPES = {"cameras": "f4", "joints": "i2", "expression": "u1", "colours": "i2", "thumbnails": "u1"}
THUMBNAIL = (8, 5)
SHOWN = 10


@dataclass(frozen=True)
class Fingerprint:
    """One sample: digests of its bytes and of its plan, and its numbers by the names of TOLERANCES."""

    key: str
    bytes: str
    plan: str
    numbers: dict[str, np.ndarray]


@dataclass
class Verdict:
    """What verifying found: sample keys, those that differ and are missing with the reason."""

    identical: list[str] = field(default_factory=list)
    equal: list[str] = field(default_factory=list)
    different: dict[str, str] = field(default_factory=dict)
    recorded: int = 0

    @property
    def good(self) -> bool:
        return not self.different

    def lines(self) -> list[str]:
        """For people, the verdict first."""
        count = len(self.identical) + len(self.equal) + len(self.different)
        word = "DIFFERENT" if self.different else "EQUAL within tolerance" if self.equal else "IDENTICAL"
        out = [
            f"{word}: of {count} samples {len(self.identical)} identical byte for byte, {len(self.equal)} equal within "
            f"tolerance (another platform), {len(self.different)} different; the record has {self.recorded}"
        ]
        out += [f"  {key}: {reason}" for key, reason in list(self.different.items())[:SHOWN]]
        by = Counter(reason.split(":")[0] for reason in self.different.values())
        if len(self.different) > SHOWN:
            out.append(
                f"  ... and {len(self.different) - SHOWN} more; {', '.join(f'{n} {what}' for what, n in by.items())}"
            )
        return out


def fingerprint(key: str, members: Mapping[str, bytes]) -> Fingerprint:
    """Of a sample's members. Raises InputError when they break the sample contract."""
    whole = json.dumps([[name, sha256(data)] for name, data in sorted(members.items())]).encode()
    return of_sample(decode(key, members), sha256(whole)[:32])


def of_sample(sample: Sample, whole: str) -> Fingerprint:
    """The fingerprint of a decoded sample whose bytes have the digest ``whole``."""
    plan = json.dumps(_drawn(sample.meta), sort_keys=True).encode()
    return Fingerprint(sample.key, whole, sha256(plan)[:32], _numbers(sample))


def _drawn(value: Any, name: str = "") -> Any:
    """The metadata without what is computed from the draws by less exact arithmetic, floats rounded."""
    if isinstance(value, dict):
        left_out = ("camera", "height_m", "measures", "generator", "schema")
        return {k: _drawn(v, k) for k, v in value.items() if k not in left_out}
    if isinstance(value, (list, tuple)):
        return [_drawn(v) for v in value]
    return round(value, 4) + 0.0 if isinstance(value, float) else value


def _numbers(sample: Sample) -> dict[str, np.ndarray]:
    """float64 by the names of TOLERANCES. Three moments stand for joints, facial actions and thumbnails."""
    videos = [sample.truth, sample.driving]
    at = [0, len(sample.driving) // 2, len(sample.driving) - 1]
    cameras = [sample.meta[role]["camera"] for role in ("target", "driver")]
    faces = np.zeros((3, 0)) if sample.expression is None else sample.expression[at]
    pictures = [video[t] for video in videos for t in at] + [sample.identity]
    return {
        "cameras": np.array([[*c["eye"], *c["target"], c["focal"]] for c in cameras]),
        "joints": np.clip(np.stack([sample.joints[at, :, :2], sample.joints_of_driver[at, :, :2]]), -3, 3).astype(
            float
        ),
        "expression": faces.astype(float),
        "colours": np.stack([video.mean((1, 2)) for video in videos]),
        "thumbnails": np.stack([_thumbnail(p) for p in pictures]),
    }


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    """Mean colours of 8 by 5 fields [8,5,3]."""
    rows, columns = (np.linspace(0, n, k + 1).astype(int) for n, k in zip(picture.shape[:2], THUMBNAIL, strict=True))
    sums = np.add.reduceat(np.add.reduceat(picture.astype(float), rows[:-1], 0), columns[:-1], 1)
    return sums / (np.diff(rows)[:, None, None] * np.diff(columns)[None, :, None])


def compare(found: Fingerprint, recorded: Fingerprint) -> str | None:
    """None when identical, "" when equal within tolerance, else what differs first and by how much."""
    if found.bytes == recorded.bytes:
        return None
    if found.plan != recorded.plan:
        return "plan: other bodies, looks, motion or scenes were drawn"
    for name, tolerance in TOLERANCES.items():
        one, two = found.numbers[name], recorded.numbers[name]
        if one.shape != two.shape:
            return f"{name}: {list(one.shape)} values, recorded {list(two.shape)}"
        off = np.abs(one - two).max(initial=0.0)
        if off > tolerance + _STEPS[name] / 2:  # the record is rounded to its step
            return f"{name}: off by up to {off:.4g}, {tolerance:.4g} is allowed"
    return ""


def fingerprints(folder: Path) -> dict[str, Fingerprint]:
    """Of every sample of a generated set."""
    out = {}
    for split in read_manifest(folder)["splits"]:
        shards = ShardSet(folder, split)
        for i in tqdm(range(len(shards)), split, leave=False, disable=None):
            key, members = shards.read(i)
            out[key] = fingerprint(key, members)
    return out


def verify(folder: Path, record: Path = RECORD_PATH) -> Verdict:
    """Compares a generated set, or a part of it that ``only`` chose, with a record.

    Raises:
        InputError: the folder holds no generated samples, or the record is missing or damaged.
    """
    recorded, found = read_record(record), fingerprints(folder)
    verdict = Verdict(recorded=len(recorded))
    for key, one in found.items():
        difference = compare(one, recorded[key]) if key in recorded else "unknown: not in the record"
        if difference is None:
            verdict.identical.append(key)
        elif not difference:
            verdict.equal.append(key)
        else:
            verdict.different[key] = difference
    wanted = {key for key in recorded if _chosen(read_json(folder / "config.json")["splits"], key)}
    verdict.different |= dict.fromkeys(sorted(wanted - set(found)), "missing: not in the folder")
    return verdict


def _chosen(splits: Mapping[str, Mapping[str, Any]], key: str) -> bool:
    """Whether a sample belongs into a folder of these splits, by the motion seed in its key (splits.Group.key)."""
    split, motion = key.split("-")[:2]
    settings = splits.get(split)
    if settings is None:
        return False
    return not settings.get("only") or int(motion[1:]) - settings["motions"][0] in settings["only"]


def write_record(path: Path, found: Mapping[str, Fingerprint], about: Mapping[str, Any]) -> None:
    """Writes fingerprints, numbers rounded to their steps."""
    from safetensors.numpy import save

    prints = [found[key] for key in sorted(found)]
    arrays = {
        name: np.stack([np.round(p.numbers[name] / _STEPS[name]) if _TYPES[name] != "f4" else p.numbers[name] for p in prints])
        .astype(_TYPES[name])
        for name in TOLERANCES
    }  # fmt: skip
    samples = [[p.key, p.bytes, p.plan] for p in prints]
    write_atomic(path, save(arrays, {"samples": json.dumps(samples), "about": json.dumps(about, sort_keys=True)}))


def read_record(path: Path) -> dict[str, Fingerprint]:
    """Raises InputError when the record is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            samples = json.loads((file.metadata() or {})["samples"])
            arrays = {name: file.get_tensor(name).astype(float) * _STEPS[name] for name in TOLERANCES}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: no record of Doubles samples ({error}); check the package out again") from None
    return {
        key: Fingerprint(key, whole, plan, {name: a[i] for name, a in arrays.items()})
        for i, (key, whole, plan) in enumerate(samples)
    }


def main(argv: list[str]) -> int:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument(
        "folder", type=Path, help="a folder that configs/data/doubles_v1.yaml (or doubles_v1_quick.yaml) made"
    )
    p.add_argument("--record", action="store_true", help="write the committed record from this folder instead")
    args = cli.parse(p, argv)
    if args.record:
        manifest = read_manifest(args.folder)
        about: dict[str, Any] = {name: manifest[name] for name in ("config", "tools")}
        write_record(RECORD_PATH, fingerprints(args.folder), about)
        print(f"{RECORD_PATH}: {RECORD_PATH.stat().st_size / 1e3:.0f} kB, {len(read_record(RECORD_PATH))} samples")
        return 0
    verdict = verify(args.folder)
    print("\n".join(verdict.lines()))
    return 0 if verdict.good else 1


if __name__ == "__main__":
    cli.run(main)
