"""The curriculum as pure functions of the config: which parts train, their optimizer groups, their learning rate at a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imanim.training.config import OptimizerConfig, TrainConfig

if TYPE_CHECKING:
    from imanim.models.animator import Animator


@dataclass(frozen=True)
class PartSummary:
    """One line of what ``--dry-run`` prints."""

    name: str
    mode: str
    parameters: int
    buffer_elements: int
    lr: float


def parameter_groups(animator: Animator, cfg: TrainConfig) -> list[dict[str, Any]]:
    """Optimizer groups: two a trained part, matrices with weight decay and vectors (norms, biases) without.

    Returns:
        groups with ``params``, ``name`` (``retargeter``, ``retargeter.vectors``), ``part``, ``lr_scale``, ``lr`` and
        ``weight_decay``; none is empty.
    """
    groups: list[dict[str, Any]] = []
    named = animator.parameter_parts()
    for part_name, part in cfg.parts.items():
        parameters = [p for _, p in named.get(part_name, []) if p.requires_grad]
        common = {"part": part_name, "lr_scale": part.lr_scale, "lr": cfg.optimizer.lr * part.lr_scale}
        matrices = [p for p in parameters if _dimensions(p) > 1]
        vectors = [p for p in parameters if _dimensions(p) <= 1]
        if matrices:
            decay = part.optimizer(cfg.optimizer).weight_decay
            groups.append({"params": matrices, "name": part_name, **common, "weight_decay": decay})
        if vectors:
            groups.append({"params": vectors, "name": f"{part_name}.vectors", **common, "weight_decay": 0.0})
    return groups


def lr_factor(step: int, max_steps: int, cfg: OptimizerConfig) -> float:
    """What every learning rate is multiplied by at a step (0 = the first): warm-up, then the schedule.

    A pure function of the step, so that a resumed run needs no scheduler state and a skipped step cannot shift it.
    """
    if step < cfg.warmup_steps:
        return (step + 1) / cfg.warmup_steps
    if cfg.schedule == "constant":
        return 1.0
    after = max(1, max_steps - cfg.warmup_steps)
    progress = min(1.0, (step - cfg.warmup_steps) / after)
    return cfg.final_lr_fraction + (1 - cfg.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rates(groups: list[dict[str, Any]], cfg: TrainConfig, step: int) -> dict[str, float]:
    """Sets each group's rate for this step. Returns the rate of each part."""
    factors = {name: lr_factor(step, cfg.max_steps, part.optimizer(cfg.optimizer)) for name, part in cfg.parts.items()}
    rates: dict[str, float] = {}
    for group in groups:
        group["lr"] = cfg.optimizer.lr * group["lr_scale"] * factors[group["part"]]
        rates[group["part"]] = group["lr"]
    return rates


def summary(animator: Animator, cfg: TrainConfig) -> list[PartSummary]:
    """One entry for each part, absent ones too."""
    named = animator.parameter_parts()
    lines = []
    for name, part in cfg.parts.items():
        count = sum(_elements(p) for _, p in named.get(name, []))
        buffers = 0
        if name == "codebook" and animator.codebook is not None:
            buffers = animator.codebook.embedding.numel()
        lr = cfg.optimizer.lr * part.lr_scale if part.mode == "train" and count else 0.0
        lines.append(PartSummary(name, part.mode, count, buffers, lr))
    return lines


def _dimensions(parameter: Any) -> int:
    # Under zero.Init a parameter is flat and empty here; ds_shape remembers what it is.
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _elements(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
