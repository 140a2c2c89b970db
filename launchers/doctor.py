"""Examines this machine: `python launchers/doctor.py [--config configs/stage3.yaml] [data=FOLDER] [output=FOLDER] ...`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli, distributed
from imanim.errors import InputError

DESCRIPTION = """Is this machine ready? Looks at everything a training run needs and says what to fix.

  python launchers/doctor.py data=shards/ output=runs/
  python launchers/doctor.py --config configs/stage3.yaml data.train=shards/ init_from=runs/stage2
  torchrun --nproc_per_node 8 launchers/doctor.py data=shards/
  srun --nodes 2 --ntasks-per-node 8 .venv/bin/python launchers/doctor.py data=shards/     (with MASTER_ADDR and MASTER_PORT set)

A line a check: ok, warning (works, but slowly or not as tested) or problem, what was found, and the remedy. Exit code 1 when there
is a problem. Started as several ranks it tries the links between just these; alone, between two processes (one a GPU where there
are several). With --config it takes every setting of train.py and checks all that training checks. It leaves nothing behind."""

SHORT = {"data": "data.train", "output": "output"}
"""Settings that are known without a configuration, and what training calls them."""


def main(argv: list[str]) -> int:
    args = cli.parse(_parser(), argv)
    if args.time_limit <= 0:
        raise InputError(f"--time-limit {args.time_limit:g}: must be above 0 seconds")
    # Before it sets anything: what is examined is what the user has set.
    found_env = dict(os.environ)
    here = distributed.prepare_environment()
    overrides = _overrides(args)
    if args.dry_run:
        from imanim.doctor import CHECKS

        print(f"would check links, {', '.join(CHECKS)}")
        return 0
    from imanim import doctor
    from imanim.data.files import write_json
    from imanim.doctor import findings

    known = _known(args.config, overrides)
    situation = doctor.Situation(
        config=args.config,
        overrides=overrides,
        data=known.get("data.train"),
        output=Path(known.get("output", "runs")),
        limit_sec=args.time_limit,
        place=here,
        env=found_env,
    )

    def speak(found: list[findings.Finding]) -> None:
        print("\n".join(findings.lines(found)), flush=True)
        if args.json is not None and here.is_first:
            write_json(args.json, findings.to_json(found))

    found = doctor.examine(situation, _progress if here.is_first else lambda name: None, speak)
    return 1 if findings.worst(found) == doctor.PROBLEM else 0


def _overrides(args: argparse.Namespace) -> list[str]:
    """The settings as training takes them. Raises InputError for one that nothing would read."""
    out = []
    for text in args.overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"`{text}`: a setting has the form key=value")
        key = SHORT.get(key, key)
        if args.config is None and key not in SHORT.values():
            raise InputError(
                f"{text}: without --config only data=FOLDER and output=FOLDER are known; add --config FILE"
            )
        out.append(f"{key}={value}")
    return out


def _known(path: str | None, overrides: list[str]) -> dict[str, str]:
    """Where data and output are: as given, else as the configuration says, as far as it can be read."""
    given = dict(text.split("=", 1) for text in overrides)
    if path is None:
        return given
    from imanim import config
    from imanim.training.config import TrainConfig

    try:
        cfg = config.load(TrainConfig, path, overrides)
    except InputError:
        return given  # a check says what is wrong with it
    return {"data.train": cfg.data.train, "output": cfg.output}


def _progress(name: str) -> None:
    """Which check is running, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[Kchecking {name} ...\r", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--json", metavar="FILE", help="also write the findings")
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="SEC", help="for a check or a stage of the links (default 60)"
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
