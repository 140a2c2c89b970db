"""Forecasts what a run needs: `python launchers/plan.py --config configs/stage3.yaml model=wan2.1-14b gpus=8`."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from imanim import cli, config, distributed
from imanim.config import opt, req
from imanim.errors import InputError

DESCRIPTION = """Forecasts a training run: parameters, memory of each GPU, floating-point operations, the least number of GPUs.

  python launchers/plan.py --config configs/stage3.yaml model=wan2.1-14b gpus=8 gpu_memory_gb=80
  python launchers/plan.py --config configs/stage3.yaml model=wan2.1-14b gpus=64 batch.global_size=64 deepspeed.precision=bf16
  deepspeed --num_gpus 2 launchers/plan.py --config configs/stage2.yaml model=tiny --measure
  python launchers/plan.py --validate

It takes every setting of train.py, and gpus, gpu_memory_gb, sequence_parallel, gpu_tflops (`--settings` lists them all). It needs
no weights, no data and no GPU. `--measure` takes three real steps with random weights on this machine, with as many ranks as
are started, and prints forecast and measurement side by side; `--validate` does so for the runs of configs/plan/validation.yaml.
`--dry-run` measures and writes nothing."""

VALIDATION = ROOT / "configs" / "plan" / "validation.yaml"
ALLOWED = 0.15
"""How far a forecast may be from what was measured."""


@dataclass
class RunConfig:
    """One run to be measured."""

    config: str = req("configuration file of the stage")
    ranks: int = opt(1, "processes")
    overrides: list[str] = opt([], "key=value settings of this run")


@dataclass
class ValidationConfig:
    """Runs whose forecasts are compared with measurements."""

    model: str = req("the model's sizes, for all runs")
    runs: list[RunConfig] = req("the runs")
    overrides: list[str] = opt([], "key=value settings of all runs, under a run's own")


def main(argv: list[str]) -> int:
    args = cli.parse(_parser(), argv)
    distributed.prepare_environment()
    if args.validate:
        return validate(args.json, dry_run=args.dry_run)
    if args.settings:
        from imanim.training.forecast import ForecastConfig

        print(config.help_text(ForecastConfig))
        return 0
    if args.config is None:
        raise InputError("--config: not given; use configs/stage1.yaml, stage2.yaml or stage3.yaml")
    from imanim.training import forecast, forecast_report

    cfg = forecast.load(args.config, args.overrides)
    if args.measure and not args.dry_run:
        return measure(cfg, args.json)
    made = forecast.make(cfg)
    print(forecast_report.describe(made))
    if not args.dry_run:
        _write(args.json, forecast_report.to_json(made))
    return 0


def measure(cfg: Any, json_file: str | None) -> int:
    """Real steps on this machine; the first rank prints the peaks beside the forecast of the same world."""
    import torch

    from imanim.training import forecast, trace, zero
    from imanim.training import measure as measuring

    on_gpu = torch.cuda.is_available()
    if cfg.deepspeed.offload and not on_gpu:
        raise InputError(
            "deepspeed.offload: true, but on a CPU what is offloaded and what is not are one memory; measure on a GPU"
        )
    here, sizes = distributed.place(), forecast.sizes_of(cfg)
    peaks = measuring.run(cfg, sizes)
    distributed.stop()
    if not here.is_first:
        return 0
    engine = zero.read(cfg, here.world_size, on_gpu=on_gpu)
    needs = forecast.memory(trace.run(cfg, sizes, cfg.cut(here.world_size)[0]), engine)
    measured = {phase: max(rank[phase] for rank in peaks) for phase in forecast.PHASES}
    rows = {
        **{phase: (needs.phases[phase], measured[phase]) for phase in forecast.PHASES},
        "peak": (needs.peak, max(measured.values())),
    }
    print(f"{'bytes of a rank':<22}{'forecast':>12}{'measured':>12}{'difference':>12}")
    for name, (expected, found) in rows.items():
        print(f"{name:<22}{expected / 1e9:>9.3f} GB{found / 1e9:>9.3f} GB{expected / found - 1:>+12.1%}")
    _write(json_file, {name: {"forecast": expected, "measured": found} for name, (expected, found) in rows.items()})
    return 0


def validate(json_file: str | None, *, dry_run: bool) -> int:
    """Measures every run of the validation list in processes of its own. Returns 1 when a forecast is too far off."""
    cfg = config.load(ValidationConfig, VALIDATION)
    if dry_run:
        print("\n".join(f"would measure {_name(run)}" for run in cfg.runs))
        return 0
    table, worst = [], 0.0
    print(f"{'run':<100}{'forecast':>12}{'measured':>12}{'difference':>12}")
    for run in cfg.runs:
        peaks = _measured_apart(run, cfg)
        expected, found = peaks["peak"]["forecast"], peaks["peak"]["measured"]
        off = expected / found - 1
        worst = max(worst, abs(off))
        print(f"{_name(run):<100}{expected / 1e9:>9.3f} GB{found / 1e9:>9.3f} GB{off:>+12.1%}", flush=True)
        table.append({"config": run.config, "ranks": run.ranks, "overrides": run.overrides, **peaks})
    print(f"largest difference {worst:.1%}; {ALLOWED:.0%} is allowed")
    _write(json_file, {"runs": table})
    return 0 if worst <= ALLOWED else 1


def _measured_apart(run: RunConfig, cfg: ValidationConfig) -> dict[str, dict[str, int]]:
    start = [sys.executable]
    if run.ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(run.ranks)]
    settings = [f"model={cfg.model}", *cfg.overrides, *run.overrides]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "peaks.json"
        command = [*start, "launchers/plan.py", "--measure", "--json", str(result), "--config", run.config, *settings]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode or not result.is_file():
            raise InputError(
                f"{VALIDATION.name}: {run.config} {' '.join(run.overrides)}: could not be measured: {_reason(done.stderr)}"
            )
        return json.loads(result.read_text())


def _reason(said: str) -> str:
    """What a failed process said: its error, which torchrun follows with a report of its own."""
    lines = [line.strip() for line in said.splitlines() if line.strip(" =-\t")]
    errors = [line for line in lines if re.match(r"(\[rank\d+\]: *)?(error:|[\w.]*(Error|Exception)\b)", line)]
    return (errors or lines or ["no message"])[-1]


def _name(run: RunConfig) -> str:
    text = f"{Path(run.config).stem}, {run.ranks} rank{'s' if run.ranks > 1 else ''}, {' '.join(run.overrides)}"
    for prefix in ("deepspeed.", "batch.", "model_settings."):
        text = text.replace(prefix, "")
    return text


def _write(path: str | None, numbers: dict[str, Any]) -> None:
    if path is not None:
        from imanim.data.files import write_json

        write_json(path, numbers)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers")
    parser.add_argument("--measure", action="store_true", help="take real steps on this machine and compare")
    parser.add_argument("--validate", action="store_true", help="measure the runs of configs/plan/validation.yaml")
    parser.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    return parser


if __name__ == "__main__":
    cli.run(main)
