"""FVD (Unterthiner et al. 2018) by recipe, and FID-VID: Frechet distances of features of video.

One metric a published code, because the codes differ in everything but the idea: in resizing, in the covariance's ddof (some 4 % at
24 clips), in batch normalisation's epsilon (a quarter of a percent), in how time is averaged. The network reads one window of
frames at a time, so no result depends on a batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.metrics import frechet
from evaluation.metrics.base import Extractor, FeatureSource, Machine, MetricSpec, Spread, Value
from imanim import weights
from imanim.config import opt
from imanim.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

I3D = "i3d-kinetics-400"
I3D_FEATURES = "400 logits, averaged over time"


@dataclass(frozen=True)
class Recipe:
    """How one code comes from frames to its number.

    ``resize`` is a key of :data:`evaluation.features.video_resize.RESIZERS`; pixels then run from -1 to 1. ``eps`` and
    ``pool_frames`` are :class:`evaluation.features.i3d.I3D`'s. Below ``min_frames`` the code fails, or leaves the clip out.
    """

    label: str
    like: str
    resize: str
    eps: float
    ddof: int
    pool_frames: int = 2
    min_frames: int = 10


RECIPES = {
    "fvd-tf": Recipe("FVD", "google-research frechet_video_distance (TensorFlow)", "tf1", 1e-3, 1),
    "fvd-commonmetrics": Recipe(
        "FVD (common metrics)", "common_metrics_on_video_quality, method styleganv", "short-side", 1e-3, 1
    ),
    # That code goes through uint8, which changes nothing here: frames are uint8. VideoGPT's own feeds -0.5 to 0.5.
    "fvd-videogpt": Recipe("FVD (VideoGPT)", "common_metrics_on_video_quality, method videogpt", "short-side", 1e-5, 1),
    "fvd-cdfvd": Recipe("FVD (cd-fvd)", "cd-fvd 0.1.1, model i3d", "bilinear", 1e-5, 0),
    "fvd-disco": Recipe(
        "FVD (DisCo)", "DisCo, mode FVD-3DInception", "pil-bicubic", 1e-3, 1, pool_frames=1, min_frames=2
    ),
}
"""By the name of the metric. All but cd-fvd's agree with numpy's default covariance."""
MIN_FRAMES_ANY = 2
"""One frame is no video."""


@dataclass
class WindowSettings:
    """Which frames make a row of features. What is left over after the last whole window is not measured."""

    frames: int | None = opt(None, "frames of a window; null: a whole clip is one")
    step_frames: int | None = opt(
        None, "from one window's start to the next; null: as long as a window; 1: every window (DisCo's gen_eval.sh)"
    )

    def problems(self) -> list[str]:
        found = []
        if self.frames is not None and self.frames < MIN_FRAMES_ANY:
            found.append(f"frames: {self.frames}; use {MIN_FRAMES_ANY} or more, or null for whole clips")
        if self.step_frames is not None and self.frames is None:
            found.append(f"step_frames: {self.step_frames} without `frames`; set both, or leave both null")
        if self.step_frames is not None and self.step_frames < 1:
            found.append(f"step_frames: {self.step_frames}; use 1 or more, or null")
        return found


@dataclass
class StyleganvSettings(WindowSettings):
    """StyleGAN-V's own network, a file that the user brings."""

    frames: int | None = opt(16, "frames of a window; null: a whole clip is one; StyleGAN-V's table has 16 and 128")
    torchscript: Path | None = opt(
        None, "StyleGAN-V's i3d_torchscript.pt; a TorchScript file is code that is run: use none that you do not trust"
    )
    sha256: str = opt("", "of that file: no other is run; the message that asks for it says what the file has")


@dataclass
class FidVidSettings(WindowSettings):
    """Another network, a file that the user brings."""

    weights: Path | None = opt(
        None, "resnet-50-kinetics.pth of 3D-ResNets-PyTorch, or its state dict as .safetensors; never unpickled"
    )


