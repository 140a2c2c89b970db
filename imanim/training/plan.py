"""What a run is going to do, checked before anything heavy is started, and the text of ``--dry-run``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imanim import config, distributed
from imanim.data.shards import ShardSet
from imanim.errors import InputError
from imanim.models.animator import Animator
from imanim.models.config import AnimatorConfig
from imanim.training import batches, buckets, checkpoint, curriculum, latents, transfer
from imanim.training.config import TrainConfig, flatten, identity


@dataclass(frozen=True)
class Plan:
    """A run that can be started.

    Attributes:
        sizes: the model's.
        identity: the settings that must not change while this run lives (see ``config.identity``).
        checkpoint: where it continues; None when it starts afresh.
    """

    cfg: TrainConfig
    sizes: AnimatorConfig
    train: ShardSet
    validation: ShardSet | None
    identity: dict[str, Any]
    checkpoint: checkpoint.Checkpoint | None

    @property
    def start(self) -> int:
        """Optimizer steps already done."""
        return self.checkpoint.step if self.checkpoint else 0


def make(cfg: TrainConfig) -> Plan:
    """Checks what a run needs: weights to start from, data, batch geometry, the output folder. Reads only.

    Raises:
        InputError: naming the first thing that is missing or does not fit.
    """
    ranks = distributed.place().world_size
    batches.check_geometry(cfg, ranks)
    if checkpoint.newest(cfg.output) is None:
        transfer.sources(cfg)
    sizes = transfer.model_config(cfg)
    train, held_out = batches.open_train(cfg), batches.open_validation(cfg)
    batches.check_teams(cfg, train, sizes)
    latents.check(cfg, sizes, train, mirrored=cfg.data.augment.mirror)
    batches.check_size(cfg, train, sizes, latents.for_training(cfg, train))
    if held_out is not None:
        latents.check(cfg, sizes, held_out, mirrored=False)
        batches.check_size(cfg, held_out, sizes, latents.for_validation(cfg, held_out))
    _check_writable(Path(cfg.output))
    this = {**identity(cfg), "data.fingerprint": transfer.data_fingerprint(train)}
    # Where weights lie and how they are computed with may change on the way; what they are may not.
    changeable = ("model.base", "model.denoiser.attention", "model.denoiser.gradient_checkpointing")
    this |= {k: v for k, v in flatten({"model": config.to_dict(sizes)}).items() if k not in changeable}
    return Plan(cfg, sizes, train, held_out, this, checkpoint.to_continue(cfg.output, cfg.resume, this))


def describe(plan: Plan) -> str:
    """The resolved configuration, the parts with their sizes and learning rates, the geometry of a step, where it starts."""
    cfg, ranks = plan.cfg, distributed.place().world_size
    # Counting needs shapes, not numbers: on the meta device the largest model is described in a second on a laptop.
    with torch.device("meta"):
        animator = Animator(plan.sizes, cfg.parts.built())
    micro, accumulation = cfg.cut(ranks)
    lines = [config.to_yaml(cfg).rstrip(), "", f"stage {cfg.stage}: parts"]
    for part in curriculum.summary(animator, cfg):
        size = f"{part.parameters:>13,} parameters" if part.mode != "absent" else ""
        size += f" + {part.buffer_elements:,} in buffers" if part.buffer_elements else ""
        lr = f"  lr {part.lr:.2e}" if part.lr else ""
        lines.append(f"  {part.name:<18} {part.mode:<7} {size}{lr}")
    lines += [
        f"a step: {cfg.batch.global_size} samples = {cfg.sharers(ranks)} x {accumulation} micro-batches x {micro}",
        f"data: {len(plan.train)} training samples ({cfg.data.train}), "
        + (f"{len(plan.validation)} for validation" if plan.validation else "none for validation"),
        *(buckets.of(plan.train, plan.sizes).lines() if cfg.data.buckets else ()),
        *_latents(plan),
        f"steps: {plan.start} done, {cfg.max_steps - plan.start} to do = "
        f"{(cfg.max_steps - plan.start) * cfg.batch.global_size / len(plan.train):.1f} epochs",
        f"output: {cfg.output}" + (f", continues from {plan.checkpoint.path}" if plan.checkpoint else ""),
    ]
    return "\n".join(lines)


def _latents(plan: Plan) -> list[str]:
    """Where the latents come from, in a stage that has any."""
    if plan.cfg.stage == 1:
        return []
    cache = latents.cache_of(plan.cfg, plan.train)
    if cache is None:
        return ["latents: encoded in every step (launchers/cache.py makes a cache)"]
    return [f"latents: cached, {cache.dtype}, autoencoder {cache.autoencoder}; training encodes nothing"]


def _check_writable(output: Path) -> None:
    """Raises InputError unless ``output`` is a folder we may write in, or could be made."""
    if output.exists() and not output.is_dir():
        raise InputError(f"output: {output}: is a file; choose a folder")
    nearest = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"output: {output}: {nearest} is not a folder we may write in; choose another output=")
