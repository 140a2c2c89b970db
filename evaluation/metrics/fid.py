"""FID and KID over pictures: every frame of a clip is one picture. One metric a published code, named after its resizing.

Heusel et al. 2017 (FID), Binkowski et al. 2018 (KID). The network is one; what differs between the codes, and moves the result,
is how pictures come to 299x299: :mod:`evaluation.features.resize`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.clip import Clip
from evaluation.features.recent import Recent
from evaluation.metrics import frechet, kid
from evaluation.metrics.base import FeatureSource, Machine, MetricSpec, Spread, Value
from imanim import weights
from imanim.config import opt

if TYPE_CHECKING:
    from evaluation.features.inception import PictureFeatures

WEIGHTS = "inception-2015"
DIMS = (64, 192, 768, 2048)
CODES = ("clean", "tf1", "pytorch", "torchmetrics")
"""Keys of :data:`evaluation.features.resize.RESIZERS`, which names the code that each agrees with."""
DDOF = 1
"""Of the covariances: n - 1 in all four codes."""


@dataclass
class FidSettings:
    """Which features, of which frames."""

    dim: int = opt(2048, "width of the features: 64, 192, 768 or 2048; only 2048 is what papers call FID")
    frames_per_clip: int | None = opt(None, "evenly spread frames of a clip that count; null: all")

    def problems(self) -> list[str]:
        found = [] if self.dim in DIMS else [f"dim: {self.dim}; use one of {', '.join(map(str, DIMS))}"]
        if self.frames_per_clip is not None and self.frames_per_clip < 1:
            found.append(f"frames_per_clip: {self.frames_per_clip}; use 1 or more, or null for all")
        return found


@dataclass
class KidSettings(FidSettings):
    """The subsets, too. ``subset_size`` pictures are needed on both sides."""

    subsets: int = opt(100, "subsets that are drawn")
    subset_size: int = opt(1000, "pictures in each; not more than either side has")

    def problems(self) -> list[str]:
        found = super().problems()
        if self.subsets < 1:
            found.append(f"subsets: {self.subsets}; use 1 or more")
        if self.subset_size < 2:
            found.append(f"subset_size: {self.subset_size}; use 2 or more")
        return found


class Fid:
    """Frechet distance between the Gaussians of two sets of features; lower is better."""

    def __init__(self, code: str, extractor: PictureFeatures):
        self.code, self.extractor = code, extractor
        self.values = (Value(f"fid_{code}", f"FID ({code})", "lower", 2),)

    def protocol(self) -> dict[str, Any]:
        """Network with sha256, resizing, width, frames and ddof."""
        return {**_protocol(self.code, self.extractor), "ddof": DDOF}

    def distance(self, made: FeatureSource, truth: FeatureSource, *, bootstrap: int, seed: int) -> dict[str, Spread]:
        """A Spread by value name. Raises InputError as :func:`evaluation.metrics.frechet.distance` does."""
        found = frechet.distance(made, truth, ddof=DDOF, bootstrap=bootstrap, seed=seed)
        return {self.values[0].name: found}


class FidWithin:
    """FID of each clip's frames from its own true frames, for a mean over clips: what One-to-All's script calls FID.

    Far fewer pictures than dimensions, so far above the FID of the whole set, and another number for clips of another length.
    """

    def __init__(self, code: str, extractor: PictureFeatures):
        self.code, self.extractor = code, extractor
        self.values = (Value(f"fid_{code}_within", f"FID ({code}) within a clip", "lower", 2),)
        self._features = Recent(extractor)

    def protocol(self) -> dict[str, Any]:
        """As of :class:`Fid`."""
        return {**_protocol(self.code, self.extractor), "ddof": DDOF, "sets": "the frames of one clip"}

    def measure(self, clip: Clip) -> dict[str, float]:
        """NaN without a truth. Raises InputError for fewer than two frames."""
        if clip.truth is None:
            return {self.values[0].name: float("nan")}
        made, truth = (_OneClip(self._features(frames), [clip.unit]) for frames in (clip.made, clip.truth))
        return {self.values[0].name: frechet.distance(made, truth, ddof=DDOF).value}


@dataclass
class _OneClip:
    """A feature source of one clip, float32 [n,dim]."""

    rows: np.ndarray
    units: list[str]

    def __len__(self) -> int:
        return 1

    def read(self, i: int) -> np.ndarray:
        return self.rows


class Kid:
    """Squared maximum mean discrepancy under a cubic kernel, the mean over subsets and its standard deviation."""

    def __init__(self, code: str, settings: KidSettings, extractor: PictureFeatures):
        self.code, self.settings, self.extractor = code, settings, extractor
        self.values = (
            Value(f"kid_{code}", f"KID ({code})", "lower", 5),
            Value(f"kid_{code}_std", f"KID ({code}), std over subsets", "none", 5),
        )

    def protocol(self) -> dict[str, Any]:
        """Network with sha256, resizing, width, frames and subsets."""
        subsets = {"subsets": self.settings.subsets, "subset_size": self.settings.subset_size}
        return {**_protocol(self.code, self.extractor), "kernel": "(x.y/dim + 1)^3, unbiased", **subsets}

    def distance(self, made: FeatureSource, truth: FeatureSource, *, bootstrap: int, seed: int) -> dict[str, Spread]:
        """A Spread by value name. Raises InputError when either side has fewer pictures than ``subset_size``."""
        chosen = self.settings
        found = kid.distance(
            made, truth, subsets=chosen.subsets, subset_size=chosen.subset_size, bootstrap=bootstrap, seed=seed
        )
        return {self.values[0].name: found["mean"], self.values[1].name: found["std"]}


def _protocol(code: str, extractor: PictureFeatures) -> dict[str, Any]:
    from evaluation.features import resize

    return {
        "network": WEIGHTS,
        "weights_sha256": weights.fingerprint(WEIGHTS),
        "resize": code,
        "resize_does": resize.lookup(code).does,
        "agrees_with": resize.lookup(code).like,
        "dim": extractor.dim,
        "precision": "float32",
        "frames_per_clip": extractor.frames_per_clip,
    }


def _extractor(code: str, settings: FidSettings, machine: Machine) -> PictureFeatures:
    from evaluation.features.inception import PictureFeatures

    return PictureFeatures(code, settings.dim, settings.frames_per_clip, machine)


def _fid(code: str, settings: FidSettings, machine: Machine) -> Fid:
    return Fid(code, _extractor(code, settings, machine))


def _within(code: str, settings: FidSettings, machine: Machine) -> FidWithin:
    return FidWithin(code, _extractor(code, settings, machine))


def _kid(code: str, settings: KidSettings, machine: Machine) -> Kid:
    return Kid(code, settings, _extractor(code, settings, machine))


def _specs(kind: str, settings: type, build: Callable[..., Any]) -> dict[str, MetricSpec]:
    return {f"{kind}-{code}": MetricSpec(settings, partial(build, code), lambda chosen: (WEIGHTS,)) for code in CODES}


METRICS = {
    **_specs("fid", FidSettings, _fid),
    **_specs("kid", KidSettings, _kid),
    **{f"{name}-within": spec for name, spec in _specs("fid", FidSettings, _within).items()},
}
