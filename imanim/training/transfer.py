"""Weights into a run and out of it: the model a stage starts with, and the ``save_pretrained`` folder it leaves behind."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import imanim
from imanim import config, distributed
from imanim.data.shards import ShardSet
from imanim.errors import InputError
from imanim.models import files, sizes
from imanim.models.animator import Animator, empty, initialise_joint_prior
from imanim.models.config import AnimatorConfig
from imanim.models.joints import joint_weight
from imanim.revision import revision
from imanim.training import checkpoint
from imanim.training.config import TrainConfig
from imanim.training.ema import Ema
from imanim.training.engine import full_weights

MODEL = "model"
"""The folder in a run's output that holds its exported weights."""


def sources(cfg: TrainConfig) -> list[Path]:
    """The ``save_pretrained`` folders that ``init_from`` names: each a run folder (its ``model/``) or such a folder itself.

    Raises:
        InputError: one of them holds no weights.
    """
    found = []
    for text in (cfg.init_from or "").split(","):
        if not text.strip():
            continue
        folder = Path(text.strip())
        inner = folder / MODEL if (folder / MODEL / files.INDEX).is_file() else folder
        if not (inner / files.INDEX).is_file():
            why = "no such folder" if not folder.exists() else f"holds neither {MODEL}/{files.INDEX} nor {files.INDEX}"
            raise InputError(
                f"init_from: {folder}: {why}; give a finished run's folder or one that save_pretrained wrote"
            )
        found.append(inner)
    return found


def model_config(cfg: TrainConfig) -> AnimatorConfig:
    """The model's sizes: those of ``model``, else of the run being continued, else of ``init_from``'s first folder; with
    ``model_settings`` laid over them."""
    if cfg.model is not None:
        return sizes.load(cfg.model, cfg.model_settings)
    begun = checkpoint.newest(cfg.output)
    if begun is not None:
        saved, name = begun.state["model"], str(begun.path)
    else:
        saved, name = config.to_dict(files.read_index(sources(cfg)[0]).config), str(sources(cfg)[0])
    return config.from_dict(AnimatorConfig, config.merge(saved, cfg.model_settings), name=name)


def once(
    cfg: TrainConfig, model: AnimatorConfig, make: Callable[[], tuple[Animator, dict[str, str]]]
) -> tuple[Animator, dict[str, str]]:
    """What ``make`` builds on the first rank; on the others the same with parameters that hold nothing yet. A collective.

    When the engine is built, DeepSpeed sends the first rank's parameters to all. So the weights are read once, however many
    ranks there are, and a machine with eight of them needs memory for one model: what is allocated and not written takes none.

    Raises:
        InputError: on every rank, what ``make`` raised.
    """
    if distributed.place().world_size == 1:
        return make()
    if not distributed.place().is_first:
        problem, origin, buffers = distributed.from_first(None)
        if problem is not None:
            raise InputError(problem)
        return _room(cfg, model, buffers), origin
    try:
        animator, origin = make()
    except Exception as error:
        distributed.from_first((str(error) or type(error).__name__, None, None))
        raise
    distributed.from_first((None, origin, dict(animator.named_buffers())))
    return animator, origin


def _room(cfg: TrainConfig, model: AnimatorConfig, buffers: Mapping[str, Tensor]) -> Animator:
    """This stage's parts with these buffers and room for parameters, in the precision that the engine is going to give them."""
    animator = empty(model, cfg.parts.built())
    allocate(animator, torch.bfloat16 if cfg.deepspeed.precision == "bf16" else torch.float32)
    for name, buffer in animator.named_buffers():
        buffer.copy_(buffers[name])
    set_modes(animator, cfg)
    return animator


