"""From shards to what the objective sees: loaders of this rank's micro-batches, randomness, augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from imanim import distributed
from imanim.data.augment import augment_driving, mirror
from imanim.data.dice import Dice
from imanim.data.latents import Use
from imanim.data.shards import Shape, ShardSet, read_manifest
from imanim.data.stream import Batch, Loader, SampleDataset
from imanim.errors import InputError
from imanim.models.config import AnimatorConfig
from imanim.training import buckets, latents
from imanim.training.config import AugmentConfig, TrainConfig

VALIDATION = 1 << 31
"""Added to the place of a validation batch, so that it never shares its noise with a training batch."""


def team(cfg: TrainConfig) -> tuple[int, int]:
    """Which team this rank is of, and how many there are. The ranks of a team get the same samples (``sequence_parallel``)."""
    here = distributed.place()
    return here.rank // cfg.sequence_parallel, here.world_size // cfg.sequence_parallel


def dice(cfg: TrainConfig, step: int, micro: int = 0) -> Dice:
    """The randomness of this rank's ``micro``-th micro-batch of a step."""
    size, accumulation = cfg.cut(distributed.place().world_size)
    first = (team(cfg)[0] * accumulation + micro) * size
    return Dice(cfg.seed, step, range(first, first + size))


def validation_dice(cfg: TrainConfig, number: int) -> Dice:
    """The randomness of this rank's share of the ``number``-th validation batch: the same at every validation."""
    size, _ = cfg.cut(distributed.place().world_size)
    mine, teams = team(cfg)
    first = VALIDATION + (number * teams + mine) * size
    return Dice(cfg.seed, 0, range(first, first + size))


def open_train(cfg: TrainConfig) -> ShardSet:
    """The training split. Raises InputError when it is missing or smaller than a global batch."""
    return ShardSet(cfg.data.train, cfg.data.train_split)


def open_validation(cfg: TrainConfig) -> ShardSet | None:
    """The validation split; None when nothing was asked for and the training folder has none."""
    if cfg.data.validation is not None:
        return ShardSet(cfg.data.validation, cfg.data.validation_split)
    splits = read_manifest(cfg.data.train)["splits"]
    return ShardSet(cfg.data.train, cfg.data.validation_split) if cfg.data.validation_split in splits else None


def training_batches(cfg: TrainConfig, sizes: AnimatorConfig, shards: ShardSet, start_step: int) -> Iterator[Batch]:
    """This rank's endless micro-batches from ``start_step`` on, on the CPU, not augmented."""
    mine, teams = team(cfg)
    _, accumulation = cfg.cut(distributed.place().world_size)
    shapes = buckets.of(shards, sizes).samples if cfg.data.buckets else None
    loader = Loader(
        _dataset(cfg, shards, sizes, latents.for_training(cfg, shards)),
        global_batch=cfg.batch.global_size,
        buckets=None if shapes is None else list(shapes.values()),
        seed=cfg.seed,
        rank=mine,
        ranks=teams,
        start_step=start_step,
        micro_batches=accumulation,
        workers=cfg.data.workers,
    )
    return iter(loader)


def validation_batches(cfg: TrainConfig, sizes: AnimatorConfig, shards: ShardSet) -> list[Batch]:
    """This rank's share of the fixed validation batches. They are few and small, so they stay in memory.

    All of one shape: of the model's own, or of the most frequent where ``data.buckets`` finds none of that.
    """
    mine, teams = team(cfg)
    micro, _ = cfg.cut(distributed.place().world_size)
    found = buckets.of(shards, sizes) if cfg.data.buckets else None
    loader = Loader(
        _dataset(cfg, shards, sizes, latents.for_validation(cfg, shards)),
        global_batch=micro * teams,
        buckets=None if found is None else [found.samples[found.for_validation(own_shape(sizes))]],
        seed=0,
        rank=mine,
        ranks=teams,
    )
    batches = iter(loader)
    return [next(batches) for _ in range(cfg.monitor.validation_batches)]


def shape(batch: Batch) -> Shape:
    """Frames, height and width of a batch's videos."""
    frames, _, height, width = batch["driving"].shape[1:]
    return frames, height, width


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``; keys stay."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def augment(batch: Batch, cfg: AugmentConfig, dice: Dice) -> Batch:
    """A training batch as it is seen this time: mirrored as a whole, then the driving side changed alone."""
    if cfg.mirror:
        batch = mirror(batch, dice)
    driving, joints, faces = augment_driving(
        batch["driving"],
        batch["driving_joints"],
        batch["faces"],
        dice,
        scale=cfg.scale,
        shift=cfg.shift,
        stretch=cfg.stretch,
        colour=cfg.colour,
    )
    return {**batch, "driving": driving, "driving_joints": joints, "faces": faces}


def check_size(cfg: TrainConfig, shards: ShardSet, sizes: AnimatorConfig, use: Use | None = None) -> None:
    """Raises InputError unless the first sample (of each shape) has the frames, pixels and cached latents that the model takes."""
    data = _dataset(cfg, shards, sizes, use)
    for samples in buckets.of(shards, sizes).samples.values() if cfg.data.buckets else ([0],):
        data[samples[0]]


def check_teams(cfg: TrainConfig, shards: ShardSet, sizes: AnimatorConfig) -> None:
    """Raises InputError unless the clips of every shape have enough frames, and the model enough heads, for a team's ranks."""
    for frames, _, _ in buckets.of(shards, sizes).samples if cfg.data.buckets else (own_shape(sizes),):
        sizes.check_team(cfg.sequence_parallel, frames)


def own_shape(sizes: AnimatorConfig) -> Shape:
    """The model's frames, height and width."""
    return sizes.frames, sizes.height, sizes.width


def check_geometry(cfg: TrainConfig, ranks: int) -> None:
    """Raises InputError unless the global batch divides over the ranks and micro-batches."""
    teams, rest = divmod(ranks, cfg.sequence_parallel)
    if rest or not teams:
        raise InputError(
            f"sequence_parallel: {cfg.sequence_parallel}: {ranks} ranks are no multiple of it; start another number of ranks"
        )
    if cfg.cut(ranks) == (0, 0):
        micro = f" in micro-batches of {cfg.batch.micro_size}" if cfg.batch.micro_size else ""
        raise InputError(
            f"batch.global_size: {cfg.batch.global_size} does not divide over {cfg.sharers(ranks)}{micro}; "
            f"use a multiple of {teams * (cfg.batch.micro_size or 1)}"
        )


def _dataset(cfg: TrainConfig, shards: ShardSet, sizes: AnimatorConfig, use: Use | None) -> SampleDataset:
    frames, height, width = own_shape(sizes)
    own_shapes = cfg.data.buckets
    return SampleDataset(shards, frames=frames, height=height, width=width, own_shapes=own_shapes, latents=use)
