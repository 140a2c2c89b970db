"""Makes shards: `python launchers/preprocess.py --config configs/data/videos.yaml input=VIDEOS output=SHARDS`."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli
from imanim.errors import InputError

DESCRIPTION = """Makes shards: from a folder of videos, or from rendered Doubles, as the configuration's `source` says.

  imanim preprocess --config configs/data/videos.yaml input=videos/ output=shards/       everything, on this machine
  imanim preprocess --config configs/data/doubles.yaml output=shards/

The same command again continues: finished work is not redone. `--settings` lists every key=value of the source.

A job of videos in parts, each with the same --config and key=value:
  imanim preprocess plan             lists the files
  imanim preprocess run --task I/N   works on the I-th of N parts (a Slurm array: launchers/slurm/preprocess.sbatch)
  imanim preprocess merge            people, splits, shards, manifest, report
  imanim preprocess verify           every byte and every sample; exit code 1 when something is wrong
  imanim preprocess repair           makes damaged or missing shards again, byte for byte
  imanim preprocess retry-failed     the videos that crashed, hung or ran out of memory, once more
  imanim preprocess report           the report anew
  imanim preprocess publish input=SHARDS to=s3://bucket/set      copies a finished set to object storage"""

VERBS = ("plan", "run", "merge", "verify", "repair", "retry-failed", "report")


def main(argv: list[str]) -> int:
    """Parses, runs, prints what came out."""
    verb = argv[0] if argv and "=" not in argv[0] and not argv[0].startswith("-") else None
    if verb is not None and verb not in (*VERBS, "publish"):
        near = difflib.get_close_matches(verb, (*VERBS, "publish"), n=1)
        raise InputError(
            f"preprocess {verb}: no such verb; {f'did you mean `{near[0]}`?' if near else ', '.join((*VERBS, 'publish'))}"
        )
    args = cli.parse(_parser(), argv[verb is not None :])
    if verb == "publish":
        return _publish(args)
    if args.config is None:
        raise InputError("--config: not given; e.g. --config configs/data/videos.yaml input=videos/ output=shards/")
    from data_pipeline import preprocess

    if args.settings:
        print(preprocess.describe(args.config))
        return 0
    if verb is None:
        made = preprocess.run(args.config, args.overrides, progress=True, dry_run=args.dry_run)
    else:
        made = _verb(verb, args)
    print("\n".join(made.lines()))
    return getattr(made, "exit_code", 0)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(DESCRIPTION)
    parser.add_argument(
        "--settings", action="store_true", help="list every setting of --config's source, with its meaning"
    )
    parser.add_argument("--task", metavar="I/N", help="run: which part, I from 1 to N (default 1/1)")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="run: on a Ray cluster (auto, local, or its address) instead of here"
    )
    parser.add_argument("--quick", action="store_true", help="verify: compare bytes, decode nothing")
    parser.add_argument(
        "--reason", action="append", default=[], help="retry-failed: this reason (repeatable), or `all`"
    )
    return parser


def _verb(verb: str, args: argparse.Namespace) -> Any:
    from data_pipeline import preprocess
    from data_pipeline.jobs import job, plan_file, verifying

    name, config = preprocess.load(args.config, args.overrides)
    if name != "videos":
        raise InputError(f"{verb}: is for videos; {args.config} makes {name}: leave the verb out")
    if args.dry_run:
        return job.run(config, dry_run=True)
    task = plan_file.parse_task(args.task or "1/1")
    verbs: dict[str, Callable[[], Any]] = {
        "plan": lambda: job.plan(config),
        "run": lambda: job.run_task(config, *task, ray=args.ray),
        "merge": lambda: job.merge(config),
        "verify": lambda: verifying.verify(config, quick=args.quick),
        "repair": lambda: verifying.repair(config),
        "retry-failed": lambda: job.retry_failed(config, only=args.reason),
        "report": lambda: job.report(config),
    }
    return verbs[verb]()


def _publish(args: argparse.Namespace) -> int:
    from data_pipeline.jobs import publish
    from imanim import config

    settings = config.load(publish.PublishConfig, args.config, args.overrides)
    print("\n".join(publish.run(settings, dry_run=args.dry_run).lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
