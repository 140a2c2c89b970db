"""A forecast as a table on one screen, and as numbers for another program."""

from __future__ import annotations

from typing import Any

from imanim.training.forecast import CONTEXT_BYTES, GB, MARGIN, Choice, Forecast, model_name
from imanim.training.trace import KINDS, OUTSIDE

MILLION, GIGA, TERA = 1e6, 1e9, 1e12
SHOWN = 0.005
"""Smaller numbers of GB would print as zero."""
EXPECTED_UTILISATION = 0.4
"""Share of a GPU's peak that a well-tuned run reaches: what ``gpu_tflops`` is multiplied by."""


def describe(forecast: Forecast) -> str:
    """Parts, one GPU's memory and the verdict, operations, the least number of GPUs, what to know."""
    blocks = [_parts(forecast), _memory(forecast), _operations(forecast), _choices(forecast)]
    return "\n\n".join([*blocks, *(f"note: {note}" for note in forecast.notes)])


def to_json(forecast: Forecast) -> dict[str, Any]:
    """Everything :func:`describe` prints, in bytes, elements and operations."""
    traced, needs = forecast.traced, forecast.memory
    return {
        "model": model_name(forecast.cfg),
        "stage": forecast.cfg.stage,
        "gpus": forecast.cfg.gpus,
        "gpu_memory_bytes": forecast.cfg.gpu_memory_gb * GB,
        "zero_stage": forecast.engine.stage,
        "precision": forecast.cfg.deepspeed.precision,
        "samples_per_rank": traced.samples,
        "samples_per_step": forecast.samples_per_step,
        "parameters": parameters(forecast),
        "held_bytes": needs.held,
        "host_bytes": needs.host,
        "passing_bytes": needs.passing,
        "activation_bytes": needs.activations,
        "phase_bytes": needs.phases,
        "peak_bytes": needs.peak,
        "needed_bytes": needs.needed,
        "fits": forecast.fits,
        "sequence_parallel": traced.team,
        "operations_per_sample": {kind: traced.total_flops(kind) * traced.team / traced.samples for kind in KINDS},
        "operations_per_step": traced.total_flops() * traced.team / traced.samples * forecast.samples_per_step,
        "least_gpus": [vars(choice) for choice in forecast.choices],
        "notes": forecast.notes,
    }


def parameters(forecast: Forecast) -> dict[str, dict[str, int]]:
    """Part or encoder outside of the engine to its ``trained`` and ``frozen`` parameters."""
    counts: dict[str, dict[str, int]] = {}
    for part in forecast.cfg.parts.built():
        own = [w for w in forecast.traced.weights if w.part == part]
        counts[part] = {
            "trained": sum(w.elements for w in own if w.trained),
            "frozen": sum(w.elements for w in own if not w.trained),
        }
    return counts | {name: {"trained": 0, "frozen": n} for name, n in forecast.traced.frozen.items()}


def _parts(forecast: Forecast) -> str:
    cfg, sizes, traced = forecast.cfg, forecast.sizes, forecast.traced
    counts = parameters(forecast)
    activations, flops = forecast.memory.activations, traced.flops
    lines = [
        f"stage {cfg.stage} of {model_name(cfg)}: {sizes.width}x{sizes.height}, {sizes.frames} frames",
        f"{'part':<20}{'parameters':>14}{'trained':>14}{'frozen':>14}{'activations':>14}{'a sample':>16}",
    ]
    for name in [*counts, *(other for other in OUTSIDE if other not in counts and activations[other] >= SHOWN * GB)]:
        count = counts.get(name, {"trained": 0, "frozen": 0})
        operations = _flop(sum(flops[kind][name] for kind in KINDS) * traced.team / traced.samples)
        whole = "".join(
            f"{n / MILLION:>12.2f} M" if n else f"{'-':>14}" for n in (sum(count.values()), *count.values())
        )
        lines.append(f"{name:<20}{whole}{activations[name] / GB:>11.2f} GB{operations:>16}")
    trained, frozen = (sum(c[kind] for c in counts.values()) for kind in ("trained", "frozen"))
    total = "".join(f"{n / MILLION:>12.2f} M" for n in (trained + frozen, trained, frozen))
    operations = _flop(traced.total_flops() * traced.team / traced.samples)
    lines.append(f"{'all':<20}{total}{sum(activations.values()) / GB:>11.2f} GB{operations:>16}")
    return "\n".join(lines)


