"""The cross-identity protocol on Doubles: unseen people perform unseen motions, and the true answer is known frame by frame.

For every clip: the character's image and the driver's video go in; the generated frames are compared with the character's
own performance of that motion, and the retargeted joints with its true joints. Beside ours stand the training-free
baselines of :mod:`evaluation.baselines`, and ``autoencoder``: the truth through encoder and decoder, which no video made by
this model can beat by much.

Protocol (also in every result file): no resizing, frames at the model's own size; metrics in float64 from uint8 before any
video compression; a clip's value is the mean over its frames, the table's the mean over clips; masks and joint
distances as in :mod:`evaluation.metrics`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from evaluation import baselines, summary
from evaluation.metrics import joints as joint_metrics
from evaluation.metrics import pixels
from evaluation.strips import sample_strip
from imanim.config import opt, req, to_dict
from imanim.data import storage
from imanim.data.files import sha256_file, write_json
from imanim.data.sample import Sample, decode
from imanim.data.shards import MANIFEST, ShardSet
from imanim.data.video import write_png, write_video
from imanim.errors import InputError
from imanim.inference import find_model

if TYPE_CHECKING:
    from torch import Tensor

    from imanim.inference.pipeline import AnimationPipeline

PROTOCOL = "doubles-cross-identity-1"
"""Name and version; numbers of different protocols do not belong side by side."""
RESULT, VIDEOS, FILMSTRIPS = "result.json", "videos", "filmstrips"
VIDEO_METRICS = ("psnr", "ssim", "psnr_person", "ssim_person")
BASELINES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(VIDEO_METRICS, ("hold", "hold_autoencoder", "driver")),
    "joint_error": ("hold", "copy", "scale_shift", "bone_length"),
}
"""What ours must beat, by metric. hold: the character held still; hold_autoencoder: the same through encoder and decoder, whose
blur alone gains a little in pixel measures, so that only motion can win; driver: the driver's own video; joints: see baselines."""


@dataclass
class EvalConfig:
    """What to measure."""

    data: str = req(
        "folder of shards with a test split (data=FOLDER), e.g. made by launchers/preprocess.py from Doubles"
    )
    model: str | None = opt(None, "training run or model folder; null = the packaged tiny model")
    output: str = opt("runs/evaluation", "folder for result.json, report.html, videos and filmstrips")
    splits: list[str] = opt(["test"], "splits to measure")
    levels: list[str] = opt([], "only clips of these difficulty levels (L0 to L4); empty = all")
    joint_clips: int | None = opt(None, "clips a split whose retargeted joints are measured, spread evenly; null = all")
    video_clips: int | None = opt(
        None, "of these, clips whose video is generated and measured (slow); null = all, 0 = none"
    )
    saved_videos: int = opt(6, "generated videos, and their filmstrips beside driver and truth, kept a split")
    steps: int | None = opt(None, "sampling steps; null = what suits the model's weights")
    shift: float | None = opt(None, "shift of the sampling noise levels; null = what suits the model's weights")
    low_noise: str | None = opt(None, "the low-noise half, when the model was trained in two (Wan 2.2 A14B)")
    base: str | None = opt(None, "Wan pipeline folder; null = where training had it")
    attention: str | None = opt(None, "attention kernel by name; null = as trained")
    seed: int = opt(0, "of the noise; clip i of a split uses seed + i")
    batch_size: int = opt(4, "clips at a time")
    device: str = opt("auto", "cpu, cuda or auto")
    threads: int = opt(1, "CPU threads; a small model is slower with more")

    def problems(self) -> list[str]:
        found = [
            f"{n}: {getattr(self, n)} must be at least 1"
            for n in ("steps", "batch_size", "threads")
            if getattr(self, n) is not None and getattr(self, n) < 1
        ]
        for name in ("joint_clips", "video_clips", "saved_videos"):
            value = getattr(self, name)
            if value is not None and value < 0:
                found.append(f"{name}: {value} must not be negative")
        if not self.splits:
            found.append("splits: names no split")
        return found


