"""What an optimizer holds, piece by piece, in files that any number of ranks can read (docs/training.md, "Checkpoints").

DeepSpeed cuts weights and AdamW's averages over the ranks, each ZeRO stage in its own way. Here a *fragment* is the piece of one
parameter that this rank holds: where it starts in the flattened parameter, and its float32 weight and averages. A rank writes its
fragments into one safetensors file. To continue, a rank reads whatever pieces of those files overlap with the fragments it holds
now: after another number of ranks, or under another ZeRO stage, too. Nothing is pickled, and learning rates and weight decays are
never in a file: they come from the configuration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from imanim import distributed
from imanim.errors import InputError

AVERAGES = ("exp_avg", "exp_avg_sq")
"""AdamW's moving averages, by torch's names."""
WEIGHT = "weight"
FLAT = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
"""Where DeepSpeed's optimizers that cut the state over the ranks keep this rank's float32 weights: ZeRO-3, ZeRO-1 and 2, bf16's."""


class Fragment(NamedTuple):
    """A piece of a trained parameter that this rank holds.

    name: the parameter's. start: the piece's first element in the flattened parameter. tensors: ``weight`` and AdamW's averages,
    float32 [n]: views into what the optimizer holds, so writing to them changes it.
    """

    name: str
    start: int
    tensors: dict[str, Tensor]


class Piece(NamedTuple):
    """A piece of a parameter in a file: elements ``start`` to ``stop`` of it, under ``key``."""

    start: int
    stop: int
    path: Path
    key: str


# --------------------------------------------------------------------------------------------------- in the engine


def held(engine: Any, module: nn.Module) -> list[Fragment]:
    """The fragments of ``module``'s trained parameters (it is a part of the engine's) that this rank holds, none of them empty.

    Where every rank holds everything (no ZeRO), each has all fragments; one of them is enough to write.
    """
    _prepare(engine)
    found = [_fragment(engine, name, p) for name, p in module.named_parameters() if p.requires_grad]
    return [fragment for fragment in found if fragment is not None]


def everywhere(engine: Any) -> bool:
    """Whether every rank holds all of the optimizer's state, so that the first one's is enough."""
    return not any(hasattr(engine.optimizer, name) for name in FLAT)


def _fragment(engine: Any, name: str, p: Any) -> Fragment | None:
    if hasattr(p, "ds_id"):
        zero = p._z3_optimizer
        group, offset, length = zero.grad_position[zero.get_param_id(p)]
        flat = zero.fp32_partitioned_groups_flat[group]
        start = torch.distributed.get_rank(p.ds_process_group) * length
        length = min(length, p.ds_numel - start)  # the last ranks' pieces are filled up with zeros, or nothing else
        views = {WEIGHT: flat, **{key: zero.optimizer.state[flat][key] for key in AVERAGES}}
        return Fragment(name, start, {k: v.narrow(0, offset, length) for k, v in views.items()}) if length > 0 else None
    if hasattr(p, "_hp_mapping"):
        mapping = p._hp_mapping
        if mapping is None:
            return None
        views = {WEIGHT: mapping.get_hp_fragment(), **{key: mapping.get_hp_fragment(key) for key in AVERAGES}}
        return Fragment(name, mapping.lp_fragment_address.start, views)
    master = getattr(p, "master", p)
    state = _adam(engine).state[master]
    return Fragment(name, 0, {WEIGHT: master.data.view(-1), **{key: state[key].view(-1) for key in AVERAGES}})


def _adam(engine: Any) -> Any:
    """torch's AdamW; most of DeepSpeed's optimizers hold it inside."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _prepare(engine: Any) -> None:
    """Makes AdamW's averages where its first step has not made them yet."""
    adam = _adam(engine)
    for p in _masters(engine):
        if not adam.state[p]:
            adam.state[p] = {"step": torch.tensor(0.0), **{key: torch.zeros_like(p.data) for key in AVERAGES}}
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        # DeepSpeed links them once, before AdamW's first step has made them: such links are empty.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _masters(engine: Any) -> list[Tensor]:
    """The float32 tensors that AdamW steps on: flat pieces of many parameters in ZeRO, else the parameters."""
    for name in FLAT:
        if hasattr(engine.optimizer, name):
            return list(getattr(engine.optimizer, name))
    return [p for group in _adam(engine).param_groups for p in group["params"]]


def set_steps(engine: Any, steps: int) -> None:
    """Tells AdamW how many steps it has taken, which its bias correction depends on."""
    for state in _adam(engine).state.values():
        state["step"] = torch.full_like(torch.as_tensor(state["step"], dtype=torch.float32), float(steps))


def taken_steps(engine: Any) -> int:
    """AdamW's steps so far: skipped ones are not among them."""
    return max((int(state["step"]) for state in _adam(engine).state.values()), default=0)


# ---------------------------------------------------------------------------------------------------------- files


def copies(fragments: Iterable[Fragment]) -> dict[str, Tensor]:
    """Fragments as a file has them, copied to the CPU: what happens to the model afterwards does not change them."""
    return {
        f"{fragment.name}@{fragment.start}:{key}": value.detach().to("cpu", copy=True).contiguous()
        for fragment in fragments
        for key, value in fragment.tensors.items()
    }


