"""The ablation as jobs: samples, trainings, measurements; and the forecast that ``--dry-run`` prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.ablation.config import AblationConfig, find
from evaluation.ablation.jobs import DONE, Job, Runner
from evaluation.ablation.stages import FREE, Stage, Unit, data_identity, score_folder, stage_folder
from evaluation.results import RESULT
from imanim import config
from imanim.data.files import sha256, write_atomic
from imanim.data.shards import MANIFEST
from imanim.models.files import INDEX
from imanim.training.transfer import MODEL

SAMPLES = "samples"
_PARTLY_MEASURED = 1
"""launchers/evaluate.py's exit code when some samples could not be measured; the result names them."""


def jobs(plan: AblationConfig, units: Sequence[Unit], output: Path) -> list[Job]:
    """Everything that the units need, in the order in which it is worth doing; what is shared stands once."""
    found: dict[str, Job] = {}
    samples = _samples_job(plan, output)
    found[samples.key] = samples
    for unit in units:
        for stage in unit.last.line():
            found.setdefault(stage.key, _training_job(plan, stage, output, samples, unit))
        for i, key in enumerate(unit.measures):
            measured = _measured_samples(plan, i, samples, output)
            if measured is not None:
                found.setdefault(measured.key, measured)
            found.setdefault(key, _measuring_job(plan, unit, i, key, output, measured))
    return list(found.values())


def prepare(plan: AblationConfig, units: Sequence[Unit], output: Path) -> None:
    """Writes the settings files that the commands name."""
    _write(
        output / "settings" / "samples.yaml", config.merge(config.read_yaml(find(plan.data.config)), plan.data.settings)
    )
    for stage in {s.key: s for unit in units for s in unit.last.line()}.values():
        # The sizes as the key has them: the plan's own file may be another by the time the training starts.
        sizes = output / "settings" / f"{stage.key}-model.yaml"
        _write(sizes, config.to_dict(stage.model))
        _write(_settings_file(output, stage.key), {**stage.settings, "model": str(sizes), "model_settings": {}})
    for i, measure in enumerate(plan.evaluations):
        tree = config.merge(config.read_yaml(find(measure.config)), measure.settings)
        _write(_evaluation_file(output, i), tree)


def _write(path: Path, tree: dict) -> None:
    from omegaconf import OmegaConf

    write_atomic(path, OmegaConf.to_yaml(OmegaConf.create(tree)).encode())


def _settings_file(output: Path, key: str) -> Path:
    return output / "settings" / f"{key}.yaml"


def _evaluation_file(output: Path, i: int) -> Path:
    return output / "settings" / f"evaluation-{i}.yaml"


def _samples_job(plan: AblationConfig, output: Path) -> Job:
    settings = output / "settings" / "samples.yaml"
    return _preprocessing(plan, "samples", data_identity(plan), settings, Path(plan.data.folder).absolute())


def _measured_samples(plan: AblationConfig, i: int, trained: Job, output: Path) -> Job | None:
    """What an evaluation is measured on: the training's own folder, or made once for all arms; None: it says where they are."""
    tree = config.merge(config.read_yaml(find(plan.evaluations[i].config)), plan.evaluations[i].settings)
    generated = tree.get("protocol", {}).get("source", {}).get("generate")
    if tree.get("data") is not None or generated is None:
        return None
    if find(generated) == find(plan.data.config):
        return trained
    made = {name: value for name, value in config.read_yaml(find(generated)).items() if name not in FREE}
    name = Path(generated).stem
    return _preprocessing(plan, f"samples of {name}", made, find(generated), (output / SAMPLES / name).absolute())


def _preprocessing(plan: AblationConfig, title: str, identity: Mapping[str, Any], settings: Path, folder: Path) -> Job:
    key = f"{SAMPLES}-{sha256(repr(sorted(identity.items())).encode())[:16]}"
    command = [sys.executable, "launchers/preprocess.py", "--config", str(settings)]
    command += [f"output={folder}", f"workers={plan.jobs}"]
    return Job(key, title, tuple(command), made=folder / MANIFEST)


