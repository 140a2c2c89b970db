"""Trains one stage: `deepspeed launchers/train.py --config configs/stage1.yaml data.train=SHARDS [key=value ...]`."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imanim import cli, distributed
from imanim.errors import InputError

DESCRIPTION = """Trains one stage of the model (1 motion tokenizer, 2 retargeter, 3 end to end).

  deepspeed launchers/train.py --config configs/stage1.yaml data.train=shards/
  deepspeed --num_gpus 2 launchers/train.py --config configs/stage2.yaml data.train=shards/ init_from=runs/stage1
  torchrun --nproc_per_node 2 launchers/train.py --config configs/stage3.yaml data.train=shards/ init_from=runs/stage2
  python launchers/train.py --config configs/stage1.yaml data.train=shards/ max_steps=20

The same command again continues from the newest checkpoint, on any number of ranks. SIGTERM or SIGUSR1 (a job that is to be
preempted) finish the step, save and leave with exit code 75: start it again. On Slurm: launchers/slurm/train.sbatch.
`--settings` lists every key=value."""

HEAD_START_SEC = 5.0
"""What every rank finds wrong should be said once, and what one rank finds is not made clearer by the others' broken links."""


def main(argv: list[str]) -> int:
    parser = cli.parser(DESCRIPTION)
    parser.add_argument("--settings", action="store_true", help="list every setting with its default and meaning")
    args = cli.parse(parser, argv)
    here = distributed.prepare_environment()
    try:
        return run(args.config, args.overrides, settings=args.settings, dry_run=args.dry_run, first=here.is_first)
    except InputError:
        if not here.is_first:
            wait_for_the_end()
        raise
    except RuntimeError as error:
        if not distributed.is_lost_peer(error):
            raise
        wait_for_the_end()
        raise InputError(f"rank {here.rank}: another rank has ended; what it printed tells why") from None


def wait_for_the_end() -> None:
    """Leaves the rank that knows what is wrong the time to say it; the launcher that started us all may end us meanwhile."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(HEAD_START_SEC)


def run(path: str | None, overrides: list[str], *, settings: bool, dry_run: bool, first: bool) -> int:
    """Reads the configuration and trains, or only says what training would be."""
    from imanim import config
    from imanim.training.config import TrainConfig

    if settings:
        print(config.help_text(TrainConfig))
        return 0
    if path is None:
        raise InputError("--config: not given; use configs/stage1.yaml, stage2.yaml or stage3.yaml")
    cfg = config.load(TrainConfig, path, overrides)
    from imanim.training import plan

    planned = plan.make(cfg)
    if dry_run:
        if first:
            print(plan.describe(planned))
        return 0
    if planned.start >= cfg.max_steps:
        if first:
            print(
                f"{cfg.output}: already trained for {planned.start} of {cfg.max_steps} steps; raise max_steps to go on"
            )
        return 0
    from imanim.training.loop import train

    preempted = train(planned)
    distributed.stop()
    if not preempted:
        return 0
    # All is saved: a second signal, or a launcher that ends us because another rank was faster, must not change the exit code.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    return cli.EXIT_REQUEUE


if __name__ == "__main__":
    cli.run(main)
