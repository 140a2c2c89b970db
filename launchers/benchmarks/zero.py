"""What ZeRO 3 costs: a training step under it against one without ZeRO, on one rank and on two of this machine.

    python launchers/benchmark.py zero
    python launchers/benchmark.py zero --ranks 1 2 8 --json zero.json

ZeRO 3 is there for models that do not fit otherwise. At the size `tiny`, which this trains, its gathering and scattering
shows at its worst.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from imanim import cli
from imanim.data.files import write_json
from launchers.benchmarks import clips, runs

STAGES = (0, 3)


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns by number of ranks each stage's medians, and ZeRO 3 over ZeRO 0."""
    args = _parser().parse_args(arguments)
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="imanim-zero-") as folder:
        batch = args.batch * max(args.ranks)
        data = Path(args.data) if args.data else clips.write_tiny(Path(folder) / "shards", batch * 4)
        for ranks in args.ranks:

            def side(stage: int, ranks: int = ranks) -> Any:
                def once(turn: int) -> runs.Timed:
                    output = Path(folder) / f"zero{stage}-{ranks}-{turn}"
                    words = runs.settings(
                        data,
                        output,
                        steps=runs.WARM_UP + args.steps,
                        batch=args.batch * ranks,
                        extra=[f"deepspeed.zero_stage={stage}"],
                    )
                    command = [*runs.start(ranks), "launchers/train.py", "--config", "configs/stage3.yaml", *words]
                    return runs.train(command, output)

                return once

            found = runs.in_turns({f"zero_{stage}": side(stage) for stage in STAGES}, args.turns)
            ratios = {name: runs.ratio(found["zero_3"], found["zero_0"], of=name) for name in ("step", "peak")}
            out[f"ranks_{ranks}"] = runs.figures(found) | ratios
            for name, f in runs.figures(found).items():
                print(f"{ranks} ranks, {name}: {f['step_sec']:.3f} s a step, {f['peak_gb']:.2f} GB resident in rank 0")
            print(f"{ranks} ranks, a step under ZeRO 3 over ZeRO 0: {runs.text(ratios['step'])}", flush=True)
    if args.json:
        write_json(args.json, out)
    return out


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--data", metavar="DIR", help="shards of the size `tiny` (default: moving patterns, made for this)")
    p.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of ranks (default 1 2)")
    p.add_argument("--steps", type=int, default=8, help="steps a turn, after two to warm up (default 8)")
    p.add_argument("--batch", type=int, default=2, help="samples a rank and step (default 2)")
    p.add_argument("--turns", type=int, default=3, help="trainings of each side (default 3)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p
