"""The training loop, and what is put together before its first step."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from imanim import config, distributed
from imanim.data.files import write_atomic
from imanim.data.stream import Batch
from imanim.errors import InputError
from imanim.models.autoencoder import load_autoencoder
from imanim.models.conditioning import autoencoder_folder, image_encoder
from imanim.models.config import AnimatorConfig
from imanim.training import batches, checkpoint, curriculum, transfer, validation
from imanim.training import engine as engines
from imanim.training.config import TrainConfig
from imanim.training.ema import Ema
from imanim.training.monitor import Monitor
from imanim.training.objective import TrainingModule
from imanim.training.plan import Plan
from imanim.training.stop import Stopper


@dataclass
class Run:
    """Everything a run holds while it trains."""

    cfg: TrainConfig
    sizes: AnimatorConfig
    device: torch.device
    engine: Any
    module: TrainingModule
    ema: Ema | None
    feed: Iterator[Batch]
    validation: list[Batch]
    monitor: Monitor
    stopper: Stopper
    identity: dict[str, Any]
    origin: dict[str, str]
    start: int
    elapsed_sec: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        """Flushes the logs and gives the signals back. What the loader's workers still decode is dropped: they do not hear
        SIGTERM, so after an error the interpreter would wait for them for ever."""
        for worker in multiprocessing.active_children():
            worker.kill()
        self.monitor.close()
        self.stopper.close()


def train(plan: Plan) -> bool:
    """Trains one stage to its end.

    Returns:
        whether it stopped early because of a signal (preemption, the end of a job's time): it wants to be started again.

    Raises:
        InputError: bad data, a loss that is not finite, a full disk; what was saved before stays.
    """
    with assemble(plan) as run:
        for step in range(run.start, run.cfg.max_steps):
            rates = engines.set_learning_rates(run.engine, run.cfg, step)
            accumulate_gradients(run, step)
            norm = take_step(run, step)
            last = run.stopper.stopping or step + 1 == run.cfg.max_steps
            report(run, step, rates, norm, last)
            if last or run.stopper.stopping or _due(run.cfg.monitor.checkpoint_every, step + 1):
                save(run, step + 1)
            if run.stopper.stopping:
                run.monitor.say(
                    f"stopped after step {step + 1} ({run.stopper.reason}); the same command continues from here"
                )
                break
        return run.stopper.preempted


def accumulate_gradients(run: Run, step: int) -> None:
    """Losses and gradients of one step's micro-batches. The ranks agree after each whether to go on."""
    _, accumulation = run.cfg.batch.cut(distributed.place().world_size)
    for micro in range(accumulation):
        waited = time.monotonic()
        batch = batches.to_device(next(run.feed), run.device)
        waited = time.monotonic() - waited
        dice = batches.dice(run.cfg, step, micro)
        losses = run.engine(batches.augment(batch, run.cfg.data.augment, dice), dice, step)
        finite = math.isfinite(float(losses.total.detach()))
        broken, *asked = distributed.any_rank(not finite, *run.stopper.asked(), device=run.device)
        run.stopper.decide(*asked)
        if broken:
            raise _not_finite(run, step, batch["keys"], float(losses.total.detach()))
        run.engine.backward(losses.total)
        if micro < accumulation - 1:
            run.engine.step()  # counts the micro-batch; only the last one of a step reaches the optimizer
        run.monitor.record(losses.total, losses.terms, waited)


def take_step(run: Run, step: int) -> float:
    """The optimizer's step and the moving average's. A gradient that is not finite ends the run before anything is saved.

    Returns the global gradient norm before clipping.
    """
    norm = engines.step(run.engine)
    if not math.isfinite(norm):
        raise InputError(
            f"step {step + 1}: the gradient is not finite (norm {norm}) though the loss was; {_way_out(run.cfg)}"
        )
    if run.ema is not None:
        run.ema.update(step)
    return norm


def report(run: Run, step: int, rates: dict[str, float], norm: float, last: bool) -> None:
    """Logs, validates and draws, each at its interval and all of them at the end. Preempted, it leaves the rest."""
    cfg, done, every = run.cfg, step + 1, run.cfg.monitor
    if last or done % every.log_every == 0:
        run.monitor.log(done, rates, norm, run.engine.skipped_steps)
    if run.validation and _due(every.validate_every, done, last):
        with run.monitor.paused():
            found = validation.measure(run.engine, run.validation, cfg, run.device, step, run.stopper)
            if found is not None:
                run.monitor.validation(done, found)
    if run.validation and _due(every.picture_every, done, last) and not run.stopper.poll(run.device):
        with run.monitor.paused():
            sheets = validation.filmstrips(run.engine, run.module, run.validation[0], cfg, run.device)
            run.monitor.pictures(done, sheets)


def save(run: Run, done: int) -> None:
    """A checkpoint and the exported weights."""
    with run.monitor.paused():
        _save(run, done, run.elapsed_sec + time.monotonic() - run.began)


def _save(run: Run, done: int, elapsed_sec: float) -> None:
    state = {
        "step": done,
        "stage": run.cfg.stage,
        "identity": run.identity,
        "elapsed_sec": elapsed_sec,
        "origin": run.origin,
        **transfer.provenance(run.cfg, run.sizes),
    }
    checkpoint.save(run.engine, run.module.animator, run.cfg.output, state, run.ema, keep=run.cfg.monitor.keep)
    record = {
        "stage": run.cfg.stage,
        "steps": done,
        "samples": done * run.cfg.batch.global_size,
        "minutes": round(elapsed_sec / 60, 2),
        "ema_decay": run.cfg.ema_decay,
        "losses": run.monitor.latest,
        "started_from": run.origin,
        **transfer.provenance(run.cfg, run.sizes),
    }
    transfer.export(run.engine, run.module.animator, run.cfg.output, record, run.ema)


def assemble(plan: Plan) -> Run:
    """Puts a run together: model, processes, engine, data; and goes back to the checkpoint the plan continues from."""
    cfg, sizes, resumed = plan.cfg, plan.sizes, plan.checkpoint
    device = distributed.start()
    if resumed is None:
        animator, origin = transfer.build(cfg, sizes, plan.train)
    else:
        # Under adapters the base's own weights are in no checkpoint.
        adapters = sizes.denoiser.lora_rank > 0 and cfg.parts.denoiser.mode != "absent"
        animator = transfer.build_empty(cfg, sizes, from_base=adapters)
        origin = dict(resumed.state["origin"])
    vae: Any = load_autoencoder(autoencoder_folder(sizes)) if cfg.stage > 1 else None
    encoder = image_encoder(sizes) if cfg.stage == 3 else None
    _prepare_output(plan)
    module = TrainingModule(
        animator, cfg.stage, cfg.objective, total_steps=cfg.max_steps, vae=vae, image_encoder=encoder
    ).to(device)
    engine = engines.build(module, curriculum.parameter_groups(animator, cfg), cfg)
    ema = Ema(animator, cfg.ema_decay) if cfg.ema_decay else None
    if resumed is not None:
        checkpoint.load(engine, animator, resumed, ema)
    held_out = batches.validation_batches(cfg, sizes, plan.validation) if plan.validation else []
    run = Run(
        cfg,
        sizes,
        device,
        engine,
        module,
        ema,
        batches.training_batches(cfg, sizes, plan.train, plan.start),
        held_out,
        Monitor(cfg, device, plan.start, sizes.frames),
        Stopper(cfg.max_minutes),
        plan.identity,
        origin,
        plan.start,
        elapsed_sec=resumed.state["elapsed_sec"] if resumed else 0.0,
    )
    doing = f"continues after step {plan.start}" if resumed else "starts"
    run.monitor.say(
        f"stage {cfg.stage} {doing}: {cfg.max_steps} steps of {cfg.batch.global_size} samples, output {cfg.output}"
    )
    return run


def _prepare_output(plan: Plan) -> None:
    """Makes the run folder and writes the resolved configuration into it."""
    if distributed.place().is_first:
        output = Path(plan.cfg.output)
        output.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_partial(output)
        write_atomic(output / "config.yaml", config.to_yaml(plan.cfg).encode())
    distributed.barrier()


def _due(every: int, done: int, last: bool = False) -> bool:
    return every > 0 and (last or done % every == 0)


def _not_finite(run: Run, step: int, keys: list[str], loss: float) -> InputError:
    """The same error on every rank: which ranks had it and with which samples."""
    mine = None if math.isfinite(loss) else f"rank {distributed.place().rank}: samples {', '.join(keys)}"
    where = "; ".join(text for text in distributed.gather(mine) if text)
    return InputError(f"step {step + 1}: the loss is not finite ({where}); {_way_out(run.cfg)}")


def _way_out(cfg: TrainConfig) -> str:
    newest = checkpoint.newest(cfg.output)
    saved = f"the newest checkpoint is step {newest.step}" if newest else "nothing was saved yet"
    return f"stopped, {saved}; look at these samples, lower optimizer.lr or set optimizer.grad_clip"
