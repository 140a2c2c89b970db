"""Measuring: one sample at a time, a row each, kept on disk; features of the set metrics go into the cache on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import baselines, predictions
from evaluation.clip import Clip
from evaluation.features.cache import FeatureCache
from evaluation.metrics import joints as joint_metrics
from evaluation.metrics.base import ClipMetric, SetMetric
from evaluation.predictions import Made
from evaluation.protocols import guard
from evaluation.protocols.config import ProtocolConfig
from evaluation.protocols.items import Item, Material
from imanim.data.files import read_json, write_json
from imanim.errors import InputError

OURS, TRUTH = "ours", "truth"
JOINT_BASELINES = ("copy", "scale_shift", "bone_length")
_PLAIN_VIDEOS = ("hold", "driver")


@dataclass
class Scorer:
    """What is measured, and where the videos of each method lie.

    folders: method to folder, ``ours`` first; hold and driver need none. fingerprint: of everything but the videos that a row
    depends on (protocol with its metrics).
    """

    protocol: ProtocolConfig
    metrics: Mapping[str, ClipMetric | SetMetric]
    folders: Mapping[str, Path]
    features: FeatureCache
    rows: Path
    fingerprint: str

    @property
    def methods(self) -> list[str]:
        """Ours, then the baselines of the protocol that there are videos of."""
        return [OURS, *(b for b in self.protocol.baselines if b in self.folders or b in _PLAIN_VIDEOS)]

    def row(self, item: Item) -> dict[str, Any]:
        """The numbers of a sample: from disk when nothing changed since, else measured and kept.

        A sample that cannot be measured gives a row with ``refused``, the reason.
        """
        row: dict[str, Any] = {"key": item.key, "split": item.split, "unit": item.unit, "labels": item.labels}
        try:
            return self._measured(item, row)
        except InputError as error:
            return row | {"refused": str(error)}

    def _measured(self, item: Item, row: dict[str, Any]) -> dict[str, Any]:
        path = self.rows / f"{item.key}.json"
        depends = {
            "fingerprint": self.fingerprint,
            "inputs": item.content,
            "filmed": item.filmed,
            "videos": {name: predictions.content_of(folder, item.key) for name, folder in self.folders.items()},
        }
        known = _known(path)
        if known.get("depends") == depends and self._has_features(known["row"]):
            return known["row"]
        try:
            row = row | self._measure(item)
        except InputError as error:
            row = row | {"refused": str(error)}
        write_json(path, {"depends": depends, "row": row})
        return row

    def clip(self, item: Item, method: str = OURS) -> Clip:
        """A sample with a method's video, to be looked at. Raises InputError when it cannot be measured."""
        return self._clip(item, item.load(), method)

    def _has_features(self, row: Mapping[str, Any]) -> bool:
        keys = [key for by_metric in row.get("features", {}).values() for key in by_metric.values()]
        return all(self.features.path_of(key).is_file() for key in keys)

    def _measure(self, item: Item) -> dict[str, Any]:
        material = item.load()
        methods: dict[str, dict[str, float | None]] = {}
        features: dict[str, dict[str, str]] = {}
        still = False
        joints = predictions.read_joints(self.folders[OURS], item.key, len(material.driving))
        if self.protocol.joints:
            methods = joint_values(material, joints)
        if item.filmed:
            for method in self.methods:
                clip = self._clip(item, material, method)
                if method == OURS:
                    still = self._guarded(clip)
                for metric in self.metrics.values():
                    if isinstance(metric, ClipMetric):
                        methods.setdefault(method, {}).update(_finite(metric.measure(clip)))
                features[method] = self._features(item.key, clip.made, method)
            if material.truth is not None:
                features[TRUTH] = self._features(item.key, material.truth, TRUTH)
        return {"methods": methods, "features": features, "still": still}

    def _guarded(self, clip: Clip) -> bool:
        """Whether the truth hardly moves. Raises InputError when a clip of a cross protocol drives itself."""
        pair = guard.pair_of(clip)
        why = guard.self_driven(pair) if guard.is_cross(self.protocol) else None
        if why:
            raise InputError(f"sample {clip.key}: {why}, but protocol {self.protocol.name} is of cross-identity pairs")
        return guard.motionless(pair)

    def _clip(self, item: Item, material: Material, method: str) -> Clip:
        return clip_of(item, material, self._made(item, material, method))

    def _made(self, item: Item, material: Material, method: str) -> Made:
        frames = len(material.driving)
        if method in self.folders:
            return predictions.read(self.folders[method], item, frames, material.size, self.protocol.resize)
        if method == "driver":
            return Made(material.driving)
        return Made(np.ascontiguousarray(baselines.hold_pixels(material.character, frames)))

    def _features(self, key: str, frames: np.ndarray, method: str) -> dict[str, str]:
        """Metric to the cache's key of a video's features; empty for methods that no set metric is asked for."""
        if method not in (OURS, TRUTH, *self.protocol.set_baselines):
            return {}
        return {
            name: self.features.ensure(metric.extractor, frames, name=f"{method} of {key}")
            for name, metric in self.metrics.items()
            if isinstance(metric, SetMetric)
        }


def _known(path: Path) -> dict[str, Any]:
    """A kept row; empty where there is none, or a killed machine left a damaged one: it is measured again."""
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except InputError:
        return {}


def clip_of(item: Item, material: Material, made: Made) -> Clip:
    """A sample beside a video made for it."""
    told = None if made.joints is None or np.isnan(made.joints[0]).any() else made.joints[0]
    return Clip(
        key=item.key,
        made=made.frames,
        driving=material.driving,
        character=material.character,
        fps=material.fps,
        truth=material.truth,
        mask=material.mask,
        joints=material.joints,
        parts=material.parts,
        actions=material.actions,
        driving_joints=material.driving_joints,
        identity_joints=material.identity_joints,
        made_joints=told,
        unit=item.unit,
        labels=item.labels,
    )


def joint_values(material: Material, told: np.ndarray | None) -> dict[str, dict[str, float | None]]:
    """Joint errors and PCK of ours and of the training-free guesses; ``tokens`` is the model's own reading of the driver.

    Args:
        told: float32 [2,T,20,2], what the model said (:mod:`evaluation.predictions`); None: it said nothing.
    """
    truth, driver = material.joints, material.driving_joints
    if truth is None or driver is None:
        return {}
    size = material.size
    measured = {"copy": (baselines.copy_joints(driver), truth)}
    if told is not None:
        measured = {OURS: (told[0], truth), "tokens": (told[1], driver), **measured}
    if material.identity_joints is not None:
        own = material.identity_joints
        measured["hold"] = (baselines.hold_joints(own, len(truth)), truth)
        measured["scale_shift"] = (baselines.scale_shift_joints(driver, own, *size), truth)
        measured["bone_length"] = (baselines.bone_length_joints(driver, own, *size), truth)
    return {name: _finite(joint_metrics.errors(guess, answer, *size)) for name, (guess, answer) in measured.items()}


def methods_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every method that has a number, ours first, in the order they came."""
    names = dict.fromkeys(name for row in rows for name in row.get("methods", {}))
    return [OURS, *(name for name in names if name != OURS)]


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON: NaN (nothing to measure) and infinity (an exact copy) become None."""
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
