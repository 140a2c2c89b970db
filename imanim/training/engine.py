"""The DeepSpeed engine: ZeRO, precision, accumulation and clipping behind one object; and the weights inside it, whole again.

What is set here was measured: the shared-memory op and the fused Adam would each compile for a minute before the first step.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from imanim import distributed
from imanim.training import compiling, curriculum
from imanim.training.config import TrainConfig


def deepspeed_settings(cfg: TrainConfig, ranks: int) -> dict[str, Any]:
    """A run's settings as DeepSpeed's (deepspeed.ai/docs/config-json); ``deepspeed.extra`` is laid over them."""
    ds = cfg.deepspeed
    micro, accumulation = cfg.cut(ranks)
    zero: dict[str, Any] = {"stage": ds.zero_stage}
    if ds.zero_stage == 3:
        zero |= {"stage3_param_persistence_threshold": ds.persistent_elements}
    if ds.offload:
        zero |= {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
        if ds.zero_stage == 3:
            zero |= {"offload_param": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": cfg.optimizer.grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "steps_per_print": 10**12,
    }
    if ds.precision == "bf16":
        settings["bf16"] = {"enabled": True}
    elif ds.precision == "autocast_bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return _overlay(settings, ds.extra)


def build(module: nn.Module, groups: list[dict[str, Any]], cfg: TrainConfig) -> Any:
    """Wraps the training module. The process group must stand (``distributed.start``) and the parts be frozen as they are to be.

    Returns:
        the DeepSpeedEngine.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed
    from deepspeed.utils import logger

    # DeepSpeed 0.19 calls names that torch 2.13 has renamed: thousands of lines that nobody running this can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    if cfg.compile:
        compiling.compile_blocks(module, shapes=cfg.data.buckets)
    optimizer = torch.optim.AdamW(groups, lr=cfg.optimizer.lr, betas=cfg.optimizer.betas, eps=cfg.optimizer.eps)
    settings = deepspeed_settings(cfg, distributed.place().world_size)
    engine, _, _, _ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    _link_masters(engine)
    return engine


def _link_masters(engine: Any) -> None:
    """bf16 without ZeRO: DeepSpeed holds float32 copies of the parameters in lists of its own; a parameter shall know its copy."""
    copies = getattr(engine.optimizer, "fp32_groups", ())
    for parameters, masters in zip(getattr(engine.optimizer, "fp16_groups", ()), copies):
        for parameter, master in zip(parameters, masters):
            parameter.master = master


def set_learning_rates(engine: Any, cfg: TrainConfig, step: int) -> dict[str, float]:
    """Sets this step's learning rates in the engine. Returns the rate of each part."""
    return curriculum.set_learning_rates(engine.optimizer.param_groups, cfg, step)


def arithmetic(cfg: TrainConfig, device: torch.device) -> AbstractContextManager:
    """The precision in which parts of the model are called outside the engine's own forward."""
    if cfg.deepspeed.precision == "autocast_bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def step(engine: Any) -> float:
    """The optimizer's step. Returns the global gradient norm before clipping; when it is not finite, nothing was changed.

    DeepSpeed's own optimizers compute the norm and drop a gradient that is not finite. Without ZeRO, in float32, nobody does
    (DeepSpeed clips, but does not look): there it is done here.
    """
    if hasattr(engine.optimizer, "_global_grad_norm"):
        engine.step()
        return float(engine.get_global_grad_norm() or 0.0)
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if math.isfinite(norm):
        engine.step()
        return norm
    # The engine must count its micro-batches and clear the gradients; the optimizer must not hear of it.
    engine.optimizer.step = lambda: None
    try:
        engine.step()
    finally:
        del engine.optimizer.step
    return norm


def gradient_norms(engine: Any, parts: Mapping[str, list[tuple[str, Any]]], device: torch.device) -> dict[str, float]:
    """The gradient's norm of each part, before clipping. Between a step's last backward and :func:`step`; a collective.

    Args:
        parts: part -> its named parameters, as ``Animator.parameter_parts`` gives them.
    """
    names = [name for name, named in parts.items() if any(p.requires_grad for _, p in named)]
    squares = torch.zeros(len(names), dtype=torch.float64, device=device)
    cut = False
    for i, name in enumerate(names):
        for _, p in parts[name]:
            cut = cut or hasattr(p, "ds_id") or hasattr(p, "_hp_mapping")
            gradient = _local_gradient(p) if p.requires_grad else None
            if gradient is not None:
                squares[i] += gradient.detach().double().square().sum().to(device)
    if cut:
        torch.distributed.all_reduce(squares)
    return dict(zip(names, squares.sqrt().tolist()))


def _local_gradient(p: Any) -> Tensor | None:
    """The piece of a parameter's averaged gradient that this rank holds; all of it where nothing is cut."""
    if hasattr(p, "ds_id"):
        from deepspeed.utils import safe_get_local_grad

        return safe_get_local_grad(p)
    if hasattr(p, "_hp_mapping"):
        return None if p._hp_mapping is None else p._hp_mapping.get_lp_grad_fragment(p._index_in_param_group)
    return p.grad


def local_master(parameter: nn.Parameter) -> Tensor:
    """The float32 weights that the optimizer holds of a trained parameter: this rank's flat shard in ZeRO-3, else all of it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_local_fp32_param

    if hasattr(parameter, "ds_id"):
        return safe_get_local_fp32_param(parameter)
    if hasattr(parameter, "master"):
        return parameter.master.data
    # A whole float32 parameter is its own master; only that of a bfloat16 one must be asked for (a collective).
    return parameter.data if parameter.dtype == torch.float32 else safe_get_full_fp32_param(parameter)


def whole(parameter: Any, local: Tensor) -> Tensor:
    """Puts a parameter together from every rank's :func:`local_master`-shaped piece. A collective in ZeRO-3."""
    if not hasattr(parameter, "ds_id"):
        return local
    local = local.to(parameter.device).contiguous()  # NCCL does not gather what was offloaded to the CPU
    pieces = [torch.empty_like(local) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(pieces, local)
    return torch.cat(pieces)[: parameter.ds_numel].view(parameter.ds_shape)


def full_weights(
    engine: Any, module: nn.Module, ema: dict[str, Tensor] | None = None, skip: Collection[str] = ()
) -> Iterator[tuple[str, Tensor]]:
    """Every weight and buffer of ``module`` (a part of the engine's), whole, float32 on the CPU, one after the other.

    Trained weights come from the optimizer's float32 copy, or from ``ema``; frozen ones and buffers as they are. Every rank
    must run through all of it (collectives in ZeRO-3); only the first one needs to keep what it gets. Names in ``skip``, the
    same on every rank, are left out and not gathered.
    """
    import deepspeed

    for name, parameter in module.named_parameters():
        if name in skip:
            continue
        if parameter.requires_grad:
            local = ema[name] if ema is not None else local_master(parameter)
            yield name, whole(parameter, local).detach().cpu().clone()
        elif hasattr(parameter, "ds_id"):
            with deepspeed.zero.GatheredParameters([parameter]):
                value = parameter.data.detach().float().cpu().clone()
            yield name, value
        else:
            yield name, parameter.data.detach().float().cpu().clone()
    saved = module.state_dict().keys() - set(skip)
    for name, buffer in module.named_buffers():
        if name in saved:
            yield name, buffer.detach().cpu().clone()


def _overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _overlay(out[key], value) if nested else value
    return out
