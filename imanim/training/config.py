"""What a training run is: the schema behind configs/stage*.yaml."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from imanim.config import opt, req, to_dict
from imanim.models import sizes
from imanim.training.objective import ObjectiveConfig


@dataclass
class PartConfig:
    """What happens to one part of the model in this stage (docs/method.md, "The curriculum")."""

    mode: Literal["train", "frozen", "absent"] = opt(
        "absent", "train, frozen (used, never changed) or absent (not built)"
    )
    lr_scale: float = opt(1.0, "this part's learning rate is optimizer.lr times this")
    weight_decay: float | None = opt(None, "this part's, instead of optimizer.weight_decay")
    warmup_steps: int | None = opt(None, "this part's, instead of optimizer.warmup_steps")
    schedule: Literal["cosine", "constant"] | None = opt(None, "this part's, instead of optimizer.schedule")
    final_lr_fraction: float | None = opt(None, "this part's, instead of optimizer.final_lr_fraction")

    def problems(self) -> list[str]:
        found = [] if self.lr_scale > 0 else [f"lr_scale: {self.lr_scale} must be above 0; to hold a part, mode=frozen"]
        return found + self.optimizer(OptimizerConfig()).problems()

    def optimizer(self, everybodys: OptimizerConfig) -> OptimizerConfig:
        """The optimizer's settings with this part's own laid over them; ``lr`` is still everybody's."""
        names = ("weight_decay", "warmup_steps", "schedule", "final_lr_fraction")
        own = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(everybodys, **own)


@dataclass
class PartsConfig:
    """The curriculum's row for this stage: one entry for each part of the model."""

    tokenizer_encoder: PartConfig = opt(PartConfig(), "frame to motion tokens")
    codebook: PartConfig = opt(
        PartConfig(), "the codes that motion tokens are made of (moving averages; lr_scale is unused)"
    )
    motion_decoder: PartConfig = opt(PartConfig(), "motion tokens to the driver's heatmaps")
    joint_decoder: PartConfig = opt(PartConfig(), "retargeted tokens to the character's heatmaps")
    retargeter: PartConfig = opt(PartConfig(), "motion tokens and the character's latents to retargeted tokens")
    expression: PartConfig = opt(PartConfig(), "face crop to expression tokens, and the blocks that read them")
    denoiser: PartConfig = opt(PartConfig(), "the video DiT")

    def items(self) -> list[tuple[str, PartConfig]]:
        """(part, its settings), in the model's order."""
        return [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self)]

    def built(self) -> list[str]:
        """The parts that exist in this stage."""
        return [name for name, part in self.items() if part.mode != "absent"]

    def trained(self) -> list[str]:
        """The parts that change in this stage."""
        return [name for name, part in self.items() if part.mode == "train"]

    def problems(self) -> list[str]:
        learning = [name for name in self.trained() if name != "codebook"]
        return [] if learning else ["no part has mode=train; name at least one to train"]


@dataclass
class OptimizerConfig:
    """AdamW, one learning rate a part."""

    lr: float = opt(3e-4, "peak learning rate of a part with lr_scale 1")
    betas: tuple[float, float] = opt((0.9, 0.95), "decay of the moving averages of gradient and squared gradient")
    eps: float = opt(1e-8, "added to the root of the squared gradient's average")
    weight_decay: float = opt(0.01, "decoupled weight decay of matrices; vectors (norms, biases) have none")
    schedule: Literal["cosine", "constant"] = opt(
        "cosine", "after the warm-up: cosine down to final_lr_fraction, or constant"
    )
    warmup_steps: int = opt(100, "linear warm-up from 0")
    final_lr_fraction: float = opt(0.05, "learning rate at max_steps, as a fraction of the peak")
    grad_clip: float = opt(1.0, "largest global gradient norm; 0 = no clipping")

    def problems(self) -> list[str]:
        found = [f"{name}: {getattr(self, name)} must be above 0" for name in ("lr", "eps") if getattr(self, name) <= 0]
        found += [f"betas: {b} must lie in [0, 1)" for b in self.betas if not 0 <= b < 1]
        for name in ("weight_decay", "warmup_steps", "grad_clip"):
            if getattr(self, name) < 0:
                found.append(f"{name}: {getattr(self, name)} must not be negative")
        if not 0 <= self.final_lr_fraction <= 1:
            found.append(f"final_lr_fraction: {self.final_lr_fraction} must lie in [0, 1]")
        return found


