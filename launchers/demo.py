"""The whole way in one command: `python launchers/demo.py` (or `make demo`)."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from imanim import cli, config, distributed
from imanim.config import opt, req
from imanim.data.files import write_atomic
from imanim.errors import InputError
from imanim.inference import PACKAGED_MODEL, find_model
from launchers import steps

DESCRIPTION = """Generates people, trains the three stages, animates unseen characters by unseen drivers, measures, reports.

  make demo
  python launchers/demo.py --character me.png --driving dance.mp4 --output runs/mine

The same command again continues: finished steps are skipped. `--fresh` starts over. Everything is written below --output;
the report is OUTPUT/report.html."""

REPORT = "report.html"


@dataclass
class StepConfig:
    """A launcher's configuration and what the demo changes in it."""

    config: str = req("configuration file")
    overrides: list[str] = opt([], "key=value settings laid over it")
    max_minutes: float | None = opt(None, "a training stage stops after so long on a slow machine; null = no limit")


@dataclass
class DemoConfig:
    """What the demo does."""

    data: StepConfig = req("Doubles to generate")
    stages: list[StepConfig] = req("training stages, in order")
    evaluation: StepConfig = req("measurement")
    output: str = opt("runs/demo", "folder for everything the demo makes")
    minutes: float = opt(
        5.0, "about how long the stages train together on two cores; --minutes scales their max_steps by it"
    )
    training_overrides: list[str] = opt([], "settings for every stage")
    ranks: int = opt(2, "training processes")

    def problems(self) -> list[str]:
        found = [] if self.stages else ["stages: none given"]
        if self.minutes <= 0 or self.ranks < 1:
            found.append(f"minutes {self.minutes}, ranks {self.ranks}: must be above 0")
        return found


def main(argv: list[str]) -> int:
    args = _parse(argv)
    if args.settings:
        print(config.help_text(DemoConfig))
        return 0
    cfg = config.load(DemoConfig, args.config or ROOT / "configs/demo.yaml", args.overrides)
    output = Path(args.output or cfg.output).resolve()
    plan = _plan(args, cfg, output)
    if args.dry_run:
        for name, command in plan.items():
            print(f"{name}: {' '.join(command)}")
        return 0
    if args.fresh and output.is_dir():
        if not (output / "steps").is_dir():
            raise InputError(f"{output}: --fresh would delete it, but no demo wrote it; choose another --output")
        shutil.rmtree(output)
    started = time.monotonic()
    seconds = {
        name: _run(name, command, output, f"{i + 1}/{len(plan)}") for i, (name, command) in enumerate(plan.items())
    }
    page = _report(args, cfg, output, seconds)
    print(f"\nreport: {page}  (this run {time.monotonic() - started:.0f} s, all steps {sum(seconds.values()):.0f} s)")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    p = cli.parser(DESCRIPTION)
    p.add_argument("--output", metavar="DIR", help="folder for everything (default: the configuration's, runs/demo)")
    p.add_argument("--character", metavar="IMAGE", help="also animate this person")
    p.add_argument("--driving", metavar="VIDEO", help="by this video")
    p.add_argument("--minutes", type=float, help="train about so long instead of the configuration's minutes")
    p.add_argument("--fresh", action="store_true", help="delete what an earlier demo left and start over")
    p.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    args = cli.parse(p, argv)
    if (args.character is None) != (args.driving is None):
        raise InputError("--character and --driving: give both or none")
    for path in (args.character, args.driving):
        if path is not None and not Path(path).is_file():
            raise InputError(f"{path}: no such file; check the path")
    if args.minutes is not None and args.minutes <= 0:
        raise InputError(f"--minutes {args.minutes}: must be above 0")
    return args


# -------------------------------------------------------------------------------------------------------- the steps


