"""Run by test_teams_train.py on several ranks: the same runs, with as many ranks sharing a sample as the name says.

deepspeed --num_gpus N tests/training/teams.py FOLDER TEAM     (FOLDER holds toy.yaml, stage1/, shards/, wan.yaml and base/)
"""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import toy  # noqa: E402
from three_stages import STEPS, run, settings  # noqa: E402

from imanim import distributed  # noqa: E402

FRAMES = 9
ENGINES = [e for e in itertools.product((0, 1, 2, 3), ("fp32", "bf16", "autocast_bf16")) if e != (3, "fp32")]
"""The others than stage 3's own."""
HEADS = {"model_settings.denoiser.heads": 4, "model_settings.denoiser.head_dim": 12}


def main(folder: Path, team: int) -> None:
    """Stage 2 without ZeRO, stage 3 under ZeRO-3, and adapters on an image-to-video base, all from the same weights."""
    distributed.start(timeout_sec=600)
    ranks = distributed.place().world_size
    name = f"{ranks}-ranks-teams-of-{team}"
    common = {"init_from": folder / "stage1", "sequence_parallel": team}
    tiny = {**common, **HEADS, "model": folder / "toy.yaml"}
    run(2, settings(folder, f"stage2-{name}", **tiny, **{"deepspeed.zero_stage": 0}))
    run(3, settings(folder, f"stage3-{name}", **tiny, **{"batch.micro_size": 2, "ema_decay": 0.9}))
    wan = {**common, "model": f"{toy.WAN},{folder / 'wan.yaml'}"}
    run(3, settings(folder, f"wan-{name}", **wan, **{"model_settings.denoiser.gradient_checkpointing": "true"}))
    if ranks <= 2:
        for zero, precision in ENGINES:
            engine = {"deepspeed.zero_stage": zero, "deepspeed.precision": precision}
            short = {"max_steps": 2, "monitor.validate_every": 0, "monitor.checkpoint_every": 0}
            run(3, settings(folder, f"zero-{zero}-{precision}-{name}", **tiny, **engine, **short))
    alone = {**tiny, "batch.micro_size": 1, "ema_decay": 0.9, "sequence_parallel": 1}
    if team > 1:
        go_on_alone(folder, f"stage3-{name}", alone)
    if ranks == 2:
        go_on_alone(folder, "stage3-1-ranks-teams-of-1", alone)
    distributed.stop()


def go_on_alone(folder: Path, whole: str, changed: dict[str, object]) -> None:
    """Continues what a team, or one rank, saved at step 3: every rank with samples of its own."""
    if distributed.place().is_first:
        shutil.copytree(folder / whole, folder / f"{whole}-then-alone")
        shutil.rmtree(folder / f"{whole}-then-alone" / "checkpoints" / f"step-{STEPS:06d}")
    distributed.barrier()
    run(3, settings(folder, f"{whole}-then-alone", **changed))


if __name__ == "__main__":
    distributed.prepare_environment()
    given = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    main(Path(given[0]), int(given[1]))
