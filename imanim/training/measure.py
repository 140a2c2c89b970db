"""What a run really needs on this machine: the stage's module with random weights under the real engine, on synthetic batches.

Beside a forecast (imanim.training.forecast) it tells how far that can be trusted. Nothing is read or written.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from imanim import distributed, sequence
from imanim.errors import InputError
from imanim.models.config import AnimatorConfig
from imanim.training import batches, curriculum, hollow, transfer
from imanim.training import engine as engines
from imanim.training.config import TrainConfig
from imanim.training.ema import Ema
from imanim.training.objective import TrainingModule

PHASES = ("start", "forward and backward", "optimizer step")
"""A run's phases, whose peaks are kept apart."""

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 65536


class Meter:
    """Peak memory in bytes above what was in use when it was made: a GPU's allocations, else this process's resident memory."""

    def __init__(self, device: torch.device):
        self.device = device
        self.peaks = dict.fromkeys(PHASES, 0)
        if device.type == "cpu":
            _return_freed_memory()
        gc.collect()
        self._reset()
        self._before = self._peak()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The peak within is kept for ``name`` if it is the highest so far."""
        self._reset()
        yield
        self.peaks[name] = max(self.peaks[name], self._peak() - self._before)

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def _reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            CLEAR.write_text("5")  # the peak starts again from what is resident now
        except OSError as error:
            raise InputError(f"{CLEAR}: {error.strerror}; measuring on a CPU needs Linux's /proc") from None


def _return_freed_memory() -> None:
    """Makes glibc give every larger block back when it is freed, so that resident memory is memory in use."""
    libc: Any = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES):
        raise InputError("measuring on a CPU needs glibc's mallopt; measure on a GPU or on another Linux")


def run(cfg: TrainConfig, sizes: AnimatorConfig, steps: int = 3) -> list[dict[str, int]]:
    """Takes a few optimizer steps. Returns every rank's peaks in bytes, by phase (see ``PHASES``). A collective.

    Raises:
        InputError: the batch does not divide over the ranks, or this machine cannot be measured.
    """
    here = distributed.place()
    batches.check_geometry(cfg, here.world_size)
    device = distributed.start()
    _import_what_is_needed()
    meter = Meter(device)
    with meter.phase("start"):
        module, engine = _assemble(cfg, sizes)
        ema = Ema(module.animator, cfg.ema_decay) if cfg.ema_decay else None
    _, accumulation = cfg.cut(here.world_size)
    for step in range(steps):
        engines.set_learning_rates(engine, cfg, step)
        with meter.phase("forward and backward"):
            for micro in range(accumulation):
                _micro_batch(engine, cfg, sizes, device, step, micro)
        with meter.phase("optimizer step"):
            engines.step(engine)
            if ema is not None:
                ema.update(step)
    found = distributed.gather(meter.peaks)
    return list(found)


def _import_what_is_needed() -> None:
    """What importing takes is not the run's."""
    for name in ("torch._dynamo", "deepspeed.runtime.zero.stage3", "deepspeed.runtime.zero.muon.muon_optimizer"):
        importlib.import_module(name)


def _micro_batch(
    engine: Any, cfg: TrainConfig, sizes: AnimatorConfig, device: torch.device, step: int, number: int
) -> None:
    """What ``loop.accumulate_gradients`` does with a micro-batch."""
    micro, accumulation = cfg.cut(distributed.place().world_size)
    dice = batches.dice(cfg, step, number)
    batch = batches.to_device(hollow.batch(sizes, micro, cfg=cfg), device)
    losses = engine(batches.augment(batch, cfg.data.augment, dice), dice, cfg.max_steps)
    engine.backward(losses.total)
    if number < accumulation - 1:
        engine.step()


def _assemble(cfg: TrainConfig, sizes: AnimatorConfig) -> tuple[TrainingModule, Any]:
    """As ``loop.assemble`` does, without weights and data."""
    animator, _ = transfer.once(cfg, sizes, lambda: (transfer.build_empty(cfg, sizes), {}))
    vae = hollow.autoencoder(sizes) if cfg.stage > 1 else None
    encoder: Any = None
    if cfg.stage == 3 and sizes.denoiser.image_dim is not None:
        encoder = hollow.HollowImageEncoder(sizes)
    module = TrainingModule(
        animator, cfg.stage, cfg.objective, total_steps=cfg.max_steps, vae=vae, image_encoder=encoder
    )
    animator.share(sequence.form(cfg.sequence_parallel))
    return module, engines.build(module, curriculum.parameter_groups(animator, cfg), cfg)