def evaluate(cfg: EvalConfig, *, progress: bool = True) -> dict[str, Any]:
    """Measures a model and writes ``result.json`` (and some videos) into ``cfg.output``.

    Returns:
        the result: protocol, config, model, data, rows (one a clip), and per split and level the means and comparisons.

    Raises:
        InputError: no such model, data or split, clips of another size, or the output cannot be written.
    """
    # What can be refused is refused before the slow imports.
    model = find_model(cfg.model)
    sets = {split: ShardSet(cfg.data, split) for split in cfg.splits}
    import torch

    from imanim.inference.pipeline import AnimationPipeline

    torch.set_num_threads(cfg.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    pipeline = AnimationPipeline.from_pretrained(
        model, low_noise=cfg.low_noise, shift=cfg.shift, base=cfg.base, attention=cfg.attention
    ).to(device)
    rows: list[dict[str, Any]] = []
    for split, shards in sets.items():
        rows += _measure_split(cfg, pipeline, split, shards, progress)
    result = {
        "protocol": _protocol(cfg, pipeline),
        "config": to_dict(cfg),
        "model": _fingerprint(model),
        "data": {"folder": cfg.data, "manifest_sha256": storage.at(cfg.data).sha256(MANIFEST)},
        "rows": rows,
        "groups": summarise(rows),
    }
    write_json(Path(cfg.output) / RESULT, result)
    return result


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and comparisons for every split, and for every level of it: {``test``: ..., ``test L3``: ...}."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["split"], []).append(row)
        groups.setdefault(f"{row['split']} {row['level']}", []).append(row)
    out = {}
    for name, members in groups.items():
        found = summary.comparisons(members, BASELINES)
        out[name] = {
            "clips": len(members),
            "video_clips": sum("psnr" in row["methods"][summary.OURS] for row in members),
            "means": summary.means(members),
            "comparisons": [{**vars(c), "outcome": c.outcome, "sentence": summary.sentence(c)} for c in found],
            "verdict": summary.verdict(found),
        }
    return out


# ------------------------------------------------------------------------------------------------------- measuring


def spread(total: int, count: int | None) -> list[int]:
    """``count`` of ``total`` indices, evenly spread (neighbours share a motion); all of them for None or too large a count."""
    if count is None or count >= total:
        return list(range(total))
    return [int(i) for i in (np.arange(count) + 0.5) * total / count] if count else []


def _measure_split(
    cfg: EvalConfig, pipeline: AnimationPipeline, split: str, shards: ShardSet, progress: bool
) -> list[dict[str, Any]]:
    chosen = _choose(cfg, shards)
    filmed = [chosen[i] for i in spread(len(chosen), cfg.video_clips)]
    kept = {filmed[i] for i in spread(len(filmed), cfg.saved_videos)}
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(chosen), desc=f"evaluate {split}", unit="clip", disable=not progress) as bar:
        # Clips with and without video go apart, so that the slow batches are full ones.
        for wants_video in (True, False):
            todo = [i for i in chosen if (i in set(filmed)) == wants_video]
            for start in range(0, len(todo), cfg.batch_size):
                numbers = todo[start : start + cfg.batch_size]
                rows += _measure_batch(cfg, pipeline, shards, split, numbers, wants_video, kept)
                bar.update(len(numbers))
    return rows


def _choose(cfg: EvalConfig, shards: ShardSet) -> list[int]:
    """Indices of the clips to measure."""
    every = list(range(len(shards)))
    if cfg.levels:
        every = [i for i in every if _level(shards, i) in cfg.levels]
        if not every:
            raise InputError(f"{shards.folder}: split {shards.split} has no clips of level {', '.join(cfg.levels)}")
    return [every[i] for i in spread(len(every), cfg.joint_clips)]


def _measure_batch(
    cfg: EvalConfig,
    pipeline: AnimationPipeline,
    shards: ShardSet,
    split: str,
    numbers: list[int],
    wants_video: bool,
    kept: set[int],
) -> list[dict[str, Any]]:
    samples = [_fitting(_read(shards, i), pipeline) for i in numbers]
    retargeted, driving, videos = _run_model(cfg, pipeline, samples, numbers, wants_video)
    rows = []
    for i, (number, sample) in enumerate(zip(numbers, samples)):
        methods = _joint_methods(sample, retargeted[i], driving[i])
        if wants_video:
            frames = {name: made[i] for name, made in videos.items()}
            frames |= {"hold": baselines.hold_pixels(sample.identity, len(sample.truth)), "driver": sample.driving}
            for method, made in frames.items():
                methods.setdefault(method, {}).update(_pixel_metrics(made, sample))
            if number in kept:
                write_video(Path(cfg.output) / VIDEOS / f"{sample.key}.mp4", videos["ours"][i], sample.fps)
                write_png(Path(cfg.output) / FILMSTRIPS / f"{sample.key}.png", sample_strip(sample, videos["ours"][i]))
        rows.append({"key": sample.key, "split": split, **_labels(sample), "methods": methods})
    return rows


