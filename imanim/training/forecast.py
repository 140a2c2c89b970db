"""What a run will need before it is started: parameters, bytes on each GPU, floating-point operations, the least number of GPUs.

A forecast is one traced micro-batch (imanim.training.trace) plus what DeepSpeed holds beside it (imanim.training.zero). It needs no
weights, no data and no GPU. GB is 1e9 bytes. Not in it: validation and pictures (another forward pass, sampling and decoding), a
kernel's own workspace, fragmentation; ``MARGIN`` is for these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from imanim import config
from imanim.config import opt
from imanim.errors import InputError
from imanim.models import sizes as model_sizes
from imanim.models.animator import relocated
from imanim.models.config import AnimatorConfig
from imanim.training import trace, transfer, zero
from imanim.training.config import TrainConfig
from imanim.training.measure import PHASES
from imanim.training.trace import Trace
from imanim.training.zero import FP32, Engine

GB = 1e9
MARGIN, CONTEXT_BYTES = 0.10, 1e9
"""Left free on a GPU: this fraction of the forecast (fragmentation, workspaces), and this much for CUDA and NCCL."""
WORLDS = tuple(2**i for i in range(11))
"""Numbers of GPUs that are tried."""
START, PASS, STEP = PHASES
"""A run's phases. At the start every GPU gets the whole model, before ZeRO cuts it."""


