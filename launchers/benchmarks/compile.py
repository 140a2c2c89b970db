"""What torch.compile brings: a training step with `compile=true` against one without.

    python launchers/benchmark.py compile
    python launchers/benchmark.py compile --zero 0 3 --precision bf16 --json compile.json

Stage 3 of the packaged model through launchers/train.py, both sides with the same samples. Each compiled training starts with an
empty cache of its own, so the time to the first step holds all that compiling takes, as on a machine that has never done it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from imanim import cli
from imanim.data.files import write_json
from launchers.benchmarks import clips, runs


def run(arguments: list[str]) -> dict[str, Any]:
    """Measures, prints, returns by ZeRO stage each side's medians, and compiled over not."""
    args = _parser().parse_args(arguments)
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="imanim-compile-") as folder:
        data = Path(args.data) if args.data else clips.write_tiny(Path(folder) / "shards", args.batch * 4)
        for stage in args.zero:

            def side(compiled: bool, stage: int = stage) -> Any:
                def once(turn: int) -> runs.Timed:
                    output = Path(folder) / f"zero{stage}-{compiled}-{turn}"
                    extra = [f"deepspeed.zero_stage={stage}", f"deepspeed.precision={args.precision}"]
                    words = runs.settings(
                        data,
                        output,
                        steps=runs.WARM_UP + args.steps,
                        batch=args.batch,
                        extra=[*extra, f"compile={str(compiled).lower()}"],
                    )
                    command = [*runs.start(), "launchers/train.py", "--config", "configs/stage3.yaml", *words]
                    return runs.train(["env", f"TORCHINDUCTOR_CACHE_DIR={output}-cache", *command], output)

                return once

            found = runs.in_turns({"compiled": side(True), "plain": side(False)}, args.turns)
            ratios = {of: runs.ratio(found["compiled"], found["plain"], of=of) for of in ("step", "first", "peak")}
            out[f"zero_{stage}"] = runs.figures(found) | ratios
            _print(f"ZeRO {stage}, {args.precision}", out[f"zero_{stage}"])
    if args.json:
        write_json(args.json, out)
    return out


def _print(what: str, found: dict[str, Any]) -> None:
    for name in ("compiled", "plain"):
        f = found[name]
        print(
            f"{what}, {name}: {f['step_sec']:.3f} s a step, first step after {f['first_step_sec']:.1f} s, "
            f"{f['peak_gb']:.2f} GB resident"
        )
    for name, words in {"step": "step", "first": "time to the first step", "peak": "peak memory"}.items():
        print(f"{what}, {words}, compiled over plain: {runs.text(found[name])}", flush=True)


def _parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__ or "", config=False)
    p.add_argument("--data", metavar="DIR", help="shards of the size `tiny` (default: moving patterns, made for this)")
    p.add_argument("--zero", type=int, nargs="+", default=[0, 3], help="ZeRO stages (default 0 3)")
    p.add_argument("--precision", default="fp32", help="fp32 (default), autocast_bf16 or bf16")
    p.add_argument("--steps", type=int, default=12, help="steps a turn, after two to warm up (default 12)")
    p.add_argument("--batch", type=int, default=4, help="samples a step (default 4)")
    p.add_argument("--turns", type=int, default=3, help="trainings of each side (default 3)")
    p.add_argument("--json", metavar="FILE", help="also write the figures there")
    return p