class WindowFeatures:
    """An extractor: each window of a clip's frames gives a row. As :class:`evaluation.metrics.base.Extractor`.

    Args:
        key: names network, weights and preprocessing; the windows are added.
        dim: width of a row.
        network: uint8 [T,H,W,3] -> float32 [1,dim].
    """

    def __init__(
        self, key: str, dim: int, network: Callable[[np.ndarray], Tensor], settings: WindowSettings, min_frames: int
    ):
        if settings.frames is not None and settings.frames < min_frames:
            raise InputError(
                f"frames: {settings.frames}; this network needs {min_frames} or more, or null for whole clips"
            )
        self.dim, self.network, self.min_frames = dim, network, min_frames
        self.frames, self.step_frames = settings.frames, settings.step_frames or settings.frames
        self.key = f"{key} frames={self.frames} step_frames={self.step_frames}"

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T,H,W,3] -> float32 [n,dim], a row a window in their order.

        Raises:
            InputError: not uint8 colour, fewer frames than a window (or than the network needs), or features not finite.
        """
        from evaluation.features.i3d import exact
        from evaluation.features.video_resize import check

        check(frames)
        with exact():
            rows = [self.network(frames[window]).cpu().numpy() for window in self.windows(len(frames))]
        features = np.concatenate(rows).astype(np.float32, copy=False)
        if features.shape[1:] != (self.dim,) or not np.isfinite(features).all():
            raise InputError(
                f"features: {list(features.shape)}, not all finite or not {self.dim} wide; check the weights"
            )
        return features

    def windows(self, count: int) -> list[slice]:
        """The windows of a clip of that many frames. Raises InputError when there is none."""
        least = self.frames or self.min_frames
        if count < least:
            raise InputError(f"frames: a clip has {count}, this metric needs {least} or more; give longer clips")
        if self.frames is None or self.step_frames is None:
            return [slice(0, count)]
        return [slice(start, start + self.frames) for start in range(0, count - self.frames + 1, self.step_frames)]


class FrechetVideo:
    """A set metric: the Frechet distance between the rows of made and of true clips."""

    def __init__(self, name: str, label: str, extractor: WindowFeatures, ddof: int, about: dict[str, Any]):
        self.values: tuple[Value, ...] = (Value(name.replace("-", "_"), label, "lower", digits=1),)
        self.extractor: Extractor = extractor
        self.ddof = ddof
        self.about = about | {
            "ddof": ddof,
            "frames": extractor.frames,
            "step_frames": extractor.step_frames,
            "leftover_frames": "not measured",
            "min_frames": extractor.min_frames,
        }

    def protocol(self) -> dict[str, Any]:
        """The code that it agrees with, network, weights, resizing, range, epsilon, windows, ddof."""
        return dict(self.about)

    def distance(
        self, made: FeatureSource, truth: FeatureSource, *, bootstrap: int = 0, seed: int = 0
    ) -> dict[str, Spread]:
        """As :func:`evaluation.metrics.frechet.distance`, in float64 whatever the code that it is like does."""
        return {self.values[0].name: frechet.distance(made, truth, ddof=self.ddof, bootstrap=bootstrap, seed=seed)}


def build_fvd(name: str, settings: WindowSettings, machine: Machine) -> FrechetVideo:
    """A metric of :data:`RECIPES`. Raises InputError when a window is too short for it, or the weights are not here."""
    from evaluation.features import i3d
    from evaluation.features.video_resize import RESIZERS

    recipe, sha256 = RECIPES[name], weights.fingerprint(I3D)
    network = i3d.I3D(weights.tensors(I3D), eps=recipe.eps, pool_frames=recipe.pool_frames).eval().to(machine.device)
    resize = RESIZERS[recipe.resize]

    def rows(frames: np.ndarray) -> Tensor:
        pixels = resize.resize(frames, i3d.SIDE_PX).to(machine.device) / 127.5 - 1
        return network(pixels.transpose(0, 1)[None])

    key = f"{I3D} {sha256} resize={recipe.resize} eps={recipe.eps} pool_frames={recipe.pool_frames}"
    about = {
        "like": recipe.like,
        "network": I3D,
        "weights_sha256": sha256,
        "resize": f"{resize.does}; {i3d.SIDE_PX}x{i3d.SIDE_PX}",
        "range": "2x/255-1",
        "batch_norm_epsilon": recipe.eps,
        "pool_frames": recipe.pool_frames,
        "features": I3D_FEATURES,
    }
    extractor = WindowFeatures(key, i3d.CLASSES, rows, settings, recipe.min_frames)
    return FrechetVideo(name, recipe.label, extractor, recipe.ddof, about)


def build_styleganv(settings: StyleganvSettings, machine: Machine) -> FrechetVideo:
    """FVD by StyleGAN-V's network (Skorokhodov et al. 2022), which resizes and scales inside. Raises InputError without it."""
    import torch

    path = _given(settings.torchscript, "fvd-styleganv.torchscript", "StyleGAN-V's i3d_torchscript.pt")
    sha256 = weights.sha256_of(path)
    if settings.sha256.lower() != sha256:
        raise InputError(
            f"fvd-styleganv.sha256: {settings.sha256 or 'not set'}; {path} has {sha256}: set that if you trust the file,"
            " it is code that will be run"
        )
    try:
        network = torch.jit.load(str(path), map_location=machine.device).eval()
    except RuntimeError as error:
        raise InputError(
            f"{path}: not a TorchScript file ({str(error).splitlines()[0]}); give i3d_torchscript.pt"
        ) from None

    def rows(frames: np.ndarray) -> Tensor:
        clip = torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))[None].to(machine.device)
        try:
            return network(clip, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            reason = [line for line in str(error).splitlines() if line.strip()][-1]
            raise InputError(f"{path}: could not read a clip ({reason.strip()}); give i3d_torchscript.pt") from None

    about = {
        "like": "StyleGAN-V, frechet_video_distance.py",
        "network": path.name,
        "weights_sha256": sha256,
        "resize": "inside the network",
        "range": "inside the network",
        "features": "400 logits",
    }
    extractor = WindowFeatures(f"styleganv {sha256}", 400, rows, settings, min_frames=10)
    return FrechetVideo("fvd-styleganv", "FVD (StyleGAN-V)", extractor, 0, about)


def build_fid_vid(settings: FidVidSettings, machine: Machine) -> FrechetVideo:
    """FID-VID of DisCo (Wang et al. 2023). Raises InputError without the weights, or when they are another network's."""
    from evaluation.features import resnet3d
    from evaluation.features.video_resize import RESIZERS

    path = _given(settings.weights, "fid-vid.weights", "resnet-50-kinetics.pth of 3D-ResNets-PyTorch")
    sha256 = weights.sha256_of(path)
    network = resnet3d.ResNet50(resnet3d.read_state(path)).eval().to(machine.device)
    resize = RESIZERS["pil-bicubic"]

    def rows(frames: np.ndarray) -> Tensor:
        pixels = resize.resize(frames, resnet3d.SIDE_PX).to(machine.device)
        return network(pixels.transpose(0, 1)[None])

    about = {
        "like": "DisCo, mode FVD-3DRN50",
        "network": "3D ResNet-50, Kinetics-400",
        "weights_sha256": sha256,
        "resize": f"{resize.does}; {resnet3d.SIDE_PX}x{resnet3d.SIDE_PX}",
        "range": f"0 to 255, less {resnet3d.MEAN_RGB} (RGB)",
        "batch_norm_epsilon": resnet3d.BN_EPSILON,
        "features": f"2048, the mean of segments of {resnet3d.SEGMENT_FRAMES} frames; the last one filled up with the last frame",
    }
    extractor = WindowFeatures(f"fid-vid {sha256} resize=pil-bicubic", resnet3d.DIM, rows, settings, MIN_FRAMES_ANY)
    return FrechetVideo("fid-vid", "FID-VID", extractor, 1, about)


def _given(path: Path | None, setting: str, what: str) -> Path:
    """The path of a file that the user brings. Raises InputError when it is not set, or nothing is there."""
    if path is None:
        raise InputError(f"{setting}: not set; give the path of {what} (it cannot be fetched for you)")
    if not path.is_file():
        raise InputError(f"{setting}: {path} is no file; give the path of {what}")
    return path


METRICS: dict[str, MetricSpec] = {
    name: MetricSpec(WindowSettings, partial(build_fvd, name), lambda settings: (I3D,)) for name in RECIPES
} | {
    "fvd-styleganv": MetricSpec(StyleganvSettings, build_styleganv),
    "fid-vid": MetricSpec(FidVidSettings, build_fid_vid),
}
