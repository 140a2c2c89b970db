"""Trains and measures variants of the method under one budget: `python launchers/ablate.py --config configs/ablate/plan.yaml`."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from imanim import cli
from imanim.errors import InputError

if TYPE_CHECKING:
    from evaluation.ablation.config import AblationConfig, ArmConfig
    from evaluation.ablation.jobs import Job, Runner
    from evaluation.ablation.stages import Unit

DESCRIPTION = """Trains and measures variants of the method (arms) under one budget (docs/ablation.md).

  imanim ablate --config configs/ablate/plan.yaml --dry-run                  the trainings, who shares them, how long
  imanim ablate --config configs/ablate/plan.yaml jobs=2
  imanim ablate --config configs/ablate/plan.yaml arms=[full,skeleton] seeds=[0,1,2] output=runs/two_arms
  imanim ablate --config configs/ablate/plan.yaml --task 3/8                 a part of it, e.g. in a Slurm array on a shared folder
  imanim ablate --config configs/ablate/plan.yaml --report                   only adds up what is there

Samples are made when they are missing. Trainings that arms have in common run once. The same command again goes on where it
stopped. Writes ablation.json, ablation.md and ablation.png into `output`. One arm's failure does not stop the others. Exit code 1:
something failed or is missing; 75: stopped by a signal, start it again."""


def main(argv: list[str]) -> int:
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    parser.add_argument("--report", action="store_true", help="run nothing, add up what is there")
    parser.add_argument("--task", metavar="I/N", default="1/1", help="only the I-th of N parts of the runs")
    args = cli.parse(parser, argv)

    from evaluation.ablation import config as plans
    from imanim import config

    if args.settings:
        print(config.help_text(plans.AblationConfig))
        return 0
    if args.config is None:
        raise InputError("--config: not given; e.g. --config configs/ablate/plan.yaml")
    plan = config.load(plans.AblationConfig, args.config, args.overrides)
    arms = plans.load_arms(plan.arms, Path(args.config).parent)

    from evaluation.ablation import run, stages
    from evaluation.ablation.jobs import Runner

    output = Path(plan.output).absolute()
    units = stages.units(plan, arms)
    mine = run.share(units, *_task(args.task))
    runner = Runner(output / "jobs", ROOT, lambda line: print(line, flush=True))
    if args.dry_run:
        print("\n".join(run.tree(plan, mine, runner, output)))
        return 0
    if not args.report:
        run.prepare(plan, mine, output)
        _run(runner, run.jobs(plan, mine, output), plan.jobs)
        if runner.stopping:
            return cli.EXIT_REQUEUE
    return _report(plan, arms, units, mine, runner, output)


def _run(runner: Runner, jobs: Sequence[Job], parallel: int) -> None:
    """Runs the jobs with a progress bar; what is told stands above it."""
    from tqdm import tqdm

    with tqdm(total=len(jobs), desc="ablate", unit="job") as bar:

        def say(line: str) -> None:
            bar.write(line)
            bar.update(": started" not in line)

        runner.say = say
        bar.update(sum(runner.is_done(job) for job in jobs))
        runner.run(jobs, parallel)


def _report(
    plan: AblationConfig,
    arms: Mapping[str, ArmConfig],
    units: Sequence[Unit],
    mine: Sequence[Unit],
    runner: Runner,
    output: Path,
) -> int:
    """Adds up all runs, others' too; returns 1 when one of ours is missing."""
    from evaluation.ablation import pages, report
    from imanim.data.files import write_atomic, write_json

    result = report.add_up(plan, arms, units, runner, output)
    write_json(output / report.RESULT, result)
    if result["runs"]:
        write_atomic(output / "ablation.md", pages.markdown(result).encode())
        write_atomic(output / "ablation.png", pages.picture(result))
        print(pages.markdown(result), end="")
    ours = {(unit.arm, unit.seed) for unit in mine}
    lacking = [m for m in result["missing"] if (m["arm"], m["seed"]) in ours]
    for m in lacking:
        print(f"missing: {m['arm']}, seed {m['seed']}: {m['state']} (log: {runner.folder / m['job']}.log)")
    print(f"{output}: {len(result['runs'])} of {len(units)} runs in {report.RESULT}")
    return 1 if lacking else 0


def _task(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    task, tasks = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= task <= tasks:
        raise InputError(f"--task {text}: expected I/N with I from 1 to N, e.g. 2/8")
    return task, tasks


if __name__ == "__main__":
    cli.run(main)
