"""Run by test_compiling.py: stage 3 under ZeRO 3, every weight cut, plain and compiled, both also continued from step 2.

python tests/training/compiled.py FOLDER     (FOLDER holds toy.yaml, shards/ and stage2/); writes FOLDER/found.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from every_engine import REPOSITORY, equal, step, whole
from safetensors import safe_open
from three_stages import settings
from torch._dynamo.utils import counters

from imanim import distributed
from imanim.config import load
from imanim.training import loop, plan
from imanim.training.config import TrainConfig

STEPS = 3


def main(folder: Path) -> None:
    distributed.start(timeout_sec=600)
    found = {"plain": train(folder, "plain", False), "compiled": train(folder, "compiled", True)}
    found["compiled"] |= {"graphs": counters["stats"]["unique_graphs"], "breaks": len(counters["graph_break"])}
    (folder / "found.json").write_text(json.dumps(found))
    distributed.stop()


def train(folder: Path, output: str, compiled: bool) -> dict[str, Any]:
    """Losses, gradient norms, what the exported model and the checkpoint are made of, and whether going on gives the same."""
    words = {
        "init_from": folder / "stage2",
        "parts.tokenizer_encoder.mode": "frozen",
        "parts.expression.mode": "absent",
        "compile": compiled,
        "max_steps": STEPS,
        "monitor.validate_every": 0,
        "monitor.picture_every": 0,
        "monitor.keep": 9,
    }
    cfg = load(TrainConfig, REPOSITORY / "configs" / "stage3.yaml", settings(folder, output, **words))
    losses, norms = [], []
    with loop.assemble(plan.make(cfg)) as run:
        for number in range(STEPS):
            if number == STEPS - 1:
                loop.save(run, number)
            norms.append(step(run, number)["all"])
            losses.append(float(run.monitor._sums["loss"]))
        loop.conclude(run, STEPS)
        end = whole(run)
    with loop.assemble(plan.make(cfg)) as run:
        step(run, run.start)
        resumed = run.start == STEPS - 1 and equal(end, whole(run))
    return {"losses": losses, "norms": norms, "names": names(folder / output), "resumed": resumed}


def names(output: Path) -> list[str]:
    """Every tensor of the exported model and of the checkpoint, with its file."""
    found = []
    for path in sorted(output.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found += [f"{path.relative_to(output)} {name}" for name in file.keys()]  # noqa: SIM118  no mapping
    return found


if __name__ == "__main__":
    distributed.prepare_environment()
    main(Path(sys.argv[1]))
