"""Checks of a run's configuration: what training itself refuses, and whether the machine has room for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imanim.doctor.findings import Finding, Situation, problem, size, well
from imanim.doctor.machine import available_bytes
from imanim.errors import ConfigError, InputError

if TYPE_CHECKING:
    from imanim.models.config import AnimatorConfig
    from imanim.training.config import TrainConfig

FP32 = 4
ADAMW = 3 * FP32
"""Bytes of a trained parameter in a checkpoint: float32 weight and AdamW's two averages."""
PREFETCHED = 2
"""Batches that a worker of the loader has ready (imanim.data.stream)."""


def load(situation: Situation) -> TrainConfig | None:
    """The run's configuration, None when there is none. Raises ConfigError."""
    from imanim import config
    from imanim.training.config import TrainConfig

    return None if situation.config is None else config.load(TrainConfig, situation.config, situation.overrides)


def check_configuration(situation: Situation) -> Iterator[Finding]:
    """Everything that training checks before it starts anything: settings, weights to start from, data, geometry, output."""
    from imanim.training import plan

    try:
        cfg = load(situation)
        if cfg is None:
            yield well("not looked at: no --config given")
            return
        planned = plan.make(cfg)
    except ConfigError as error:
        yield from (problem(*_parted(line)) for line in error.problems)
        return
    except InputError as error:
        yield problem(*_parted(str(error)))
        return
    micro, accumulation = cfg.cut(situation.place.world_size)
    yield well(
        f"{situation.config}: stage {cfg.stage}, {len(planned.train)} samples, a step of "
        f"{cfg.sharers(situation.place.world_size)} x {accumulation} x {micro}, {planned.start} of {cfg.max_steps} steps done"
    )


def _parted(line: str) -> tuple[str, str]:
    found, _, remedy = line.rpartition("; ")
    return (found, remedy) if found else (remedy, "mend that setting")


def check_weights(situation: Situation) -> Iterator[Finding]:
    """The folders of weights that the model names: base, autoencoder, image encoder, text encoder; the attention kernel."""
    sizes = _sizes(situation)
    if sizes is None:
        yield well(_nothing_to_see(situation))
        return
    cfg, model = sizes
    there, wrong = 0, 0
    for what, folder in _folders(cfg, model):
        if isinstance(folder, InputError):
            missing = problem(*_parted(str(folder)))
        elif not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            missing = problem(
                f"{what}: {folder} lacks config.json or *.safetensors", "give a diffusers folder, or copy it again"
            )
        else:
            there += 1
            continue
        wrong += 1
        yield missing
    yield from _check_kernel(cfg, model)
    if not wrong:
        yield well(f"{there} folders, all there" if there else "this stage needs none of other makers")


def _nothing_to_see(situation: Situation) -> str:
    return "not looked at: " + (
        "no --config given" if situation.config is None else "the configuration is not right yet"
    )


def _sizes(situation: Situation) -> tuple[TrainConfig, AnimatorConfig] | None:
    """None also when the configuration is wrong: that is another check's finding."""
    from imanim.training import transfer

    try:
        cfg = load(situation)
        return None if cfg is None else (cfg, transfer.model_config(cfg))
    except InputError:
        return None


def _folders(cfg: TrainConfig, model: AnimatorConfig) -> Iterator[tuple[str, Path | InputError]]:
    """What is going to be read and where, or why it cannot be."""
    from imanim.models import conditioning, wan
    from imanim.models.autoencoder import BUILT_IN
    from imanim.training import transfer

    def at(part: str) -> Path | InputError:
        try:
            return wan.base_folder(model, part)
        except InputError as error:
            return error

    if cfg.stage > 1:
        named = model.autoencoder
        yield (
            "autoencoder",
            (at("vae") if named in conditioning.BASE_AUTOENCODERS else BUILT_IN.get(named, Path(named))),
        )
    if cfg.parts.denoiser.mode == "absent":
        return
    if model.denoiser.image_dim is not None:
        yield "image encoder", at("image_encoder")
    try:
        from_base = transfer.wants_base(cfg, model)
    except InputError as error:
        yield "init_from", error
        return
    if from_base:
        yield "base", at(model.denoiser.subfolder)
        if model.denoiser.prompt is not None:
            yield "text encoder", at("text_encoder")


