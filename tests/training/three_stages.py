"""Run by test_three_stages.py on two ranks: three stages one after the other, and low-rank adapters on a Wan base; three of these
runs are interrupted and continued.

deepspeed --num_gpus 2 tests/training/three_stages.py FOLDER     (FOLDER holds toy.yaml, shards/, wan.yaml and base/)
deepspeed --num_gpus N tests/training/three_stages.py FOLDER go_on     continues copies of its stage 3 on N ranks
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import toy  # noqa: E402

from imanim import distributed  # noqa: E402
from imanim.config import load  # noqa: E402

STEPS = 6
CONFIGS = REPOSITORY / "configs"


def settings(folder: Path, output: str, **changed: object) -> list[str]:
    """Overrides that make a stage small. Nothing stays whole on a rank: every weight is really cut in two."""
    values: dict[str, object] = {
        "output": folder / output,
        "data.train": folder / "shards",
        "data.workers": 0,
        "max_steps": STEPS,
        "batch.global_size": 4,
        "optimizer.warmup_steps": 2,
        "deepspeed.persistent_elements": 0,
        "monitor.log_every": 1,
        "monitor.validate_every": 3,
        "monitor.validation_batches": 1,
        "monitor.picture_every": 100,
        "monitor.sampling_steps": 2,
        "monitor.checkpoint_every": 3,
        "monitor.tensorboard": False,
    }
    return [f"{key}={value}" for key, value in {**values, **changed}.items()]


def run(stage: int, overrides: list[str]) -> None:
    """What launchers/train.py does, without starting processes anew."""
    from imanim.training import plan
    from imanim.training.config import TrainConfig
    from imanim.training.loop import train

    train(plan.make(load(TrainConfig, CONFIGS / f"stage{stage}.yaml", overrides)))


def interrupt(folder: Path, whole: str, cut: str) -> None:
    """Makes ``cut`` what ``whole`` was after step 3: the newest checkpoint gone, the one before still there."""
    if distributed.place().is_first:
        shutil.copytree(folder / whole, folder / cut)
        shutil.rmtree(folder / cut / "checkpoints" / f"step-{STEPS:06d}")
        shutil.rmtree(folder / cut / "model")
        (folder / cut / "checkpoints" / ".partial-step-000005").mkdir()
    distributed.barrier()


def other_world(folder: Path) -> None:
    """Continues what two ranks saved on as many as there are now, and under another ZeRO stage."""
    distributed.start(timeout_sec=600)
    ranks = distributed.place().world_size
    for stage in (1, 3):
        cut = f"on_{ranks}_zero_{stage}"
        interrupt(folder, "stage3", cut)
        again = {"init_from": folder / "stage2", "ema_decay": 0.9, "deepspeed.zero_stage": stage}
        run(3, settings(folder, cut, **again))
    distributed.stop()


def main(folder: Path) -> None:
    distributed.start(timeout_sec=600)
    model = {"model": folder / "toy.yaml", "monitor.tensorboard": True, "objective.vq_start_fraction": 0.3}
    run(1, settings(folder, "stage1", **model))
    interrupt(folder, "stage1", "stage1_cut")
    run(1, settings(folder, "stage1_cut", **model))
    run(2, settings(folder, "stage2", init_from=folder / "stage1"))
    run(3, settings(folder, "stage3", init_from=folder / "stage2", ema_decay=0.9))
    interrupt(folder, "stage3", "stage3_cut")
    run(3, settings(folder, "stage3_cut", init_from=folder / "stage2", ema_decay=0.9))
    wan = {"model": f"{toy.WAN},{folder / 'wan.yaml'}", "init_from": folder / "stage1"}
    run(3, settings(folder, "wan", **wan))
    interrupt(folder, "wan", "wan_cut")
    run(3, settings(folder, "wan_cut", **wan))
    distributed.stop()


if __name__ == "__main__":
    distributed.prepare_environment()
    given = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    (other_world if given[1:] == ["go_on"] else main)(Path(given[0]))