def _memory(forecast: Forecast) -> str:
    cfg, needs, engine = forecast.cfg, forecast.memory, forecast.engine
    how = f"ZeRO-{engine.stage}, {cfg.deepspeed.precision}{', offload' if engine.offload else ''}"
    if cfg.sequence_parallel > 1:
        how += f", sequence over {cfg.sequence_parallel}"
    samples = f"{forecast.traced.samples} sample{'s' if forecast.traced.samples > 1 else ''} at once"
    lines = [f"each of {cfg.gpus} GPUs of {cfg.gpu_memory_gb:g} GB ({how}, {samples})"]
    kinds = {**needs.held, **{("gradients and copies" if k == "gradients" else k): v for k, v in needs.passing.items()}}
    shown = [(kind, size) for kind, size in kinds.items() if size >= SHOWN * GB]
    cells = [f"  {kind:<22}{size / GB:>8.2f} GB" for kind, size in shown]
    half = -(-len(cells) // 2)
    lines += ["    ".join(pair) for pair in zip(cells[:half], [*cells[half:], *[""] * half])]
    lines.append("  peak: " + ", ".join(f"{name} {size / GB:.2f} GB" for name, size in needs.phases.items()))
    verdict = "fits" if forecast.fits else "DOES NOT FIT"
    spare = f"{MARGIN:.0%} and {CONTEXT_BYTES / GB:g} GB for CUDA, NCCL and fragmentation"
    lines.append(f"  needed: {needs.needed / GB:.2f} GB with {spare}: {verdict} in {cfg.gpu_memory_gb:g} GB")
    if any(needs.host.values()):
        lines.append(f"  offloaded to the machine's memory: {sum(needs.host.values()) / GB:.2f} GB a rank")
    whole = sum(w.elements for w in forecast.traced.weights) * 4 / GB
    lines.append(
        f"  the first rank's memory while a run starts: {whole:.2f} GB, the model in float32; other ranks read nothing"
    )
    return "\n".join(line.rstrip() for line in lines)


def _operations(forecast: Forecast) -> str:
    traced, cfg = forecast.traced, forecast.cfg
    each = {kind: traced.total_flops(kind) * traced.team / traced.samples for kind in KINDS}
    step = sum(each.values()) * forecast.samples_per_step
    model = step - each["recomputed"] * forecast.samples_per_step
    lines = [
        "operations of a sample: " + ", ".join(f"{kind} {_flop(n)}" for kind, n in each.items() if n),
        f"a step of {forecast.samples_per_step} samples: {_flop(step)}, without recomputing {_flop(model)}",
    ]
    if cfg.gpu_tflops is not None:
        seconds = model / (cfg.gpus * cfg.gpu_tflops * TERA * EXPECTED_UTILISATION)
        lines[-1] += f"; {seconds:.2f} s at {EXPECTED_UTILISATION:.0%} of {cfg.gpu_tflops:g} TFLOP/s a GPU"
    return "\n".join(lines)


def _flop(operations: float) -> str:
    return f"{operations / TERA:.2f} TFLOP" if operations >= 0.1 * TERA else f"{operations / GIGA:.2f} GFLOP"


def _choices(forecast: Forecast) -> str:
    lines = [f"least GPUs of {forecast.cfg.gpu_memory_gb:g} GB, one sample a rank"]
    ways = dict.fromkeys(choice.checkpointing for choice in forecast.choices)
    for way in ways:
        cells = [f"ZeRO-{c.stage}: {_least(c)}" for c in forecast.choices if c.checkpointing == way]
        lines += [f"  {way}", *(f"    {cell}" for cell in cells)]
    if all(choice.gpus is None for choice in forecast.choices):
        lines.append(
            "  more GPUs do not help: gradient checkpointing, sequence_parallel, a smaller or shorter video, bf16"
        )
    return "\n".join(lines)


def _least(choice: Choice) -> str:
    return f"{choice.gpus}" if choice.gpus is not None else f"does not fit: {choice.why}"
