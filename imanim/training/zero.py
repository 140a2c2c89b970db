"""What DeepSpeed holds on one rank, by ZeRO stage: read from the source of the pinned version (0.19), compared with real runs.

What is there all the time, what comes and goes within a step, what the optimizer's step needs on top, and what building the engine
needs once. All numbers are one rank's. They are upper bounds to within rounding and padding.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imanim.training.config import TrainConfig
from imanim.training.engine import deepspeed_settings
from imanim.training.trace import Trace, Weight

FP32, BF16 = 4, 2
ADAM = 2 * FP32
"""Bytes an element: both moving averages."""
PLAIN_ALLREDUCE = 500_000_000
"""Elements that an engine without ZeRO reduces at once; not a setting."""
MODELLED = frozenset(
    "stage reduce_bucket_size stage3_prefetch_bucket_size stage3_param_persistence_threshold stage3_max_live_parameters "
    "stage3_max_reuse_distance sub_group_size offload_optimizer offload_param allgather_bucket_size".split()
)
"""Settings of ``zero_optimization`` that are known here, or cost nothing."""


@dataclass(frozen=True)
class Engine:
    """The engine's settings that decide about memory.

    Attributes:
        weight: bytes of an element of weights and gradients.
        autocast: weights are gathered, and gradients reduced, in bfloat16 where a layer allows it.
        accumulation: micro-batches of a step.
        on_gpu: on a GPU memory counts when it is allocated, and Adam works on all of its tensors at once; on a CPU it counts when
            it is written, and Adam takes one tensor after the other.
    """

    stage: int
    ranks: int
    weight: int
    autocast: bool
    accumulation: int
    offload: bool
    on_gpu: bool
    ema: bool
    reduce_bucket: int
    prefetch: int
    persistent: int
    max_live: int
    max_reuse: int
    sub_group: int

    def share(self, elements: int) -> int:
        """A rank's part of something that is cut."""
        return -(-elements // self.ranks)

    def sent(self, weight: Weight) -> int:
        """Bytes of an element while weights are gathered and gradients reduced."""
        return BF16 if self.autocast and weight.gathers_low else self.weight


def read(cfg: TrainConfig, ranks: int, *, on_gpu: bool = True) -> Engine:
    """The settings a run on so many ranks would give DeepSpeed, DeepSpeed's own defaults included. Imports DeepSpeed."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = DeepSpeedZeroConfig(**deepspeed_settings(cfg, ranks)["zero_optimization"])
    precision = cfg.deepspeed.precision
    return Engine(
        stage=int(zero.stage),
        ranks=ranks,
        weight=BF16 if precision == "bf16" else FP32,
        autocast=precision == "autocast_bf16",
        accumulation=max(1, cfg.cut(ranks)[1]),
        offload=zero.offload_optimizer is not None,
        on_gpu=on_gpu,
        ema=cfg.ema_decay > 0,
        reduce_bucket=int(zero.reduce_bucket_size),
        prefetch=int(zero.prefetch_bucket_size),
        persistent=int(zero.param_persistence_threshold),
        max_live=int(zero.max_live_parameters),
        max_reuse=int(zero.max_reuse_distance),
        sub_group=int(zero.sub_group_size),
    )


def unmodelled(cfg: TrainConfig) -> list[str]:
    """Settings in ``deepspeed.extra`` whose effect on memory is not known here."""
    extra = dict(cfg.deepspeed.extra)
    zero = extra.pop("zero_optimization", {})
    return [*extra, *(f"zero_optimization.{key}" for key in zero if key not in MODELLED)]


# ------------------------------------------------------------------------------------------------------- always there


def held(trace: Trace, z: Engine) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes that a rank holds all the time, on its GPU and, offloaded, in its machine's memory.

    Keys: ``weights``, ``master weights`` (float32), ``optimizer`` (both moments), ``gradients``, ``buffers`` (for reducing) and
    ``moving average``.
    """
    trained = _elements(trace.weights, trained=True)
    cut = z.share(trained) if z.stage else trained
    # ZeRO updates a copy of the weights even in float32 (stage 3 means not to, but compares a device with its name).
    gpu = {
        "weights": _elements(trace.weights) * z.weight,
        "master weights": cut * FP32 if z.weight == BF16 or z.stage else 0,
        "optimizer": cut * ADAM,
        "gradients": 0,
        "buffers": 0,
        "moving average": (cut if z.stage == 3 else trained) * FP32 if z.ema else 0,
    }
    if z.stage == 3:
        small = sum(w.elements for w in trace.weights if w.elements <= z.persistent) if z.ranks > 1 else 0
        gpu["weights"] = (sum(z.share(w.elements) for w in trace.weights) + small) * z.weight
        gpu["gradients"] = cut * z.weight
        gpu["buffers"] = sum(_buckets(trace, z).values())
    if not z.offload:
        return gpu, dict.fromkeys(gpu, 0)
    away = ["master weights", "optimizer", *(["weights", "gradients", "moving average"] if z.stage == 3 else [])]
    host = {kind: size if kind in away else 0 for kind, size in gpu.items()}
    gpu = {kind: 0 if kind in away else size for kind, size in gpu.items()}
    if z.stage < 3:
        # Gradients are copied out through a buffer of the largest one, into a float32 partition.
        gpu["buffers"] += max((w.elements for w in trace.weights if w.trained), default=0) * z.weight
    host["gradients"] += cut * FP32
    return gpu, host


def _buckets(trace: Trace, z: Engine) -> dict[int, int]:
    """Bytes of the buffers that gradients are gathered in before they are reduced, by the bytes of what is sent.

    ZeRO-1 and 2 fill them in the gradients' precision, ZeRO-3 in that of what is sent.
    """
    filled: dict[int, int] = defaultdict(int)
    for _, sent, elements, alone in _reductions(trace, z):
        filled[sent] = max(filled[sent], 0 if alone else elements)
    width = {sent: sent if z.stage == 3 else z.weight for sent in filled}
    return {sent: width[sent] * (z.reduce_bucket if z.on_gpu else filled[sent]) for sent in filled}


def _reductions(trace: Trace, z: Engine) -> Iterator[tuple[int, int, int, bool]]:
    """(operation, bytes of an element sent, elements, alone) whenever a bucket is full, and at the end.

    ``alone``: a gradient larger than the bucket goes by itself.
    """
    waiting: dict[int, int] = defaultdict(int)
    for op, number in trace.ready:
        weight = trace.weights[number]
        sent = z.sent(weight)
        if waiting[sent] and waiting[sent] + weight.elements > z.reduce_bucket:
            yield op, sent, waiting.pop(sent), False
        if weight.elements > z.reduce_bucket:
            yield op, sent, weight.elements, True
        else:
            waiting[sent] += weight.elements
    for sent, elements in waiting.items():
        yield len(trace.live), sent, elements, False


# ------------------------------------------------------------------------------------------------------ within a step


def gradients(trace: Trace, z: Engine) -> np.ndarray:
    """Bytes [ops+1] of gradients and what reducing them takes, beyond :func:`held`; the last entry is the end of the pass."""
    if z.stage == 3:
        return _gradients_of_3(trace, z)
    out = np.zeros(len(trace.live) + 1, np.int64)
    trained, total = _elements(trace.weights, trained=True) * z.weight, 0
    if not trace.ready:
        return out
    first, buckets = trace.ready[0][0], sum(_buckets(trace, z).values())
    own = 0 if z.offload else z.share(trained)
    if z.stage == 2:
        out[first:] += buckets
        for op, sent, elements, alone in _reductions(trace, z):
            total += elements
            out[op:] = np.maximum(out[op:], buckets + (own if z.on_gpu else min(own, z.share(total * z.weight))))
            # What is reduced is flattened first, and copied again when it is sent in less precision.
            out[op] += elements * (z.weight * (2 if alone else 1) + (sent if sent != z.weight else 0))
        # Earlier micro-batches wait in a partition of their own.
        return out + (own if z.accumulation > 1 else 0)
    for op, number in trace.ready:
        out[op:] += trace.weights[number].elements * z.weight
    if z.accumulation > 1:
        out[:] = trained
    if z.stage == 1:
        out[first:] += buckets if z.on_gpu else 0
        out[-1] += own if z.on_gpu else buckets
    else:
        out[-1] += min(trained, PLAIN_ALLREDUCE * z.weight)
    return out


def _gradients_of_3(trace: Trace, z: Engine) -> np.ndarray:
    out = np.zeros(len(trace.live) + 1, np.int64)
    for op, sent, elements, alone in _reductions(trace, z):
        # Put in the order of the ranks in a copy; a partition in the gradients' precision where less was sent.
        out[op] += elements * sent + (z.share(elements) * z.weight if sent != z.weight else 0)
        out[op] += elements * z.weight if alone else 0
    return out


def gathered(trace: Trace, z: Engine) -> np.ndarray:
    """Bytes [ops+1] of whole weights that ZeRO-3 has gathered; zeros below stage 3 and on one rank.

    DeepSpeed gathers ahead until ``max_live`` elements are there, and keeps what is used again within ``max_reuse`` elements. A
    weight that it lets go stays as long as autograd holds a view of it.
    """
    change = np.zeros(len(trace.live) + 2, np.int64)
    uses = [(op, number) for op, number in trace.uses if trace.weights[number].elements > z.persistent]
    if z.stage < 3 or z.ranks == 1 or not uses:
        return change[:-1]
    stays: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, start, stop in _fetched(uses, trace, z):
        stays[number].append((start, stop))
    for start, stop, number in trace.held:
        ends = [b for a, b in stays[number] if a <= start <= b]
        if ends and stop > max(ends):
            stays[number].append((max(ends) + 1, stop))
    for number, spans in stays.items():
        for start, stop in spans:
            change[start] += trace.weights[number].elements
            change[stop + 1] -= trace.weights[number].elements
    # What was gathered ahead arrives in one flat buffer, and is copied out of it weight by weight.
    sizes = {number: trace.weights[number] for _, number in uses}
    ahead = min(
        z.prefetch + max(w.elements for w in sizes.values()) if z.prefetch else 0,
        sum(w.elements for w in sizes.values()),
    )
    bytes_ = np.cumsum(change[:-1]) * z.weight
    bytes_[uses[0][0] : uses[-1][0] + 1] += ahead * max(z.sent(w) for w in sizes.values())
    return bytes_


def _fetched(uses: Sequence[tuple[int, int]], trace: Trace, z: Engine) -> Iterator[tuple[int, int, int]]:
    """(weight, from operation, to operation): when a weight is there, as DeepSpeed's coordinator decides it use by use."""
    sizes = [trace.weights[number].elements for _, number in uses]
    passed = np.cumsum([0, *sizes])
    again: dict[int, int] = {}
    following = [0] * len(uses)
    for i in range(len(uses) - 1, -1, -1):
        following[i] = again.get(uses[i][1], -1)
        again[uses[i][1]] = i
    since: dict[int, int] = {}
    live, ahead = 0, 0
    for i, (op, number) in enumerate(uses):
        if number not in since:
            since[number], live = op, live + sizes[i]
        ahead, asked = max(ahead, i + 1), 0
        while ahead < len(uses) and asked < min(z.max_live - live + asked, z.prefetch):
            other = uses[ahead][1]
            if other not in since:
                since[other], live, asked = op, live + sizes[ahead], asked + sizes[ahead]
            ahead += 1
        next_use = following[i]
        if next_use < 0 or (next_use >= ahead and passed[next_use] - passed[i + 1] >= z.max_reuse):
            yield number, since.pop(number), op
            live -= sizes[i]
    for number, start in since.items():
        yield number, start, len(trace.live)


# ------------------------------------------------------------------------------------------------- the optimizer, the start


def step(trace: Trace, z: Engine) -> int:
    """Bytes that the optimizer's step needs at most beyond :func:`held`: gradients, copies of them, Adam's temporaries."""
    if z.offload:
        return 0
    trained = [w for w in trace.weights if w.trained]
    total = _elements(trained)
    adam = FP32 if z.on_gpu else 2 * FP32
    if z.stage == 0:
        at_once = total if z.on_gpu else max((w.elements for w in trained), default=0)
        return total * (z.weight + (FP32 if z.weight == BF16 else 0)) + at_once * adam
    # One optimizer group after the other (ZeRO-3: in pieces of sub_group); its gradients in one piece, in float32.
    largest = z.share(max(_groups(trained).values(), default=0))
    if z.stage == 3:
        largest = min(largest, z.sub_group + z.share(max((w.elements for w in trained), default=0)))
    copying = largest * (FP32 + (BF16 if z.weight == BF16 else 0))
    waiting = 0 if z.stage == 3 else z.share(total) * z.weight
    return waiting + max(copying, largest * (FP32 + adam))


def start(trace: Trace, z: Engine) -> int:
    """Bytes on the GPU while the engine is built: the model arrives whole, in its own precision (on a CPU it is there in float32
    before), and is cut afterwards."""
    total, trained = _elements(trace.weights), _elements(trace.weights, trained=True)
    groups = list(_groups([w for w in trace.weights if w.trained]).values())
    gpu = held(trace, z)[0]
    masters, done = gpu["master weights"], sum(gpu.values()) - gpu["optimizer"]
    most = max(total * (z.weight if z.on_gpu else FP32), done)
    if z.stage == 0 and z.weight == BF16:
        # DeepSpeed takes a step with gradients of zero, so that Adam's state is there.
        most = max(most, gpu["weights"] + masters + gpu["optimizer"] + step(trace, z))
    elif z.stage == 3:
        # The largest group's gradients are there once before the buffers are made.
        trial = 0 if z.offload else z.share(max(groups, default=0)) * FP32
        most = max(most, gpu["weights"] + masters + trial)
    elif z.stage:
        # Each group is copied into one piece before its own memory is let go; then all gradients are there once, in float32.
        flat = max(
            (total + group) * z.weight + z.share(sum(groups[:i])) * FP32 for i, group in enumerate(groups or [0])
        )
        most = max(most, flat, gpu["weights"] + masters + (0 if z.offload else z.share(trained) * FP32))
    return most


def _groups(weights: Sequence[Weight]) -> dict[tuple[str, bool], int]:
    """Elements of each optimizer group: matrices and vectors of each part (``curriculum.parameter_groups``)."""
    groups: dict[tuple[str, bool], int] = defaultdict(int)
    for w in weights:
        groups[w.part, w.vector] += w.elements
    return groups


def _elements(weights: Sequence[Weight], *, trained: bool = False) -> int:
    return sum(w.elements for w in weights if w.trained or not trained)