def build(cfg: TrainConfig, model: AnimatorConfig, shards: ShardSet | None) -> tuple[Animator, dict[str, str]]:
    """Builds this stage's parts and gives them the weights they start with.

    Args:
        shards: the training data, whose joints set the start of parts that are new (see ``initialise_joint_prior``); None
            leaves that out.

    Returns:
        the animator, its parts frozen as the curriculum says, and part -> where its weights come from.

    Raises:
        InputError: a tensor of ``init_from`` has another shape, or a frozen part has no weights.
    """
    from_base = wants_base(cfg, model)
    animator = build_empty(cfg, model, from_base=from_base)
    if shards is not None:
        joints = sample_joints(shards)
        initialise_joint_prior(animator, joints, joint_weight(joints))
    origin = dict.fromkeys(animator.parts, "new")
    missing = list(animator.parts)
    for folder in sources(cfg):
        for name in animator.load_parts(folder, missing, strict=False) if missing else []:
            origin[name] = str(folder)
            missing.remove(name)
    if from_base and "denoiser" in missing:
        origin["denoiser"] = f"{model.base}/{model.denoiser.subfolder}"
    untaught = [name for name, part in cfg.parts.items() if part.mode == "frozen" and origin[name] == "new"]
    if untaught:
        raise InputError(
            f"parts.{untaught[0]}: frozen, but init_from ({cfg.init_from}) has no weights for it; train it, or add a folder "
            "that has it"
        )
    return animator, origin


def wants_base(cfg: TrainConfig, model: AnimatorConfig) -> bool:
    """Whether the denoiser starts from ``base``: always below adapters, else unless ``init_from`` brings a denoiser."""
    if model.base is None or cfg.parts.denoiser.mode == "absent":
        return False
    return model.denoiser.lora_rank > 0 or not any("denoiser" in files.read_index(s).parts for s in sources(cfg))


def build_empty(cfg: TrainConfig, model: AnimatorConfig, *, from_base: bool = False) -> Animator:
    """This stage's parts, frozen as the curriculum says, with random weights (the denoiser with ``base``'s): what a checkpoint
    is loaded into."""
    torch.manual_seed(cfg.seed)
    animator = Animator(model, cfg.parts.built(), from_base=from_base)
    set_modes(animator, cfg)
    return animator


def set_modes(animator: Animator, cfg: TrainConfig) -> None:
    """Trains and freezes the parts as the curriculum says."""
    animator.set_modes({name: part.mode for name, part in cfg.parts.items() if part.mode != "absent"})


def allocate(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Puts uninitialised parameters in the place of a meta module's; ``dtype`` instead of their own. Shared ones stay shared."""
    made: dict[int, nn.Parameter] = {}
    for child in module.modules():
        for name, p in child._parameters.items():
            if p is not None:
                if id(p) not in made:
                    made[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=dtype or p.dtype), p.requires_grad)
                child._parameters[name] = made[id(p)]


def sample_joints(shards: ShardSet, clips: int = 64) -> Tensor:
    """Joints [M,J,3] of up to ``clips`` clips spread evenly over a split: enough for where a joint is on average."""
    count = min(clips, len(shards))
    found = []
    for i in np.linspace(0, len(shards) - 1, count).astype(int):
        _, members = shards.read(int(i), ("joints.npy",))
        found.append(np.load(io.BytesIO(members["joints.npy"]), allow_pickle=False).astype(np.float32))
    return torch.from_numpy(np.concatenate(found))


def export(engine: Any, animator: Animator, output: str | Path, record: Mapping[str, Any], ema: Ema | None) -> Path:
    """Writes ``output/model``: every part of this stage, frozen ones included, as plain float32 weights. Collective.

    What is not saved (``animator.unsaved``: a base under adapters) is left out on every rank alike, so that nobody waits for it.

    Args:
        animator: inside ``engine``, its parameters possibly cut over the ranks.
        ema: when given, its averages take the place of the trained weights.
        record: what made these weights, kept in the index.
    """
    folder = Path(output) / MODEL
    first = distributed.place().is_first
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in animator.parts}
    for name, value in full_weights(engine, animator, ema.shards if ema is not None else None, animator.unsaved):
        if first:
            part, _, inner = name.partition(".")
            parts[part][inner] = value
    if first:
        files.save(folder, animator.config, parts, dict(record))
    distributed.barrier()
    return folder


def provenance(cfg: TrainConfig, model: AnimatorConfig) -> dict[str, Any]:
    """What made some weights: the run's settings, the model's sizes, the versions of what computed them. JSON values."""
    versions = {name: metadata.version(name) for name in ("torch", "deepspeed", "diffusers")}
    return {
        "config": config.to_dict(cfg),
        "model": config.to_dict(model),
        "versions": {"imanim": imanim.__version__, "commit": revision(), **versions},
    }


def data_fingerprint(shards: ShardSet) -> str:
    """Names a split by content: the hash of its shards' hashes. Moving the folder does not change it."""
    content = json.dumps(shards.manifest["splits"][shards.split], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