class Reader:
    """Fragments in the files of a checkpoint, whoever wrote them.

    Args:
        paths: every rank's file.

    Raises:
        InputError: a file is missing or not readable.
    """

    def __init__(self, paths: Iterable[Path]):
        self.files: dict[Path, Any] = {}
        self.pieces: dict[tuple[str, str], list[Piece]] = defaultdict(list)
        for path in paths:
            try:
                self.files[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise InputError(
                    f"{path}: not readable ({error}); remove this checkpoint to continue from an older one"
                ) from None
            for key in self.files[path].keys():  # noqa: SIM118
                name, _, rest = key.rpartition("@")
                start, _, what = rest.partition(":")
                length = self.files[path].get_slice(key).get_shape()[0]
                self.pieces[name, what].append(Piece(int(start), int(start) + length, path, key))

    def read(self, name: str, what: str, start: int, length: int) -> Tensor:
        """Elements ``start`` to ``start + length`` of a flattened parameter's ``what``, float32.

        Raises:
            InputError: the files do not hold all of them.
        """
        out, filled = torch.empty(length), 0
        for piece in self.pieces.get((name, what), ()):
            first, last = max(start, piece.start), min(start + length, piece.stop)
            if first < last:
                values = self.files[piece.path].get_slice(piece.key)[first - piece.start : last - piece.start]
                out[first - start : last - start] = values
                filled += last - first
        if filled != length:
            raise InputError(
                f"checkpoint: {name}: {filled} of {length} elements of its {what} are there; remove this checkpoint to continue "
                "from an older one"
            )
        return out

    def size(self, name: str, what: str = WEIGHT) -> int:
        """How many elements of a parameter the files hold; 0 for an unknown one."""
        return max((piece.stop for piece in self.pieces.get((name, what), ())), default=0)


@torch.no_grad()
def restore(engine: Any, module: nn.Module, reader: Reader, steps: int) -> None:
    """Puts the optimizer's state and the trained weights back. Every rank must call it.

    Raises:
        InputError: the files lack some of it, or a parameter has another size; nothing is changed then.
    """
    fragments = held(engine, module)
    _check(module, reader)
    for fragment in fragments:
        for what, here in fragment.tensors.items():
            here.copy_(reader.read(fragment.name, what, fragment.start, len(here)))
    set_steps(engine, steps)
    for name, p in module.named_parameters():
        if p.requires_grad:
            _restore_computed(name, p, reader)


def _restore_computed(name: str, p: Any, reader: Reader) -> None:
    """The copy of a weight that the model computes with, in its own precision."""
    if not hasattr(p, "ds_id"):
        p.data.copy_(reader.read(name, WEIGHT, 0, p.numel()).view(p.shape))
        return
    length = p.ds_tensor.numel()
    start = torch.distributed.get_rank(p.ds_process_group) * length
    length = max(0, min(length, p.ds_numel - start))
    if length:
        p.ds_tensor.data.view(-1)[:length].copy_(reader.read(name, WEIGHT, start, length))
    if p.data.numel() == p.ds_numel:  # kept whole on every rank (persistent)
        p.data.copy_(reader.read(name, WEIGHT, 0, p.ds_numel).view(p.data.shape))


def _check(module: nn.Module, reader: Reader) -> None:
    for name, p in module.named_parameters():
        wanted = int(getattr(p, "ds_numel", p.numel()))
        if p.requires_grad and reader.size(name) != wanted:
            raise InputError(
                f"checkpoint: {name}: {reader.size(name)} elements there, {wanted} in the model; choose another output="
            )


# ------------------------------------------------------------------------------------------------ what is not trained


def untrained(module: nn.Module, leave: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    """Frozen parameters and saved buffers, whole, on the CPU, but for the names in ``leave``. A collective in ZeRO-3."""
    for name, p in module.named_parameters():
        if not p.requires_grad and name not in leave:
            with _whole(p):
                value = p.data.detach().cpu().clone()
            yield name, value
    saved = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        if name in saved:
            yield name, buffer.detach().cpu().clone()


@torch.no_grad()
def restore_untrained(module: nn.Module, tensors: Mapping[str, Tensor], leave: frozenset[str]) -> None:
    """Puts frozen parameters and buffers back. Every rank must call it.

    Raises:
        InputError: one of them is missing or of another shape.
    """
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad and name not in leave}
    saved = module.state_dict().keys()
    buffers = {name: b for name, b in module.named_buffers() if name in saved}
    for name, here in {**frozen, **buffers}.items():
        shape = list(getattr(here, "ds_shape", here.shape))
        if name not in tensors or list(tensors[name].shape) != shape:
            raise InputError(f"checkpoint: {name}: missing or not {shape}; choose another output=")
        with _whole(here, modifier_rank=0):
            if not hasattr(here, "ds_id") or distributed.place().is_first:
                here.data.copy_(tensors[name])


def _whole(p: Any, modifier_rank: int | None = None) -> AbstractContextManager:
    """A parameter with all of its values while the context lasts; what that rank writes then is everybody's."""
    if not hasattr(p, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([p], modifier_rank=modifier_rank)
