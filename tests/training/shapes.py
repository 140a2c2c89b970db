"""Run by test_buckets.py on two ranks: three stages over samples of several shapes; the last is interrupted and continued.

deepspeed --num_gpus 2 tests/training/shapes.py FOLDER     (FOLDER holds toy.yaml and shards/)
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from three_stages import interrupt, run, settings

from imanim import distributed


def main(folder: Path) -> None:
    distributed.start(timeout_sec=600)
    common = {"data.buckets": True, "monitor.log_every": 1, "monitor.picture_every": 6, "monitor.picture_samples": 1}
    run(1, settings(folder, "stage1", model=folder / "toy.yaml", **common))
    run(2, settings(folder, "stage2", init_from=folder / "stage1", **common))
    third = {"init_from": folder / "stage2", **common}
    run(3, settings(folder, "stage3", **third))
    interrupt(folder, "stage3", "cut")
    run(3, settings(folder, "cut", **third))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[-1]))  # before it stands what the launcher adds
