"""The training loop, and what is put together before its first step."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from imanim import config, distributed, sequence
from imanim.data.files import write_atomic
from imanim.data.stream import Batch, close, lost_worker
from imanim.errors import InputError, LostRankError
from imanim.models.animator import Animator
from imanim.models.autoencoder import load_autoencoder
from imanim.models.conditioning import autoencoder_folder, image_encoder
from imanim.models.config import AnimatorConfig
from imanim.training import batches, checkpoint, compiling, curriculum, transfer, validation
from imanim.training import engine as engines
from imanim.training.config import TrainConfig
from imanim.training.ema import Ema
from imanim.training.guard import Guard
from imanim.training.monitor import Monitor
from imanim.training.objective import TrainingModule
from imanim.training.plan import Plan
from imanim.training.stop import Stopper
from imanim.training.watch import Watch


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
    guard: Guard
    watch: Watch
    writer: checkpoint.Writer
    identity: dict[str, Any]
    origin: dict[str, str]
    start: int
    elapsed_sec: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Flushes the logs and gives the signals back. Workers of the loader that hang are killed: they do not hear SIGTERM, so
        the interpreter would wait for them for ever."""
        close(self.feed)
        for worker in multiprocessing.active_children():
            worker.kill()
        self.monitor.close()
        self.stopper.close()
        gone = self.watch.missing() if error is not None and distributed.is_lost_peer(error) else None
        self.watch.close()
        if gone is not None:
            raise LostRankError(
                f"rank {distributed.place().rank}: {gone}; the same command continues from the newest checkpoint"
            ) from None
        if (told := compiling.failure(error)) is not None:
            raise told from None
        if (lost := lost_worker(error)) is not None:
            raise InputError(
                f"rank {distributed.place().rank}: {lost} Most often memory ran out (the kernel's log says so), or "
                "/dev/shm: fewer data.workers; the same command continues from the newest checkpoint"
            ) from None


def train(plan: Plan) -> bool:
    """Trains one stage to its end.

    Returns:
        whether it stopped early because of a signal (preemption, the end of a job's time): it wants to be started again.

    Raises:
        InputError: bad data, losses that are not finite (NotFiniteError), a rank that has ended (LostRankError), a full disk; what
            was saved before stays.
    """
    with assemble(plan) as run:
        for step in range(run.start, run.cfg.max_steps):
            rates = engines.set_learning_rates(run.engine, run.cfg, step)
            accumulate_gradients(run, step)
            norms = take_step(run, step)
            last = run.stopper.stopping or step + 1 == run.cfg.max_steps
            report(run, step, rates, norms, last)
            if last or run.stopper.stopping or _due(run.cfg.monitor.checkpoint_every, step + 1):
                save(run, step + 1)
            if run.stopper.stopping:
                run.monitor.say(
                    f"stopped after step {step + 1} ({run.stopper.reason}); the same command continues from here"
                )
                break
        conclude(run, step + 1)
        return run.stopper.preempted


def accumulate_gradients(run: Run, step: int) -> None:
    """Losses and gradients of one step's micro-batches. With each, the ranks tell each other how they fare."""
    _, accumulation = run.cfg.cut(distributed.place().world_size)
    run.guard.begin()
    for micro in range(accumulation):
        run.watch.mark("waits for its next batch")
        waited = time.monotonic()
        batch = batches.to_device(next(run.feed), run.device)
        waited = time.monotonic() - waited
        run.watch.mark("is in a forward or backward pass")
        dice = batches.dice(run.cfg, step, micro)
        losses = run.engine(batches.augment(batch, run.cfg.data.augment, dice), dice, step)
        told = (float(losses.total.detach()), *run.stopper.asked(), run.writer.condition)
        everybodys, asked, signalled, writing = distributed.tell(*told, device=run.device)
        run.stopper.decide(any(asked), any(signalled))
        run.writer.settle(writing)
        run.engine.backward(run.guard.look(batch, losses, everybodys))
        if micro < accumulation - 1:
            run.engine.step()  # counts the micro-batch; only the last one of a step reaches the optimizer
        if run.guard.fine:
            run.monitor.record(losses.total, losses.terms, waited, batches.shape(batch))


def take_step(run: Run, step: int) -> dict[str, float]:
    """The optimizer's step and the moving average's, unless a loss or gradient was not finite.

    Returns the gradient norms before clipping: ``all``, and each part's when this step is logged.
    """
    run.watch.mark("is in the optimizer's step")
    norms: dict[str, float] = {}
    if _due(run.cfg.monitor.log_every, step + 1):
        norms = engines.gradient_norms(run.engine, run.module.animator.parameter_parts(), run.device)
    norms["all"] = engines.step(run.engine)
    if run.guard.passes(step, norms["all"]):
        if run.ema is not None:
            run.ema.update(step)
        if (warning := run.guard.spike(step)) is not None:
            run.monitor.say(warning)
    return norms