def _check_kernel(cfg: TrainConfig, model: AnimatorConfig) -> Iterator[Finding]:
    import torch

    from imanim.models import wan

    if cfg.parts.denoiser.mode == "absent":
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if cfg.deepspeed.precision == "fp32" else torch.bfloat16
    tiny = wan.InletTransformer((1, 2, 2), 1, 64, 4, 4, text_dim=8, freq_dim=8, ffn_dim=8, num_layers=1)
    try:
        wan.choose_attention(tiny, model.denoiser.attention)
        wan.check_attention(model.denoiser.attention, device, dtype, cfg.parts.denoiser.mode == "train")
    except InputError as error:
        yield problem(*_parted(str(error)))


def check_room(situation: Situation) -> Iterator[Finding]:
    """Whether checkpoints fit on the output's disk, the whole model, which every rank builds first, in the memory, and the
    loader's batches in shared memory."""
    import torch

    from imanim.training import transfer

    sizes = _sizes(situation)
    if sizes is None:
        yield well(_nothing_to_see(situation))
        return
    cfg, model = sizes
    with torch.device("meta"):
        animator = transfer.build_empty(cfg, model)
    weights = dict(animator.named_parameters())
    tensors = {**weights, **dict(animator.named_buffers())}
    every = sum(t.numel() for t in tensors.values())
    trained = sum(w.numel() for w in weights.values() if w.requires_grad)
    # What adapters leave as it was is in no checkpoint.
    kept = sum(t.numel() for name, t in tensors.items() if name not in animator.unsaved)
    yield _disk(situation, cfg, kept, trained)
    yield _memory(situation, every)
    yield from _batches(situation, cfg, model)


def _disk(situation: Situation, cfg: TrainConfig, kept: int, trained: int) -> Finding:
    one = trained * (ADAMW + (FP32 if cfg.ema_decay else 0)) + (kept - trained) * FP32
    # The oldest checkpoint goes when the newest is whole; the exported model is replaced in the same way.
    need = one * (cfg.monitor.keep + 1) + 2 * kept * FP32
    nearest = next(p for p in (situation.output.absolute(), *situation.output.absolute().parents) if p.exists())
    free = shutil.disk_usage(nearest).free
    text = f"{cfg.monitor.keep + 1} checkpoints and the model take up to {size(need)}"
    if need > free:
        return problem(
            f"{text}, {size(free)} are free at {situation.output}", "choose another output=, or monitor.keep=1"
        )
    return well(f"{text} of {size(free)} free")


def _memory(situation: Situation, every: int) -> Finding:
    import torch

    # The first rank reads the weights for all. On a CPU every rank then holds what it is sent; else the GPUs do.
    ranks = 1 if torch.cuda.is_available() else situation.place.local_world_size
    whose = "the first rank" if ranks == 1 else f"each of {ranks} ranks of this machine"
    need, (free, _) = every * FP32 * ranks, available_bytes()
    text = f"{size(every * FP32)} of weights in float32 on {whose}: at least {size(need)}"
    if need > free:
        remedy = "a machine with more memory" if ranks == 1 else "fewer ranks a machine, or a machine with more memory"
        return problem(f"{text} of memory, {size(free)} are free", remedy)
    return well(f"{text} of memory (`imanim plan` forecasts the GPUs')")


def _batches(situation: Situation, cfg: TrainConfig, model: AnimatorConfig) -> Iterator[Finding]:
    micro, _ = cfg.cut(situation.place.world_size)
    if not (micro and cfg.data.workers and situation.shm.is_dir()):
        return
    # A sample's driver and target as float32 [T,3,H,W]; what else it holds is small.
    sample = 2 * model.frames * 3 * model.height * model.width * FP32
    workers = cfg.data.workers * situation.place.local_world_size
    need, free = sample * micro * PREFETCHED * workers, shutil.disk_usage(situation.shm).free
    text = f"{workers} workers keep {PREFETCHED} batches each: {size(need)} of shared memory"
    if need > free:
        yield problem(
            f"{text}, {size(free)} are free in {situation.shm}",
            "docker run --shm-size (or --ipc host), fewer data.workers, or data.workers=0",
        )
    else:
        yield well(text)
