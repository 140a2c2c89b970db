"""From the plan to jobs: which trainings there are, which arms share them, what is measured.

A training is named by the hash of everything that decides its weights: its settings, the part of the model that it builds, the
samples, and the training it starts from. So what arms have in common is trained once, and a changed setting is another training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evaluation.ablation.config import AblationConfig, ArmConfig, find
from imanim import config
from imanim.data.files import sha256
from imanim.errors import InputError
from imanim.models import sizes
from imanim.models.config import AnimatorConfig
from imanim.training.config import TrainConfig, identity

UNUSED: dict[int, tuple[str, ...]] = {1: ("retargeter", "expression", "denoiser"), 2: ("expression",), 3: ()}
"""Sections of the model's sizes that a stage does not build: arms that differ in them alone share it. (Stage 2 builds no denoiser,
but its tokens lie on the denoiser's grid.)"""
FREE = ("output", "workers", "device")
"""Settings of generated samples that do not change them."""


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        key: its name by content.
        settings: for launchers/train.py, complete but for ``output``, ``init_from`` and ``data.train``.
        model: the sizes, as far as this stage builds them.
        cpu_sec: the plan's forecast.
    """

    key: str
    number: int
    settings: dict[str, Any]
    cfg: TrainConfig
    model: AnimatorConfig
    parent: Stage | None
    cpu_sec: float | None

    @property
    def samples(self) -> int:
        """Training samples it sees, repeats counted."""
        return self.cfg.max_steps * self.cfg.batch.global_size

    def line(self) -> list[Stage]:
        """The trainings it stands on, the first one first, and itself."""
        return [*(self.parent.line() if self.parent else ()), self]


@dataclass(frozen=True)
class Unit:
    """An arm under a seed: its last training, and a key for each measurement."""

    arm: str
    seed: int
    last: Stage
    measures: tuple[str, ...]


def units(plan: AblationConfig, arms: Mapping[str, ArmConfig]) -> list[Unit]:
    """Every arm under every seed, seed by seed. Raises InputError where an arm's settings are not possible, naming it."""
    data = data_identity(plan)
    evaluations = [config.merge(config.read_yaml(find(m.config)), m.settings) for m in plan.evaluations]
    found = []
    for seed in plan.seeds:
        for name, arm in arms.items():
            try:
                last = _last_stage(plan, arm, seed, data)
            except InputError as error:
                raise InputError(f"arm {name}: {error}") from None
            found.append(Unit(name, seed, last, tuple(_hash([last.key, tree, data]) for tree in evaluations)))
    return found


def data_identity(plan: AblationConfig) -> dict[str, Any]:
    """What the training samples are made of."""
    tree = config.merge(config.read_yaml(find(plan.data.config)), plan.data.settings)
    return {name: value for name, value in tree.items() if name not in FREE}


def _last_stage(plan: AblationConfig, arm: ArmConfig, seed: int, data: dict[str, Any]) -> Stage:
    stage: Stage | None = None
    for number, planned in enumerate(plan.stages, 1):
        if number in arm.skip:
            continue
        over = {name: value for name, value in arm.model.items() if name not in UNUSED[number]}
        settings = _tree(find(planned.config))
        given = {"model": _model(plan.model), "model_settings": over, "seed": seed, "max_minutes": plan.max_minutes}
        for each in (planned.settings, plan.training, given, arm.stages.get(str(number), {})):
            settings = config.merge(settings, each)
        places = {"output": "(later)", "init_from": "(later)", "data": {"train": "(later)"}}
        cfg = config.from_dict(TrainConfig, config.merge(settings, places), name=f"stage {number}")
        if cfg.stage != number:
            raise InputError(
                f"stages[{number - 1}].config: {planned.config} is of stage {cfg.stage}; list stages in order"
            )
        model = _sizes(cfg.model or "", json.dumps(cfg.model_settings, sort_keys=True))
        content = {
            **identity(cfg), "max_steps": cfg.max_steps, "max_minutes": cfg.max_minutes, "model": config.to_dict(model),
            "samples": data, "parent": stage.key if stage else None,
        }  # fmt: skip
        stage = Stage(_hash(content), number, settings, cfg, model, stage, planned.cpu_sec)
    if stage is None:
        raise InputError("skip: nothing is left to train")
    return stage


@lru_cache(maxsize=64)
def _tree(path: Path) -> dict[str, Any]:
    return config.read_yaml(path)


@lru_cache(maxsize=256)
def _sizes(names: str, settings: str) -> AnimatorConfig:
    """Seeds do not change the sizes, and reading them takes longest."""
    return sizes.load(names, json.loads(settings))


def _model(text: str) -> str:
    """Names and files of sizes, files made absolute: trainings run in the repository's root."""
    return ",".join(part if part in sizes.names() else str(find(part)) for part in map(str.strip, text.split(",")))


def _hash(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode())[:16]


def stage_folder(output: Path, stage: Stage) -> Path:
    """A training's run folder."""
    return output / "stages" / stage.key


def score_folder(output: Path, key: str) -> Path:
    """A measurement's folder."""
    return output / "scores" / key