def _training_job(plan: AblationConfig, stage: Stage, output: Path, samples: Job, unit: Unit) -> Job:
    parent = stage.parent
    command = [sys.executable, "launchers/train.py", "--config", str(_settings_file(output, stage.key))]
    command += [f"data.train={Path(plan.data.folder).absolute()}", f"output={stage_folder(output, stage)}"]
    command += [f"init_from={stage_folder(output, parent)}"] if parent else []
    parents = (samples.key, *([parent.key] if parent else ()))
    title = f"stage {stage.number} of {unit.arm}, seed {unit.seed} ({stage.key})"
    made = stage_folder(output, stage) / MODEL / INDEX
    return Job(stage.key, title, tuple(command), parents, stage.cpu_sec, made=made)


def _measuring_job(plan: AblationConfig, unit: Unit, i: int, key: str, output: Path, samples: Job | None) -> Job:
    measure = plan.evaluations[i]
    command = [sys.executable, "launchers/evaluate.py", "--config", str(_evaluation_file(output, i))]
    command += [f"model={stage_folder(output, unit.last)}", f"name={unit.arm}-{unit.seed}"]
    command += [f"output={score_folder(output, key)}"]
    if samples is not None and samples.made is not None:
        command.append(f"data={samples.made.parent}")
    title = f"{Path(measure.config).stem} of {unit.arm}, seed {unit.seed}"
    parents = (unit.last.key, *([samples.key] if samples is not None else ()))
    return Job(
        key, title, tuple(command), parents, measure.cpu_sec, (0, _PARTLY_MEASURED), score_folder(output, key) / RESULT
    )


def share(units: Sequence[Unit], task: int, tasks: int) -> list[Unit]:
    """The units of the task-th of so many (1 is the first)."""
    return list(units[task - 1 :: tasks])


def tree(plan: AblationConfig, units: Sequence[Unit], runner: Runner, output: Path) -> list[str]:
    """For people: every training and who uses it, and the forecast of what is left."""
    seconds = _forecasts(units, runner)
    users: dict[str, list[str]] = {}
    stages: dict[str, Stage] = {}
    for unit in units:
        for stage in unit.last.line():
            stages[stage.key] = stage
            users.setdefault(stage.key, []).append(f"{unit.arm}-{unit.seed}")
    lines: list[str] = []
    for root in (s for s in stages.values() if s.parent is None):
        lines += _branch(root, stages, users, seconds, runner, 0)
    left: list[float | None] = [seconds.get(key) for key in stages if runner.record(key).get("state") != DONE]
    measured = {key: job.cpu_sec for key, job in ((j.key, j) for j in jobs(plan, units, output)) if key not in stages}
    scores = [
        sec for key, sec in measured.items() if not key.startswith(SAMPLES) and runner.record(key).get("state") != DONE
    ]
    lines.append(
        f"{len(stages)} trainings for {len(units)} runs ({sum(len(u.last.line()) for u in units)} without sharing), "
        f"{len(left)} to do: {_hours(left)}; {len(scores)} measurements to do: {_hours(scores)}; {plan.jobs} at a time"
    )
    return lines


def _branch(
    stage: Stage, stages: Mapping[str, Stage], users: Mapping[str, list[str]], seconds: Mapping[str, float | None],
    runner: Runner, depth: int,
) -> list[str]:  # fmt: skip
    state, forecast = runner.record(stage.key).get("state", "to do"), seconds.get(stage.key)
    about = "unknown time" if forecast is None else f"about {forecast:.0f} s of one core"
    names = users[stage.key]
    shown = ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
    lines = [f"{'  ' * depth}stage {stage.number} {stage.key}: {stage.samples:,} samples, {about}, {state}: {shown}"]
    for child in stages.values():
        if child.parent is not None and child.parent.key == stage.key:
            lines += _branch(child, stages, users, seconds, runner, depth + 1)
    return lines


def _forecasts(units: Sequence[Unit], runner: Runner) -> dict[str, float | None]:
    """Seconds of one core by training: what it took; else the mean of what was measured here of its number; else the plan's."""
    stages = {s.key: s for unit in units for s in unit.last.line()}
    took = {key: rec["cpu_sec"] for key in stages if (rec := runner.record(key)).get("state") == DONE}
    found: dict[str, float | None] = {}
    for key, stage in stages.items():
        alike = [sec for other, sec in took.items() if stages[other].number == stage.number]
        found[key] = took.get(key, sum(alike) / len(alike) if alike else stage.cpu_sec)
    return found


def _hours(seconds: Sequence[float | None]) -> str:
    if any(s is None for s in seconds):
        return "unknown time"
    return f"about {sum(s for s in seconds if s is not None) / 3600:.1f} hours of one core"