def _run_model(
    cfg: EvalConfig, pipeline: AnimationPipeline, samples: list[Sample], numbers: list[int], wants_video: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Retargeted and driving joints [B,T,J,2]; with video uint8 [B,T,H,W,3] of ours and of what the autoencoder alone makes."""
    import torch

    from imanim.data.stream import collate, to_tensors
    from imanim.models.autoencoder import encode_video

    batch = collate([to_tensors(sample) for sample in samples])
    frames = batch["driving"].shape[1]
    identity = pipeline.encode_character(batch["identity"])
    image = pipeline.encode_condition(batch["identity"], batch["driving"].shape[1])
    motion = pipeline.read_motion(batch["driving"], identity, image=image)
    unknown = np.full((len(samples), frames, batch["joints"].shape[2], 2), np.nan)
    retargeted = unknown if motion.joints is None else motion.joints.float().cpu().numpy()
    driving = unknown if motion.driving_joints is None else motion.driving_joints.float().cpu().numpy()
    if not wants_video:
        return retargeted, driving, {}
    noise = torch.cat([pipeline.noise(frames, cfg.seed + i) for i in numbers])
    latents = pipeline.sample(motion.conditions, noise, _steps(cfg, pipeline), low_noise=motion.low_noise)
    videos = {"ours": pipeline.decode(latents)}
    still = batch["identity"][:, None].expand(-1, frames, -1, -1, -1)
    for name, clip in (("autoencoder", batch["target"]), ("hold_autoencoder", still)):
        videos[name] = pipeline.decode(encode_video(pipeline.vae, clip.to(pipeline.device)))
    return retargeted, driving, {name: _to_uint8(video) for name, video in videos.items()}


def _to_uint8(video: Tensor) -> np.ndarray:
    """[B,T,3,H,W] in [0,1] to uint8 [B,T,H,W,3]."""
    return video.movedim(2, -1).mul(255).round().byte().cpu().numpy()


def _joint_methods(sample: Sample, retargeted: np.ndarray, driving: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Joint error and PCK of ours and the baselines; ``tokens`` is the tokenizer's own reading of the driver."""
    size, truth, driver = sample.driving.shape[1:3], sample.joints, sample.joints_of_driver
    guesses = {"ours": retargeted, "copy": baselines.copy_joints(driver)}
    if sample.identity_joints is not None:
        own = sample.identity_joints
        guesses["hold"] = baselines.hold_joints(own, len(truth))
        guesses["scale_shift"] = baselines.scale_shift_joints(driver, own, *size)
        guesses["bone_length"] = baselines.bone_length_joints(driver, own, *size)
    measured = {name: (guess, truth) for name, guess in guesses.items()} | {"tokens": (driving, driver)}
    return {
        name: {
            "joint_error": summary.finite(joint_metrics.joint_error(guess, answer, *size)),
            "pck": summary.finite(joint_metrics.pck(guess, answer, *size)),
        }
        for name, (guess, answer) in measured.items()
    }


def _pixel_metrics(made: np.ndarray, sample: Sample) -> dict[str, float | None]:
    values = {"psnr": pixels.psnr(made, sample.truth), "ssim": pixels.ssim(made, sample.truth)}
    if sample.parts is not None:
        mask = pixels.person_mask(sample.parts)
        values["psnr_person"] = pixels.psnr(made, sample.truth, mask)
        values["ssim_person"] = pixels.ssim(made, sample.truth, mask)
    return {name: summary.finite(value) for name, value in values.items()}


# ----------------------------------------------------------------------------------------------------------- inputs


def _read(shards: ShardSet, i: int) -> Sample:
    key, members = shards.read(i)
    return decode(key, members, skip=("driving_parts.png",))


def _level(shards: ShardSet, i: int) -> str | None:
    """A clip's difficulty level, without decoding its videos."""
    return json.loads(shards.read(i)[1]["meta.json"]).get("level")


def _fitting(sample: Sample, pipeline: AnimationPipeline) -> Sample:
    """The sample, when it has the size that the model makes: resizing would be another protocol."""
    wanted = (pipeline.animator.config.frames, *pipeline.canvas_size)
    if sample.driving.shape[:3] != wanted:
        found = "x".join(map(str, sample.driving.shape[:3]))
        raise InputError(
            f"sample {sample.key}: {found} (frames x height x width), the model makes {'x'.join(map(str, wanted))}; "
            "preprocess with the model's size"
        )
    return sample


def _labels(sample: Sample) -> dict[str, Any]:
    """What a row says about its clip. Without a motion id (real video) every clip is its own."""
    meta = sample.meta
    motion = meta.get("motion")
    kind, name = (motion.get("kind"), motion.get("id")) if isinstance(motion, dict) else (None, motion)
    return {
        "level": meta.get("level", "all"),
        "framing": meta.get("framing"),
        "kind": kind,
        "motion": name or sample.key,
        "person": meta.get("person"),
        "driver_person": meta.get("driver_person"),
    }


def _steps(cfg: EvalConfig, pipeline: AnimationPipeline) -> int:
    return cfg.steps or pipeline.default_steps


def _protocol(cfg: EvalConfig, pipeline: AnimationPipeline) -> dict[str, Any]:
    model = pipeline.animator.config
    return {
        "name": PROTOCOL,
        "size": [model.height, model.width],
        "frames": model.frames,
        "fps": model.fps,
        "resize": "none",
        "sampler": {
            "name": "flow-matching Euler",
            "steps": _steps(cfg, pipeline),
            "shift": float(pipeline.scheduler.config.shift),
            "seed": cfg.seed,
        },
        "psnr": "float64 from uint8, mean over frames",
        "ssim": f"gaussian 11x11, sigma {pixels.SSIM_SIGMA}, population covariance",
        "scikit_image": metadata.version("scikit-image"),
        "person_mask": f"truth's parts > 0, grown by {pixels.MASK_MARGIN} of the height",
        "joint_error": "joints inside the frame, read by the model from its retargeted tokens; in % of nose-to-ankle length",
        "interval": "95 %, bootstrap over motions",
    }


def _fingerprint(model: Path) -> dict[str, Any]:
    weights = {str(f.relative_to(model)): sha256_file(f) for f in sorted(model.rglob("*.safetensors"))}
    return {"folder": str(model), "weights_sha256": weights}
