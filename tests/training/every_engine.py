"""Run by test_every_engine.py on one and on two ranks: every ZeRO stage with every precision, and what must hold in each.

deepspeed --num_gpus N tests/training/every_engine.py FOLDER     (FOLDER holds toy.yaml and shards/); writes FOLDER/found-N.json
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import torch  # noqa: E402
from three_stages import settings  # noqa: E402

from imanim import distributed  # noqa: E402
from imanim.config import load  # noqa: E402
from imanim.training import engine as engines  # noqa: E402
from imanim.training import loop, plan  # noqa: E402
from imanim.training.config import TrainConfig  # noqa: E402

DECAY = 0.9


def main(folder: Path) -> None:
    distributed.start(timeout_sec=600)
    ranks = distributed.place().world_size
    found = {}
    for name, engine in engines_by_name().items():
        output = f"run-{ranks}-{name.replace(', ', '-').replace(' ', '-')}"
        found[name] = examine(folder, output, {f"deepspeed.{key}": value for key, value in engine.items()})
    if distributed.place().is_first:
        (folder / f"found-{ranks}.json").write_text(json.dumps(found))
    distributed.stop()


def engines_by_name() -> dict[str, dict[str, Any]]:
    """Their settings."""
    every = [{"zero_stage": z, "precision": p} for z in (0, 1, 2, 3) for p in ("fp32", "bf16", "autocast_bf16")]
    every += [{**e, "offload": "true"} for e in every if e["zero_stage"] > 0 and e["precision"] != "autocast_bf16"]
    return {f"zero {e['zero_stage']}, {e['precision']}" + (", offload" if "offload" in e else ""): e for e in every}


def examine(folder: Path, output: str, engine: dict[str, Any]) -> dict[str, Any]:
    """Three steps, the second one spoilt, watched from outside; then the same run continued after the second."""
    overrides = settings(
        folder,
        output,
        **{"model": folder / "toy.yaml", "max_steps": 3, "ema_decay": DECAY, "objective.vq_start_fraction": 0},
        **{**engine, "monitor.validate_every": 0},
    )
    cfg = load(TrainConfig, REPOSITORY / "configs" / "stage1.yaml", overrides)
    with loop.assemble(plan.make(cfg)) as run:
        average = whole(run)
        first = step(run, 0)
        parts = math.hypot(*(value for name, value in first.items() if name != "all")) / first["all"]
        average = follow(average, whole(run), 0)
        before, codes = whole(run), run.module.animator.codebook.sums.clone()
        spoil_next(run)
        second = step(run, 1)
        unchanged = equal(before, whole(run)) and torch.equal(codes, run.module.animator.codebook.sums)
        loop.save(run, 2)
        step(run, 2)
        average = follow(average, whole(run), 2)
        off = max(
            float(
                (engines.whole(p, run.ema.shards[name]).double() - average[name]).abs().max()
                / average[name].abs().max()
            )
            for name, p in trained(run).items()
        )
        computed = {name: value.clone() for name, value in computing(run).items()}
        with run.ema.in_place(run.engine):
            placed = computing(run)
        kept = {n: engines.whole(p, run.ema.shards[n]).to(placed[n].dtype) for n, p in trained(run).items()}
        swapped = equal(placed, kept) and not equal(placed, computed)
        back = equal(computed, computing(run))
        run.writer.finish(run.device)
        uninterrupted = whole(run)
    planned = plan.make(cfg)
    with loop.assemble(planned) as run:
        started = planned.start
        step(run, 2)
        resumed = equal(uninterrupted, whole(run))
        skipped = run.guard.skipped
    return {
        "parts_over_all": parts,
        "norm_of_the_spoilt": second["all"] if math.isfinite(second["all"]) else "not finite",
        "unchanged": unchanged,
        "average_off": off,
        "swapped": swapped,
        "back": back,
        "started": started,
        "resumed": resumed,
        "skipped": skipped,
    }


def step(run: loop.Run, number: int) -> dict[str, float]:
    engines.set_learning_rates(run.engine, run.cfg, number)
    loop.accumulate_gradients(run, number)
    return loop.take_step(run, number)


def spoil_next(run: loop.Run) -> None:
    """The last rank's next batch has a NaN in it."""
    feed = run.feed
    batch = next(feed)
    if distributed.place().rank == distributed.place().world_size - 1:
        batch["driving"][0, 0, 0, 0, 0] = math.nan
        batch["target"][:] = math.nan
    run.feed = itertools.chain([batch], feed)


def trained(run: loop.Run) -> dict[str, Any]:
    return {name: p for name, p in run.module.animator.named_parameters() if p.requires_grad}


def whole(run: loop.Run) -> dict[str, torch.Tensor]:
    """The trained weights in full precision."""
    return {n: engines.whole(p, engines.local_master(p)).detach().double().clone() for n, p in trained(run).items()}


def computing(run: loop.Run) -> dict[str, torch.Tensor]:
    """The weights the model computes with, whole."""
    import deepspeed

    found = {}
    for name, p in trained(run).items():
        if hasattr(p, "ds_id"):
            with deepspeed.zero.GatheredParameters([p]):
                found[name] = p.data.clone()
        else:
            found[name] = p.data.clone()
    return found


def follow(average: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    """The moving average's definition, in double precision and over whole weights."""
    decay = min(DECAY, (1 + number) / (10 + number))
    return {name: decay * average[name] + (1 - decay) * weights[name] for name in average}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


if __name__ == "__main__":
    distributed.prepare_environment()
    given = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    main(Path(given[0]))