def report(run: Run, step: int, rates: dict[str, float], norms: dict[str, float], last: bool) -> None:
    """Logs, validates and draws, each at its interval and all of them at the end. Preempted, it leaves the rest."""
    done, every = step + 1, run.cfg.monitor
    if last or done % every.log_every == 0:
        run.monitor.log(done, rates, norms, {"skipped_steps": run.guard.skipped, "loss_spikes": run.guard.spikes})
    if run.validation and _due(every.validate_every, done, last):
        with run.monitor.paused(), averaged(run):
            found = validation.measure(run, step)
            if found is not None:
                run.monitor.validation(done, found)
    if run.validation and _due(every.picture_every, done, last) and not run.stopper.poll(run.device):
        run.watch.mark("draws pictures")
        with run.monitor.paused(), averaged(run):
            run.monitor.pictures(done, validation.filmstrips(run))


def averaged(run: Run) -> AbstractContextManager[None]:
    """The weights that are exported, in the model while the context lasts: their moving average, if there is one."""
    return nullcontext() if run.ema is None else run.ema.in_place(run.engine)


def save(run: Run, done: int) -> None:
    """Begins a checkpoint; it is written while the next steps are taken."""
    run.watch.mark("copies a checkpoint")
    with run.monitor.paused():
        run.writer.finish(run.device)
        state = {
            "step": done,
            "stage": run.cfg.stage,
            "identity": run.identity,
            "elapsed_sec": run.elapsed_sec + time.monotonic() - run.began,
            "origin": run.origin,
            "guard": run.guard.state(),
            **transfer.provenance(run.cfg, run.sizes),
        }
        run.writer.take(run.engine, run.module.animator, state, run.ema)


def conclude(run: Run, done: int) -> None:
    """Waits for the last checkpoint, and exports the weights; not when preempted: that job has seconds."""
    run.watch.mark("waits for its checkpoint to be written")
    run.writer.finish(run.device)
    if run.stopper.preempted:
        return
    run.watch.mark("exports the weights")
    record = {
        "stage": run.cfg.stage,
        "steps": done,
        "samples": done * run.cfg.batch.global_size,
        "minutes": round((run.elapsed_sec + time.monotonic() - run.began) / 60, 2),
        "ema_decay": run.cfg.ema_decay,
        "losses": run.monitor.latest,
        "started_from": run.origin,
        **transfer.provenance(run.cfg, run.sizes),
    }
    transfer.export(run.engine, run.module.animator, run.cfg.output, record, run.ema)


def assemble(plan: Plan) -> Run:
    """Puts a run together: model, processes, engine, data; and goes back to the checkpoint the plan continues from."""
    cfg, sizes, resumed = plan.cfg, plan.sizes, plan.checkpoint
    # The watch ends a run that hangs, and says why; the process group's own limit only comes after it.
    device = distributed.start(timeout_sec=2 * cfg.failures.timeout_sec + 60)
    if cfg.compile:
        compiling.check(device)
    if resumed is None:
        animator, origin = transfer.once(cfg, sizes, lambda: transfer.build(cfg, sizes, plan.train))
    else:
        # Under adapters the base's own weights are in no checkpoint.
        adapters = sizes.denoiser.lora_rank > 0 and cfg.parts.denoiser.mode != "absent"
        known = dict(resumed.state["origin"])
        animator, origin = transfer.once(
            cfg, sizes, lambda: (transfer.build_empty(cfg, sizes, from_base=adapters), known)
        )
    vae: Any = load_autoencoder(autoencoder_folder(sizes)) if cfg.stage > 1 else None
    encoder = image_encoder(sizes) if cfg.stage == 3 else None
    _prepare_output(plan)
    monitor = Monitor(cfg, sizes, device, plan.start)  # before the engine: it may trace the model
    # The engine moves it to the GPU, in the precision that it has there: half the memory in bf16.
    module = TrainingModule(
        animator, cfg.stage, cfg.objective, total_steps=cfg.max_steps, vae=vae, image_encoder=encoder
    )
    animator.share(sequence.form(cfg.sequence_parallel))
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
        monitor,
        Stopper(cfg.max_minutes),
        Guard(cfg.failures, cfg.output, _moving(animator)),
        Watch(cfg.failures.timeout_sec),
        checkpoint.Writer(cfg.output, keep=cfg.monitor.keep),
        plan.identity,
        origin,
        plan.start,
        elapsed_sec=resumed.state["elapsed_sec"] if resumed else 0.0,
    )
    if resumed is not None:
        run.guard.load(resumed.state["guard"])
    run.watch.begin()
    doing = f"continues after step {plan.start}" if resumed else "starts"
    run.monitor.say(
        f"stage {cfg.stage} {doing}: {cfg.max_steps} steps of {cfg.batch.global_size} samples, output {cfg.output}"
    )
    return run


def _moving(animator: Animator) -> dict[str, torch.Tensor]:
    """The buffers that a training forward pass changes: a codebook that trains."""
    return dict(animator.part("codebook").named_buffers()) if animator.modes.get("codebook") == "train" else {}


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
