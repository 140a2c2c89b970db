"""A training step of ours against a plain loop of diffusers' model and accelerate.

    python launchers/benchmark.py step
    python launchers/benchmark.py step --data shards/ --steps 20 --turns 5 --json step.json

Both train stage 3 of the packaged model on the same samples with the same loss, in float32, on one rank: ours through
launchers/train.py (DeepSpeed without ZeRO, guard, watch, log), the other in launchers/benchmarks/plain.py (accelerate's
prepare, backward, clipping; torch's AdamW and DataLoader). The time to the first step counts from starting the process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from imanim import cli
from imanim.data.files import write_json
from launchers.benchmarks import clips, runs


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns the figures: each side's medians, and ours over the plain loop's."""
    args = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="imanim-step-") as folder:
        data = Path(args.data) if args.data else clips.write_tiny(Path(folder) / "shards", args.batch * 4)

        def side(*command: str) -> Any:
            def once(turn: int) -> runs.Timed:
                output = Path(folder) / f"{Path(command[-1]).stem}-{turn}"
                words = runs.settings(
                    data, output, steps=runs.WARM_UP + args.steps, batch=args.batch, extra=["deepspeed.zero_stage=0"]
                )
                return runs.train([sys.executable, *command, "--config", "configs/stage3.yaml", *words], output)

            return once

        sides = {"ours": side("launchers/train.py"), "plain": side("-m", "launchers.benchmarks.plain")}
        found = runs.in_turns(sides, args.turns)
    what = {"step": "step", "first": "time to the first step", "peak": "peak memory"}
    out: dict[str, Any] = runs.figures(found)
    out |= {name: runs.ratio(found["ours"], found["plain"], of=name) for name in what}
    for name in sides:
        f = out[name]
        print(
            f"{name:<6} {f['step_sec']:.3f} s a step, first step after {f['first_step_sec']:.1f} s, {f['peak_gb']:.2f} GB resident"
        )
    print("\n".join(f"{words}, ours over plain: {runs.text(out[name])}" for name, words in what.items()))
    if args.json:
        write_json(args.json, out)
    return out


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--data", metavar="DIR", help="shards of the size `tiny` (default: moving patterns, made for this)")
    p.add_argument("--steps", type=int, default=12, help="steps a turn, after two to warm up (default 12)")
    p.add_argument("--batch", type=int, default=4, help="samples a step (default 4)")
    p.add_argument("--turns", type=int, default=3, help="trainings of each side (default 3)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p
