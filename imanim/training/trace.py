"""What one micro-batch costs, found by running the stage's real objective on tensors without numbers.

Nothing is allocated, so the largest model is traced on a laptop. Every operation that reaches a kernel is seen, forward, recomputed
and backward: what it allocates and frees, which weights it reads and how many floating-point operations it takes.

What a kernel allocates for itself and frees before it returns is not seen. Where the code asks what a tensor holds (is the codebook
ready? is this sample mirrored?) the answer is yes.
"""

from __future__ import annotations

import warnings
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from imanim.data.dice import Dice
from imanim.models.config import AnimatorConfig
from imanim.training import batches, hollow, transfer
from imanim.training.config import TrainConfig
from imanim.training.objective import TrainingModule

aten = torch.ops.aten

OUTSIDE = ("batch", "autoencoder", "image_encoder", "losses")
"""Owners of activations beside the model's parts. ``losses`` has what no part and no encoder made."""

KINDS = ("forward", "recomputed", "backward", "frozen")
"""Floating-point operations: of the forward pass with gradients, of recomputing it, of the backward pass, and without gradients."""


def _attention_flops(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward_flops(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
"""Operation to the number of its floating-point operations; torch's table and the attention kernel it lacks."""


@dataclass(frozen=True)
class Weight:
    """A parameter as the forecast sees it.

    Attributes:
        vector: a norm's or a bias's: another optimizer group than matrices.
        gathers_low: under torch_autocast it is gathered and its gradient reduced in bfloat16.
    """

    name: str
    part: str
    elements: int
    trained: bool
    vector: bool
    gathers_low: bool


@dataclass(frozen=True)
class Trace:
    """One micro-batch. ``ops`` operations were seen, in order.

    Attributes:
        samples: of the micro-batch.
        owners: who may own activations: ``OUTSIDE`` and the parts.
        live: int64 [ops, owners], bytes of activations alive right after each operation. Weights and their finished gradients are
            not in it.
        forward_end: number of operations of augmentation and the forward pass; the rest is the backward pass.
        weights: the module's parameters, in its order.
        buffers: bytes of its buffers, which every rank holds whole.
        frozen: encoder outside of the engine to its parameters; every rank holds them whole, in float32. None with cached latents.
        ready: (operation, weight) when a weight's gradient was finished, in order.
        uses: (operation, weight) when a weight was read, in order.
        held: (first operation, last operation, weight): autograd keeps a view of the weight, and so its memory, from one to the
            other, wherever the weight itself has gone.
        flops: kind (see ``KINDS``) to owner to floating-point operations.
        team: ranks that share the samples (``sequence_parallel``); the numbers are the first one's, which has the most to do.
    """

    samples: int
    owners: tuple[str, ...]
    live: np.ndarray
    forward_end: int
    weights: tuple[Weight, ...]
    buffers: int
    frozen: dict[str, int]
    ready: tuple[tuple[int, int], ...]
    uses: tuple[tuple[int, int], ...]
    held: tuple[tuple[int, int, int], ...]
    flops: dict[str, dict[str, int]]
    team: int = 1

    def total_flops(self, *kinds: str) -> int:
        """Of these kinds, by default of all."""
        return sum(sum(self.flops[kind].values()) for kind in kinds or KINDS)


class Recorder(TorchDispatchMode):
    """Sees every operation while it is active. Storages that existed before cost nothing.

    Args:
        owners: names that :meth:`own` may use.
    """

    def __init__(self, owners: Sequence[str]):
        super().__init__()
        self.owners = tuple(owners)
        self.stack: list[int] = []
        self.backward = False
        self.flops = {kind: dict.fromkeys(self.owners, 0) for kind in KINDS}
        self.uses: list[tuple[int, int]] = []
        self.views: list[tuple[int, int, bool]] = []
        self.ops = 0
        self._live = [0] * len(self.owners)
        self._rows = array("q")
        self._storages: dict[int, int] = {}  # address -> owner; -1: nobody's
        self._weights: dict[int, tuple[int, Tensor]] = {}

    @property
    def live(self) -> np.ndarray:
        """See :class:`Trace`."""
        return np.array(self._rows, dtype=np.int64).reshape(-1, len(self.owners))

    def own(self, tensor: Tensor, owner: str, weight: int | None = None) -> None:
        """Says whose a tensor is that exists already; ``weight`` numbers a parameter whose reading is to be recorded."""
        key = self._know(tensor, self.owners.index(owner), 0)
        if weight is not None:
            self._weights[key] = (weight, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return True
        owner = self._read([t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)])
        out = func(*args, **kwargs)
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in self._storages:
                self._know(t, owner, t.untyped_storage().nbytes())
        formula = FLOPS.get(func._overloadpacket)
        if formula is not None:
            self.flops[self._kind()][self.owners[owner]] += formula(*args, **kwargs, out_val=out)
        self._rows.extend(self._live)
        self.ops += 1
        return out

    def _kind(self) -> str:
        # Autograd runs its backward functions without gradients, checkpointing recomputes with them.
        if torch.is_grad_enabled():
            return "recomputed" if self.backward else "forward"
        return "backward" if self.backward else "frozen"

    def _read(self, tensors: list[Tensor]) -> int:
        """Notes what an operation reads. Returns whose its results are: the running module's, else the first input's."""
        inherited = len(self.owners) - 1
        for t in reversed(tensors):
            key = t.untyped_storage()._cdata
            if key not in self._storages:
                self._know(t, -1, 0)
            elif self._storages[key] >= 0:
                inherited = self._storages[key]
            if key in self._weights:
                weight, whole = self._weights[key]
                self.uses.append((self.ops, weight))
                if t.shape != whole.shape or t.stride() != whole.stride():
                    self.views.append((self.ops, weight, torch.is_grad_enabled()))
        return self.stack[-1] if self.stack else inherited

    def _know(self, tensor: Tensor, owner: int, count: int) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._storages[key] = owner
        if count:
            self._live[owner] += count
        weakref.finalize(storage, self._forget, key, owner, count).atexit = False
        return key

    def _forget(self, key: int, owner: int, count: int) -> None:
        del self._storages[key]
        if count:
            self._live[owner] -= count


def run(cfg: TrainConfig, sizes: AnimatorConfig, samples: int) -> Trace:
    """Traces one micro-batch of ``samples`` samples of a stage: augmentation, forward, backward.

    ``deepspeed.precision`` decides how it computes, as the engine would. A trained codebook moves, as in training.
    """
    module = hollow.build(cfg, sizes)
    weights = _weights(module)
    outside = {"autoencoder": module.vae, "image_encoder": module.image_encoder}
    used = {} if hollow.brings_latents(cfg) else outside  # with cached latents they stay on the CPU
    frozen = {name: sum(p.numel() for p in m.parameters()) for name, m in used.items() if m is not None}
    buffers = sum(b.nbytes for b in module.buffers())
    owners = (*module.animator.parts, *OUTSIDE)
    recorder, ready = Recorder(owners), list[tuple[int, int]]()
    with FakeTensorMode():
        _fill(module, torch.bfloat16 if cfg.deepspeed.precision == "bf16" else None)
        for encoder in outside.values():
            if encoder is not None:
                _fill(encoder)
        _introduce(module, recorder, ready)
        with recorder, _owned_by_modules(module, recorder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kernels, of which none runs
            forward_end = _micro_batch(module, cfg, sizes, samples, recorder)
    return Trace(
        samples,
        recorder.owners,
        recorder.live,
        forward_end,
        weights,
        buffers,
        frozen,
        tuple(ready),
        tuple(recorder.uses),
        tuple(_held(recorder.views)),
        recorder.flops,
        cfg.sequence_parallel,
    )


def _micro_batch(
    module: TrainingModule, cfg: TrainConfig, sizes: AnimatorConfig, samples: int, recorder: Recorder
) -> int:
    """What the loop does with a micro-batch. Returns the number of operations before the backward pass."""
    dice = Dice(cfg.seed, 0, range(samples))
    recorder.stack.append(recorder.owners.index("batch"))
    batch = hollow.batch(sizes, samples, cfg=cfg)  # the loop keeps it beside the augmented one
    augmented = batches.augment(batch, cfg.data.augment, dice)
    recorder.stack.pop()
    autocast: AbstractContextManager = nullcontext()
    if cfg.deepspeed.precision == "autocast_bf16":
        autocast = torch.autocast("cpu", torch.bfloat16)
    with autocast:
        # Stage 1 has its codebook from the last step on, if not before.
        losses = module(augmented, dice, cfg.max_steps)
    del augmented
    forward_end = recorder.ops
    recorder.backward = True
    losses.total.backward()
    return forward_end


def _weights(module: TrainingModule) -> tuple[Weight, ...]:
    low = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    lows = {id(p) for m in module.modules() if type(m) in low for p in m.parameters(recurse=False)}
    found = []
    for part, named in module.animator.parameter_parts().items():
        found += [Weight(name, part, p.numel(), p.requires_grad, p.ndim <= 1, id(p) in lows) for name, p in named]
    return tuple(found)


def _fill(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Puts tensors of the current mode in the place of a meta module's. ``dtype`` is the parameters'; DeepSpeed casts no buffer."""
    transfer.allocate(module, dtype)
    for child in module.modules():
        for name, b in child._buffers.items():
            if b is not None:
                child._buffers[name] = torch.empty(b.shape, dtype=b.dtype)
    # Such a module cannot be moved, and the objective moves the frozen encoders to where the batch is.
    module.to = lambda *_, **__: module  # type: ignore[method-assign]


def _introduce(module: TrainingModule, recorder: Recorder, ready: list[tuple[int, int]]) -> None:
    """Makes the recorder know the parameters; a finished gradient is noted and let go, as ZeRO does."""
    number = 0
    for part, named in module.animator.parameter_parts().items():
        for _, parameter in named:
            recorder.own(parameter, part, number)
            if parameter.requires_grad:

                def done(p: Tensor, number: int = number) -> None:
                    ready.append((recorder.ops, number))
                    p.grad = None

                parameter.register_post_accumulate_grad_hook(done)
            number += 1


@contextmanager
def _owned_by_modules(module: TrainingModule, recorder: Recorder) -> Iterator[None]:
    """What a module's forward allocates belongs to its part."""
    animator = module.animator
    named = {
        **{p: animator.part(p) for p in animator.parts},
        "autoencoder": module.vae,
        "image_encoder": module.image_encoder,
    }
    owner = {
        id(child): recorder.owners.index(name)
        for name, top in named.items()
        if top is not None
        for child in top.modules()
    }

    def enter(child: nn.Module, _: Any) -> None:
        if id(child) in owner:
            recorder.stack.append(owner[id(child)])

    def leave(child: nn.Module, *_: Any) -> None:
        if id(child) in owner:
            recorder.stack.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _held(views: list[tuple[int, int, bool]]) -> list[tuple[int, int, int]]:
    """From the operations that read views of weights (the ``True`` ones with gradients): what autograd saved, and how long.

    A view that the backward pass reads was saved by the last operation before it that read one, forward or recomputed.
    """
    saved: dict[int, int] = {}
    until: dict[tuple[int, int], int] = {}
    for op, weight, forward in views:
        if forward:
            saved[weight] = op
        elif weight in saved:
            until[saved[weight], weight] = op
    return [(start, stop, weight) for (start, weight), stop in until.items()]
