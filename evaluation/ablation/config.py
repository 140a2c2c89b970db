"""What an ablation is: the plan (``configs/ablate/plan.yaml``) and its arms (a small file each beside it)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imanim import config
from imanim.config import opt, req
from imanim.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class StageConfig:
    """A training stage as every arm has it. What makes it as long as it is belongs into ``settings``: steps and samples a step."""

    config: str = req("training configuration, e.g. configs/stage1.yaml")
    settings: dict[str, Any] = opt({}, "training settings laid over it")
    cpu_sec: float | None = opt(None, "what it took the full method, in seconds of one core; for the forecast alone")


@dataclass
class MeasureConfig:
    """A protocol under which every arm is measured."""

    config: str = req("protocol, e.g. configs/eval/ablation.yaml")
    settings: dict[str, Any] = opt({}, "evaluation settings laid over it")
    cpu_sec: float | None = opt(None, "what it took once, in seconds of one core; for the forecast alone")


@dataclass
class SamplesConfig:
    """Samples to train on, made when they are not there. A protocol that generates from the same file takes its own from them."""

    config: str = req("what to generate, e.g. configs/data/ablation.yaml")
    folder: str = req("where the shards are, or are put")
    settings: dict[str, Any] = opt({}, "settings laid over it")


@dataclass
class ArmConfig:
    """A variant: what differs from the method, and nothing else."""

    about: str = req("what it changes, in a sentence")
    model: dict[str, Any] = opt({}, "laid over the plan's model")
    stages: dict[str, dict[str, Any]] = opt({}, "stage number to training settings laid over the plan's")
    skip: list[int] = opt([], "stages it does without; the next one starts from the one before")

    def problems(self) -> list[str]:
        return [f"stages.{n}: no stage has this number; 1, 2 or 3" for n in self.stages if n not in ("1", "2", "3")]


@dataclass
class AblationConfig:
    """The arms, their common budget, and how they are measured."""

    stages: list[StageConfig] = req("the training stages 1, 2, 3")
    model: str = req("the method's sizes: a name of configs/model or a YAML file")
    data: SamplesConfig = req("training samples")
    evaluations: list[MeasureConfig] = req("protocols; values of the same name must not be in two of them")
    columns: list[str] = opt([], "values of the table, `value` or `value@group` (joint_error@L3)")
    arms: list[str] = opt(["full"], "arms: names of files beside the plan")
    baseline: str = opt("full", "the arm that the others are compared with")
    seeds: list[int] = opt([0], "training seeds; every arm is trained with each")
    output: str = opt("runs/ablation", "folder for stages, scores, records and the report")
    jobs: int = opt(1, "trainings or measurements at a time, of one thread each")
    max_minutes: float | None = opt(
        None, "ends a stage after so long: a cap for slow machines, which makes the result depend on them; null = none"
    )
    training: dict[str, Any] = opt(
        {}, "training settings laid over every stage's own, e.g. how often it looks at itself"
    )

    def problems(self) -> list[str]:
        found = [f"{n}: none given" for n in ("arms", "seeds", "stages", "evaluations") if not getattr(self, n)]
        for name in ("arms", "seeds"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                found.append(f"{name}: {getattr(self, name)} names one twice")
        if self.jobs < 1:
            found.append(f"jobs: {self.jobs} must be at least 1")
        if self.max_minutes is not None and self.max_minutes <= 0:
            found.append(f"max_minutes: {self.max_minutes} must be above 0, or null")
        return found


def load_arms(names: list[str], folder: Path) -> dict[str, ArmConfig]:
    """The arms by name, in this order, from ``folder``/NAME.yaml. Raises InputError naming what is missing or wrong."""
    arms = {}
    for name in names:
        path = folder / f"{name}.yaml"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in folder.glob("*.yaml") if "about" in config.read_yaml(p)))
            raise InputError(f"arms: {name}: {path} is not there; the folder has {there or 'no arms'}")
        arms[name] = config.load(ArmConfig, path)
    return arms


def find(text: str) -> Path:
    """A file of the repository or of the working folder. Raises InputError."""
    for path in (Path(text), ROOT / text):
        if path.is_file():
            return path.resolve()
    raise InputError(f"{text}: no such file, here or in {ROOT}; check the plan")