@dataclass
class ForecastConfig(TrainConfig):
    """A training run's settings and the machine it is planned for. Data and weights to start from are not needed."""

    gpus: int = opt(8, "GPUs of the run (ranks)")
    gpu_memory_gb: float = opt(80.0, "memory of each GPU, in GB = 1e9 bytes")
    gpu_tflops: float | None = opt(
        None, "dense peak of one GPU in TFLOP/s: also print a step's time at 40 % of it, e.g. 989 for an H100 in bf16"
    )

    def problems(self) -> list[str]:
        found = [line for line in super().problems() if not line.startswith("init_from:")]
        for name in ("gpus", "gpu_memory_gb", "gpu_tflops"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                found.append(f"{name}: {value} must be above 0")
        if not found and self.gpus % self.sequence_parallel:
            found.append(f"gpus: {self.gpus} is not a multiple of sequence_parallel ({self.sequence_parallel})")
        return found


def load(path: str | None, overrides: Sequence[str]) -> ForecastConfig:
    """As the training launcher reads its settings, with nothing required that only a run needs. Raises ConfigError."""
    return config.load(ForecastConfig, path, overrides, settings={"data": {"train": "(not needed)"}})


def sizes_of(cfg: TrainConfig) -> AnimatorConfig:
    """The model's sizes (see ``transfer.model_config``). Memory and operations do not depend on the attention kernel.

    Raises:
        InputError: there is neither ``model`` nor a folder of weights to read them from.
    """
    try:
        found = transfer.model_config(cfg)
    except InputError as error:
        if cfg.model is not None:
            raise
        names = ", ".join(model_sizes.names())
        raise InputError(
            f"model: not given, and no sizes to be read elsewhere ({error}); give one of {names}"
        ) from None
    return relocated(found, attention="native")


def checkpointed(sizes: AnimatorConfig) -> AnimatorConfig:
    """The same model with gradient checkpointing wherever a part has it."""
    changed: dict[str, Any] = {}
    for part in dataclasses.fields(sizes):
        value = getattr(sizes, part.name)
        if hasattr(value, "gradient_checkpointing"):
            changed[part.name] = dataclasses.replace(cast(Any, value), gradient_checkpointing=True)
    return dataclasses.replace(sizes, **changed)


# --------------------------------------------------------------------------------------------------------- one world


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    Attributes:
        held: kind to bytes that are there all the time (``zero.held``; ``frozen encoders``; ``model buffers``).
        host: the same, offloaded to the machine's memory.
        passing: kind to bytes at the highest moment of the forward and backward pass: ``gathered weights``, ``gradients``,
            ``activations``.
        activations: owner to bytes, at that moment.
        phases: peak of each phase.
    """

    held: dict[str, int]
    host: dict[str, int]
    passing: dict[str, int]
    activations: dict[str, int]
    phases: dict[str, int]

    @property
    def peak(self) -> int:
        return max(self.phases.values())

    @property
    def needed(self) -> float:
        """The peak and what is left free."""
        return self.peak * (1 + MARGIN) + CONTEXT_BYTES


def memory(traced: Trace, engine: Engine) -> Memory:
    """What one rank of ``engine.ranks`` needs for the traced micro-batch."""
    held, host = zero.held(traced, engine)
    outside = {"frozen encoders": sum(traced.frozen.values()) * FP32, "model buffers": traced.buffers}
    held = {**held, **outside}
    live = np.concatenate([traced.live, traced.live[-1:]])
    gathered, gradients = zero.gathered(traced, engine), zero.gradients(traced, engine)
    highest = int((live.sum(1) + gathered + gradients).argmax())
    passing = {
        "gathered weights": int(gathered[highest]),
        "gradients": int(gradients[highest]),
        "activations": int(live[highest].sum()),
    }
    always = sum(held.values())
    phases = {
        START: zero.start(traced, engine) + traced.buffers,
        PASS: always + sum(passing.values()),
        STEP: always + zero.step(traced, engine),
    }
    return Memory(held, host, passing, dict(zip(traced.owners, live[highest].tolist())), phases)


def fits(needs: Memory, gpu_memory_gb: float) -> bool:
    """Whether it fits on GPUs of that size with ``MARGIN`` and ``CONTEXT_BYTES`` left free."""
    return needs.needed <= gpu_memory_gb * GB


def least_gpus(
    traced: Trace, engine: Engine, gpu_memory_gb: float, worlds: Iterable[int] = WORLDS
) -> tuple[int | None, Memory]:
    """The least number of GPUs on which the traced micro-batch fits, each (or each team) with one of its own, and what each needs.

    None when not even the largest world is enough; what each would need there tells why.
    """
    needs: Memory | None = None
    for ranks in worlds:
        if ranks % traced.team:
            continue
        needs = memory(traced, dataclasses.replace(engine, ranks=ranks, accumulation=1))
        if fits(needs, gpu_memory_gb):
            return ranks, needs
    if needs is None:
        raise InputError(f"sequence_parallel: {traced.team} divides none of the numbers of GPUs that are tried")
    return None, needs


# ---------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Choice:
    """The least number of GPUs for a ZeRO stage, as configured or with gradient checkpointing everywhere. ``why`` when none."""

    stage: int
    checkpointing: str
    gpus: int | None
    why: str = ""


@dataclass(frozen=True)
class Forecast:
    """Everything that ``imanim plan`` prints."""

    cfg: ForecastConfig
    sizes: AnimatorConfig
    traced: Trace
    engine: Engine
    memory: Memory
    samples_per_step: int
    choices: list[Choice] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return fits(self.memory, self.cfg.gpu_memory_gb)


def make(cfg: ForecastConfig) -> Forecast:
    """Traces and forecasts the run, and searches for the least number of GPUs; what does not fit is also tried checkpointed.

    Raises:
        InputError: the model's sizes are not known.
    """
    sizes, notes = sizes_of(cfg), _notes(cfg)
    groups = cfg.gpus // cfg.sequence_parallel
    samples = cfg.cut(cfg.gpus)[0] or 1
    per_step = cfg.batch.global_size if cfg.cut(cfg.gpus)[0] else groups
    engine = zero.read(cfg, cfg.gpus)
    engine = dataclasses.replace(engine, accumulation=cfg.cut(cfg.gpus)[1] or 1)
    traced = trace.run(cfg, sizes, samples)
    needs = memory(traced, engine)
    one = traced if samples == 1 else trace.run(cfg, sizes, 1)
    choices = _choices(cfg, one, engine, "as configured")
    everywhere = checkpointed(sizes)
    if not fits(needs, cfg.gpu_memory_gb) and everywhere != sizes:
        choices += _choices(cfg, trace.run(cfg, everywhere, 1), engine, "gradient checkpointing everywhere")
    return Forecast(cfg, sizes, traced, engine, needs, per_step, choices, notes)


def _choices(cfg: ForecastConfig, traced: Trace, engine: Engine, how: str) -> list[Choice]:
    found = []
    for stage in (0, 1, 2, 3):
        other = dataclasses.replace(engine, stage=stage, offload=engine.offload and stage > 0)
        gpus, needs = least_gpus(traced, other, cfg.gpu_memory_gb)
        found.append(Choice(stage, how, gpus, "" if gpus else _why(needs, cfg.gpu_memory_gb)))
    return found


def _why(needs: Memory, gpu_memory_gb: float) -> str:
    """What stands in the way on the largest world."""
    room = (gpu_memory_gb * GB - CONTEXT_BYTES) / (1 + MARGIN)
    alone = {
        "activations alone take": needs.passing["activations"],
        "weights, optimizer and buffers alone take": sum(needs.held.values()),
        "the start alone takes": needs.phases[START],
        "the forward and backward pass takes": needs.phases[PASS],
    }
    what, size = next(((what, size) for what, size in alone.items() if size > room), ("it takes", needs.peak))
    return f"{what} {size / GB:.1f} GB on {WORLDS[-1]} GPUs"


def _notes(cfg: ForecastConfig) -> list[str]:
    notes = []
    groups = cfg.gpus // cfg.sequence_parallel
    if not cfg.cut(cfg.gpus)[0]:
        micro = f" in micro-batches of {cfg.batch.micro_size}" if cfg.batch.micro_size else ""
        what = f"batch.global_size {cfg.batch.global_size} does not divide over {cfg.sharers(cfg.gpus)}{micro}, which "
        what += "training refuses"
        notes.append(f"{what}: planned with one sample a rank, batch.global_size={groups}")
    if cfg.sequence_parallel > 1:
        notes.append(
            f"sequence_parallel: a sample's operations are those of its busiest rank times {cfg.sequence_parallel}; what is not "
            "cut (tokenizer, encoders, joint decoder) runs on every one of them"
        )
    for name in zero.unmodelled(cfg):
        notes.append(f"deepspeed.extra.{name}: its effect on memory is not known here and not in these numbers")
    if cfg.compile:
        notes.append(
            "compile: planned as without; compiled blocks keep other activations, and ZeRO 3 gathers each of them whole"
        )
    if cfg.deepspeed.precision == "autocast_bf16":
        notes.append("autocast_bf16 is traced as on a CPU; a GPU keeps a few more operations in float32")
    return notes


def model_name(cfg: TrainConfig) -> str:
    """What the model is called in a plan's first line."""
    text = cfg.model or cfg.init_from or cfg.output
    return ",".join(Path(part.strip()).name.removesuffix(".yaml") for part in text.split(","))