def _plan(args: argparse.Namespace, cfg: DemoConfig, output: Path) -> dict[str, list[str]]:
    """Step name to its command, in order. Paths are absolute: commands run in the repository's root."""
    python = sys.executable
    data, shipped = output / "data", _shipped()
    plan = {"data": [python, "launchers/preprocess.py", *_settings(cfg.data), f"output={data}"]}
    scale = 1.0 if args.minutes is None else args.minutes / cfg.minutes
    before: list[str] = []
    for i, stage in enumerate(cfg.stages):
        name = f"stage{i + 1}"
        sources = [*before[-1:], *([shipped] if shipped else [])]
        settings = [
            *cfg.training_overrides,
            *_scaled(_settings(stage), scale),
            f"data.train={data}",
            f"output={output / name}",
        ]
        settings += [f"init_from='{','.join(sources)}'"] if sources else []
        if stage.max_minutes is not None:
            settings.append(f"max_minutes={stage.max_minutes * max(1.0, scale)}")
        plan[name] = [*_deepspeed(cfg.ranks), "launchers/train.py", *settings]
        before.append(str(output / name))
    measure = [python, "launchers/evaluate.py", *_settings(cfg.evaluation), f"data={data}"]
    plan["evaluation"] = [*measure, f"model={before[-1]}", f"output={output / 'evaluation'}"]
    if shipped:
        plan["evaluation of the shipped weights"] = [
            *measure,
            f"model={shipped}",
            f"output={output / 'evaluation_of_the_shipped_weights'}",
        ]
    if args.character is not None:
        plan["animation"] = [
            *(python, "launchers/animate.py", "--character", str(Path(args.character).resolve())),
            *("--driving", str(Path(args.driving).resolve()), "--model", before[-1]),
            *("--output", str(output / "animation.mp4"), "--background", "white", "--overwrite"),
        ]
    return plan


def _settings(step: StepConfig) -> list[str]:
    return ["--config", str(ROOT / step.config), *step.overrides]


def _scaled(settings: list[str], scale: float) -> list[str]:
    """The settings with max_steps multiplied."""
    name = "max_steps="
    return [f"{name}{max(1, round(int(s.removeprefix(name)) * scale))}" if s.startswith(name) else s for s in settings]


def _shipped() -> str | None:
    """The packaged weights, when there are any."""
    return str(find_model(None)) if PACKAGED_MODEL.is_dir() else None


def _deepspeed(ranks: int) -> list[str]:
    """The deepspeed launcher with this interpreter (what the command `deepspeed` runs)."""
    return [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", "{port}"]


def _run(name: str, command: list[str], output: Path, place: str) -> float:
    """Runs a step unless this very command was finished before; returns the seconds it took. Raises InputError: it failed."""
    # The port is drawn anew each time, so it is no part of what a step is known by.
    return steps.run(name, command, output, place, started_as=_with_port)


def _with_port(command: list[str]) -> list[str]:
    return [word.replace("{port}", str(distributed.free_port())) for word in command]


# ------------------------------------------------------------------------------------------------------- the report


def _report(args: argparse.Namespace, cfg: DemoConfig, output: Path, seconds: dict[str, float]) -> Path:
    from evaluation import results
    from evaluation.benchmark import EvalConfig
    from evaluation.demo_report import DemoFacts, demo_page
    from evaluation.outputs import Frames
    from imanim.training.monitor import read_metrics

    before, own = output / "evaluation_of_the_shipped_weights", output / "animation.mp4"
    data, measured = str(output / "data"), output / "evaluation"
    settings = [*cfg.evaluation.overrides, f"data={data}", f"output={measured}"]
    facts = DemoFacts(
        result=results.load(measured),
        frames_of=Frames(config.load(EvalConfig, ROOT / cfg.evaluation.config, settings), data),
        before=results.load(before) if before.is_dir() else None,
        animations=[("Your own", Path(args.character), Path(args.driving), own)] if args.character else [],
        metrics={f"stage {i + 1}": read_metrics(output / f"stage{i + 1}") for i in range(len(cfg.stages))},
        seconds={**seconds, "together": sum(seconds.values())},
        about=_about(cfg),
    )
    page = output / REPORT
    write_atomic(page, demo_page(facts).encode())
    return page


def _about(cfg: DemoConfig) -> dict[str, str]:
    packages = ("imanim", "torch", "deepspeed", "diffusers", "numpy", "av", "warp-lang", "scikit-image")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "from the source tree" if package == "imanim" else "not installed"
    stages = "; ".join(" ".join([Path(s.config).name, *s.overrides]) for s in cfg.stages)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"machine": machine, **versions, "data": " ".join([cfg.data.config, *cfg.data.overrides]), "stages": stages}


if __name__ == "__main__":
    cli.run(main)