@dataclass
class BatchConfig:
    """Samples a step. The gradient is the mean over the global batch, however it is cut."""

    global_size: int = opt(8, "samples an optimizer step takes, over all ranks")
    micro_size: int | None = opt(
        None, "samples a rank pushes through at once; null = its whole share (no accumulation)"
    )

    def problems(self) -> list[str]:
        found = [] if self.global_size > 0 else [f"global_size: {self.global_size} must be at least 1"]
        if self.micro_size is not None and self.micro_size < 1:
            found.append(f"micro_size: {self.micro_size} must be at least 1, or null")
        return found

    def cut(self, teams: int) -> tuple[int, int]:
        """(samples of a micro-batch, micro-batches a step) of each of so many ranks, or teams of ranks that share their samples;
        (0, 0) when it does not divide."""
        share, rest = divmod(self.global_size, teams)
        micro = self.micro_size or share
        return (0, 0) if rest or not share or share % micro else (micro, share // micro)


@dataclass
class AugmentConfig:
    """Changes to the driving side alone, so that copying the driver's coordinates cannot win; mirroring moves all sides."""

    scale: float = opt(0.2, "driver's zoom, log-uniform up to +- this")
    shift: float = opt(0.08, "driver's shift, up to +- this many frame sizes")
    stretch: float = opt(0.08, "driver's change of aspect, log-uniform up to +- this")
    colour: float = opt(0.2, "strength of the driver's change of gain, offset and contrast")
    mirror: bool = opt(True, "mirror half of the samples, left and right joints swapped")

    def problems(self) -> list[str]:
        names = ("scale", "shift", "stretch", "colour")
        return [f"{n}: {getattr(self, n)} must not be negative; 0 turns it off" for n in names if getattr(self, n) < 0]


@dataclass
class DataConfig:
    """Shards to learn from and to be measured on."""

    train: str = req(
        "folder of shards to train on (data.train=FOLDER), as launchers/preprocess.py writes it, or a URL for fsspec (s3://...)"
    )
    train_split: str = opt("train", "split of that folder")
    validation: str | None = opt(
        None, "folder of shards to measure on; null = the `validation_split` of data.train, if it has one"
    )
    validation_split: str = opt("val", "split to measure on")
    latents: Literal["auto", "use", "encode"] = opt(
        "auto",
        "stages 2 and 3: use the shards' latent cache (launchers/cache.py), encode in every step, or auto: use it if it is there",
    )
    buckets: bool = opt(
        False,
        "take samples of every shape that fits the model, a step's batch of one shape; false: only the model's own",
    )
    workers: int = opt(1, "decoding processes a rank; 0 decodes between the steps")
    augment: AugmentConfig = opt(AugmentConfig(), "augmentation of the training samples")

    def problems(self) -> list[str]:
        return [] if self.workers >= 0 else [f"workers: {self.workers} must not be negative"]


@dataclass
class DeepSpeedConfig:
    """How the engine holds and computes the model."""

    zero_stage: Literal[0, 1, 2, 3] = opt(
        3, "what is cut over the ranks: 1 optimizer, 2 and gradients, 3 and parameters"
    )
    precision: Literal["fp32", "autocast_bf16", "bf16"] = opt(
        "fp32", "fp32; autocast_bf16 (fp32 parameters, bf16 arithmetic); bf16 (bf16 parameters, fp32 master copy)"
    )
    offload: bool = opt(False, "keep parameters (stage 3) and optimizer state (stages 1-3) in CPU memory")
    persistent_elements: int = opt(100_000, "stage 3 keeps parameters smaller than this whole on every rank")
    extra: dict[str, Any] = opt({}, "raw DeepSpeed settings laid over ours (deepspeed.ai/docs/config-json)")

    def problems(self) -> list[str]:
        return ["offload: needs zero_stage 1, 2 or 3"] if self.offload and self.zero_stage == 0 else []


@dataclass
class FailureConfig:
    """What a run bears, and when it ends (docs/training.md, "When something goes wrong")."""

    skip_in_a_row: int = opt(
        3, "steps in a row that are left out when a loss or gradient is not finite; one more ends the run"
    )
    spike_factor: float = opt(4.0, "warn of a loss above this times the median of the last ones; 0 = never")
    spike_window: int = opt(50, "steps that the median is taken of")
    timeout_sec: float = opt(
        900.0,
        "how long one thing may take (a micro-batch, a checkpoint) until the rank that hangs is named and the run ends",
    )

    def problems(self) -> list[str]:
        found = [f"skip_in_a_row: {self.skip_in_a_row} must not be negative"] if self.skip_in_a_row < 0 else []
        if self.spike_factor != 0 and self.spike_factor <= 1:
            found.append(f"spike_factor: {self.spike_factor} must be above 1, or 0 for never")
        if self.spike_window < 2:
            found.append(f"spike_window: {self.spike_window} must be at least 2")
        if self.timeout_sec <= 0:
            found.append(f"timeout_sec: {self.timeout_sec} must be above 0")
        return found


@dataclass
class MonitorConfig:
    """What is written while training, and how often (in steps; 0 = never)."""

    log_every: int = opt(10, "a progress line, TensorBoard scalars, a line of metrics.jsonl")
    validate_every: int = opt(200, "mean losses of `validation_batches` fixed batches")
    validation_batches: int = opt(4, "global batches a validation takes")
    noise_levels: int = opt(
        5, "stage 3: a validation measures each batch at so many noise levels, at even quantiles of those trained on"
    )
    picture_every: int = opt(200, "filmstrips and clips of the first validation samples")
    picture_samples: int = opt(2, "samples a filmstrip shows")
    sampling_steps: int | None = opt(None, "denoising steps of a stage-3 filmstrip; null = what suits the model")
    checkpoint_every: int = opt(500, "checkpoint; the last step always gets one, and exports the weights")
    keep: int = opt(2, "checkpoints kept, the newest ones")
    tensorboard: bool = opt(True, "write TensorBoard files")
    peak_tflops: float | None = opt(
        None, "a GPU's peak arithmetic, for the model FLOP utilisation; null = the data sheet's for known GPUs in bf16"
    )

    def problems(self) -> list[str]:
        names = ("validate_every", "picture_every", "checkpoint_every")
        found = [f"{name}: {getattr(self, name)} must not be negative" for name in names if getattr(self, name) < 0]
        for name in ("log_every", "keep", "validation_batches", "picture_samples", "noise_levels", "sampling_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                found.append(f"{name}: {getattr(self, name)} must be at least 1")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            found.append(f"peak_tflops: {self.peak_tflops} must be above 0, or null")
        return found


@dataclass
class TrainConfig:
    """One stage of training."""

    stage: Literal[1, 2, 3] = req("1 motion tokenizer, 2 retargeter, 3 end to end with the denoiser (docs/method.md)")
    output: str = req("run folder: checkpoints, weights, logs, pictures")
    data: DataConfig = req("training data: data.train=FOLDER")
    max_steps: int = opt(1000, "optimizer steps of the whole run")
    max_minutes: float | None = opt(None, "stop, save and export after so long, even before max_steps; null = no limit")
    seed: int = opt(0, "all randomness follows from (seed, step, place in the batch)")
    model: str | None = opt(
        None,
        "the model's sizes: a name in configs/model or a YAML file, several with commas; null = those of init_from",
    )
    model_settings: dict[str, Any] = opt(
        {}, "laid over the model's sizes: model_settings.base=FOLDER, model_settings.denoiser.lora_rank=32, ..."
    )
    init_from: str | None = opt(
        None,
        "weights to start from: a run folder or a save_pretrained folder; several with commas, the first that has a part gives it",
    )
    resume: Literal["auto", "never"] = opt(
        "auto", "auto continues from the newest whole checkpoint in output; never refuses a used one"
    )
    ema_decay: float = opt(0.0, "moving average of the weights, which is what gets exported; 0 = off, else e.g. 0.999")
    parts: PartsConfig = opt(PartsConfig(), "which parts train, with which learning rate")
    objective: ObjectiveConfig = opt(ObjectiveConfig(), "weights of the losses")
    optimizer: OptimizerConfig = opt(OptimizerConfig(), "AdamW and its schedule")
    batch: BatchConfig = opt(BatchConfig(), "batch geometry")
    sequence_parallel: int = opt(
        1,
        "stages 2 and 3: so many neighbouring ranks share a sample's tokens in retargeter and denoiser (Ulysses): long or large "
        "videos in less memory a GPU, at most as many as latent frames and attention heads",
    )
    deepspeed: DeepSpeedConfig = opt(DeepSpeedConfig(), "engine")
    compile: bool = opt(
        False, "torch.compile for the model's repeated blocks: the first step takes a minute or more, later ones less"
    )
    monitor: MonitorConfig = opt(MonitorConfig(), "logs, pictures, checkpoints")
    failures: FailureConfig = opt(FailureConfig(), "what is borne, and when a run ends")

    def problems(self) -> list[str]:
        found = [] if self.max_steps > 0 else [f"max_steps: {self.max_steps} must be at least 1"]
        if not 0 <= self.ema_decay < 1:
            found.append(f"ema_decay: {self.ema_decay} must lie in [0, 1)")
        if self.max_minutes is not None and self.max_minutes <= 0:
            found.append(f"max_minutes: {self.max_minutes} must be above 0, or null")
        if self.model is None and self.init_from is None:
            found.append("model: give the sizes (model=tiny) or weights to start from (init_from=FOLDER)")
        if self.model is not None:
            found += sizes.problems(self.model)
        if self.sequence_parallel < 1:
            found.append(f"sequence_parallel: {self.sequence_parallel} must be at least 1")
        if self.sequence_parallel > 1 and self.stage == 1:
            found.append("sequence_parallel: stage 1 reads single frames, there is nothing to share; set 1")
        if self.sequence_parallel > 1 and self.parts.codebook.mode == "train":
            found.append(
                "sequence_parallel: a codebook that trains would count every sample once a rank; freeze it or set 1"
            )
        if self.sequence_parallel > 1 and self.compile:
            found.append(
                "compile: blocks whose tokens lie on several ranks cannot be compiled; set sequence_parallel=1 or false"
            )
        if self.stage == 1 and self.data.latents == "use":
            found.append("data.latents: use, but stage 1 has no autoencoder; set auto or encode")
        needed = NEEDED[self.stage]
        for name in needed:
            if getattr(self.parts, name).mode == "absent":
                found.append(f"parts.{name}.mode: absent, but stage {self.stage} needs it; make it train or frozen")
        if self.stage > 1 and self.init_from is None:
            found.append(
                f"init_from: stage {self.stage} starts from the last stage's weights; init_from=runs/stage{self.stage - 1}"
            )
        return found

    def cut(self, world_size: int) -> tuple[int, int]:
        """(samples of a micro-batch, micro-batches a rank and step) on so many ranks; (0, 0) when that does not divide."""
        teams, rest = divmod(world_size, self.sequence_parallel)
        return (0, 0) if rest or not teams else self.batch.cut(teams)

    def sharers(self, world_size: int) -> str:
        """Who shares a step's samples, for people: ``8 ranks``, or ``4 teams of 2 ranks``."""
        if self.sequence_parallel == 1:
            return f"{world_size} ranks"
        teams = world_size // self.sequence_parallel
        return f"{teams} team{'s' if teams > 1 else ''} of {self.sequence_parallel} ranks"


NEEDED: dict[int, tuple[str, ...]] = {
    1: ("tokenizer_encoder", "codebook", "motion_decoder"),
    2: ("tokenizer_encoder", "codebook", "retargeter", "joint_decoder"),
    3: ("tokenizer_encoder", "codebook", "retargeter", "joint_decoder", "denoiser"),
}
"""The parts each stage's objective runs through (docs/method.md)."""

MAY_CHANGE = (
    *("output", "resume", "max_steps", "max_minutes", "monitor", "failures", "init_from", "model", "model_settings"),
    *("data.train", "data.validation", "data.validation_split", "data.workers", "data.latents"),
    *("deepspeed.zero_stage", "deepspeed.offload", "deepspeed.persistent_elements", "batch.micro_size"),
    *("sequence_parallel", "compile"),
)
"""Settings that a resumed run may change: what they do is over (init_from), does not touch what is learned, or is compared by
content instead (the model's sizes, the data's fingerprint), or only does the work otherwise (ZeRO, micro-batches, cached latents,
compiled blocks).
``max_steps`` moves the end of the schedule: a longer run."""


def identity(cfg: TrainConfig) -> dict[str, Any]:
    """The settings that make a run this run and no other, as flat ``{"optimizer.lr": 3e-4}``: equal when it may be resumed."""
    flat = flatten(to_dict(cfg))
    return {
        key: value for key, value in flat.items() if not any((key + ".").startswith(name + ".") for name in MAY_CHANGE)
    }


def flatten(tree: dict[str, Any], at: str = "") -> dict[str, Any]:
    """``{"optimizer": {"lr": 1}}`` as ``{"optimizer.lr": 1}``; tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{at}{key}."))
        else:
            flat[f"{at}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
