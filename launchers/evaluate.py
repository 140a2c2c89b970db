"""Measures a model: `python launchers/evaluate.py --config configs/eval/cross_identity.yaml data=SHARDS model=RUN`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli

DESCRIPTION = """Measures how well a model makes unseen people perform unseen motions, beside training-free baselines.

  python launchers/evaluate.py --config configs/eval/cross_identity.yaml data=shards/ model=runs/stage3
  python launchers/evaluate.py --config configs/eval/cross_identity.yaml data=shards/ levels=[L3] video_clips=20

Writes result.json (a row a clip, protocol, sha256 of the weights), report.html and some videos. `--settings` lists every
key=value."""


def main(argv: list[str]) -> int:
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    args = cli.parse(parser, argv)

    from evaluation.benchmark import EvalConfig, evaluate
    from imanim import config
    from imanim.data.files import write_atomic
    from imanim.data.shards import ShardSet
    from imanim.inference import find_model

    if args.settings:
        print(config.help_text(EvalConfig))
        return 0
    cfg = config.load(EvalConfig, args.config, args.overrides)
    if args.dry_run:
        counts = ", ".join(f"{len(ShardSet(cfg.data, split))} clips of {split}" for split in cfg.splits)
        print(f"would measure {find_model(cfg.model)} on {counts} and write {cfg.output}")
        return 0
    started = time.monotonic()
    result = evaluate(cfg)
    from evaluation.report import evaluation_page

    page = Path(cfg.output) / "report.html"
    write_atomic(page, evaluation_page(result, cfg.output).encode())
    for name, group in result["groups"].items():
        print(f"{name}: {group['verdict']}")
    print(f"{page} and result.json written in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    cli.run(main)
