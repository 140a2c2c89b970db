"""Trains the reader: each step is a function of the seed and its number, so a stopped training goes on as if it had not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from evaluation.instruments import degrade
from evaluation.instruments.frames import FrameSet
from evaluation.instruments.network import FaceNetwork, Networks, ReaderNetwork, cut_faces, places
from evaluation.instruments.reader import to_input
from evaluation.metrics.joints import counted
from imanim.config import opt
from imanim.data.files import write_atomic
from imanim.data.sample import JOINTS
from imanim.errors import InputError

N = TypeVar("N", bound=nn.Module)
SPREAD_CELLS = 0.8
"""Standard deviation of the heat that is asked for around a joint, in cells of the heat map (2 px)."""
_READING_ERROR_PX = 0.5
"""How far each joint of a face is moved when the face network is trained: about what reading a face is off by."""
_WARM_STEPS = 100
_MIRRORED = [JOINTS.index({"l": "r", "r": "l"}[n[0]] + n[1:] if n[1] == "_" else n) for n in JOINTS]


@dataclass
class Schedule:
    """How long and how fast."""

    steps: int = opt(4000, "training steps; may be changed before the rate falls, what was trained then goes on")
    decay_steps: int = opt(500, "steps at the end in which the rate falls linearly to 0")
    batch_frames: int = opt(16, "frames a step")
    learning_rate: float = opt(3e-3, "reached after 100 steps")
    weight_decay: float = opt(1e-2, "AdamW's")
    checkpoint_steps: int = opt(200, "steps between checkpoints and lines of the log")
    strongest: float = opt(1.0, "strength of degradations, at most; 0 to 1")
    seed: int = opt(0, "of the initial weights, the order and the degradations")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        counts = ("steps", "decay_steps", "batch_frames", "checkpoint_steps")
        found = [f"{n}: {getattr(self, n)}; give 1 or more" for n in counts if getattr(self, n) < 1]
        found += [] if 0 <= self.strongest <= 1 else [f"strongest: {self.strongest}; give 0 to 1"]
        return found + ([] if self.learning_rate > 0 else [f"learning_rate: {self.learning_rate}; give more than 0"])


@dataclass
class Batch:
    """x float32 [B,3,H,W]; parts int64 [B,H,W]; joints float32 [B,J,3]; actions float32 [B,A], NaN where not known."""

    x: Tensor
    parts: Tensor
    joints: Tensor
    actions: Tensor


def make_batch(data: FrameSet, schedule: Schedule, step: int) -> Batch:
    """Random frames, half of them mirrored, two thirds of them degraded: a function of its arguments."""
    rng = np.random.default_rng([schedule.seed, step])
    rows = [_draw(data, schedule.strongest, rng) for _ in range(schedule.batch_frames)]
    frames, parts, joints, actions = (np.stack(values) for values in zip(*rows))
    return Batch(
        to_input(frames), torch.tensor(parts, dtype=torch.int64), torch.from_numpy(joints), torch.from_numpy(actions)
    )


def _draw(data: FrameSet, strongest: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    clip = int(rng.integers(len(data)))
    here, other = (int(t) for t in rng.integers(data.frames.shape[1], size=2))
    frame = degrade.at_random(data.frames[clip, here], data.frames[clip, other], rng, strongest)
    parts, joints = data.parts[clip, here], data.joints[clip, here]
    if rng.random() < 0.5:
        frame, parts, joints = frame[:, ::-1], parts[:, ::-1], mirrored(joints)
    return frame, parts, joints, data.actions[clip, here]


def mirrored(joints: np.ndarray) -> np.ndarray:
    """Joints [...,20,2 or 3] of the mirrored picture: left and right change places."""
    out = joints[..., _MIRRORED, :].copy()
    out[..., 0] = 1 - out[..., 0]
    return out


def losses(network: ReaderNetwork, batch: Batch) -> dict[str, Tensor]:
    """What training makes small, weighted: heat (cross entropy), place (px), parts (cross entropy)."""
    out = network(batch.x)
    known = torch.from_numpy(counted(batch.joints.numpy()))
    height, width = batch.x.shape[-2:]
    off = (places(out.heat) - batch.joints[..., :2])[known] * torch.tensor([width, height], dtype=torch.float32)
    wanted = _heat(batch.joints, out.heat.shape[-2:])
    heat = -(wanted * out.heat.flatten(2).log_softmax(-1)).sum(-1)[known].mean()
    return {
        "heat": 0.3 * heat,
        "place": 0.15 * F.huber_loss(off, torch.zeros_like(off), delta=4.0),
        "parts": 3.0 * F.cross_entropy(out.parts, batch.parts),
    }


def face_losses(network: FaceNetwork, batch: Batch) -> dict[str, Tensor]:
    """What training of the face network makes small: squared error of the actions. Needs frames whose actions are known.

    Faces are cut out where the joints would be if they were read with the errors that reading has.
    """
    generator = torch.Generator().manual_seed(int(batch.parts.sum()))
    joints, size = batch.joints[..., :2], _READING_ERROR_PX / batch.x.shape[-1]
    joints = joints + size * torch.randn(joints.shape, generator=generator)
    return {"actions": (network(cut_faces(batch.x, joints)) - batch.actions).square().mean()}


def _heat(joints: Tensor, cells: torch.Size) -> Tensor:
    """The heat asked for, [B,J,h*w], each adding up to 1: a Gaussian around each joint's place."""
    height, width = cells
    x = torch.arange(width) + 0.5 - joints[..., :1] * width
    y = torch.arange(height) + 0.5 - joints[..., 1:2] * height
    squared = y.square()[..., :, None] + x.square()[..., None, :]
    return (-squared / (2 * SPREAD_CELLS**2)).flatten(2).softmax(-1).nan_to_num()


def rate(schedule: Schedule, step: int) -> float:
    """The learning rate of a step."""
    rise, fall = (step + 1) / _WARM_STEPS, (schedule.steps - step) / schedule.decay_steps
    return schedule.learning_rate * min(1.0, rise, fall)


def train(
    network: N,
    losses_of: Callable[[N, Batch], dict[str, Tensor]],
    data: FrameSet,
    schedule: Schedule,
    checkpoint: Path,
    log: Callable[[str], None] = print,
) -> N:
    """Trains a network from its checkpoint, or from the start, to the last step; returns it.

    Raises:
        InputError: the loss is no number, or the checkpoint is of another network.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    start = _resume(checkpoint, network, optimizer) if checkpoint.is_file() else 0
    network.train()
    seen: dict[str, float] = {}
    name = checkpoint.stem
    for step in tqdm(range(start, schedule.steps), initial=start, total=schedule.steps, desc=name, unit="step"):
        for group in optimizer.param_groups:
            group["lr"] = rate(schedule, step)
        parts = losses_of(network, make_batch(data, schedule, step))
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise InputError(f"{name}: the loss is {float(loss)} at step {step}; lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        for part, value in parts.items():
            now = float(value.detach())
            seen[part] = 0.98 * seen.get(part, now) + 0.02 * now
        if (step + 1) % schedule.checkpoint_steps == 0 or step + 1 == schedule.steps:
            _save(checkpoint, network, optimizer, step + 1)
            log(f"{name}, step {step + 1}: " + ", ".join(f"{part} {value:.4f}" for part, value in seen.items()))
    return network


def train_both(
    data: FrameSet,
    portraits: FrameSet,
    frame: Schedule,
    face: Schedule,
    folder: Path,
    log: Callable[[str], None] = print,
) -> Networks:
    """Both networks, each from its checkpoint in ``folder`` or from the start; raises InputError as :func:`train`.

    Args:
        portraits: clips whose facial actions are known.
    """
    torch.manual_seed(frame.seed)
    networks = Networks().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train(networks.face, face_losses, portraits, face, folder / "face.safetensors", log)
    train(networks.frame, losses, data, frame, folder / "frame.safetensors", log)
    return networks


def weights_bytes(networks: Networks) -> bytes:
    """Both networks' weights in half precision, as safetensors; counters of the normalisation as they are."""
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in networks.state_dict().items()
    }
    return save_safetensors(tensors, metadata={"format": "pt"})


def _save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
    tensors["step"] = torch.tensor(step)
    write_atomic(path, save_safetensors({name: value.contiguous() for name, value in tensors.items()}))


def _resume(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    tensors = load_safetensors(path.read_bytes())
    step = int(tensors["step"])
    try:
        network.load_state_dict({n.removeprefix("network."): v for n, v in tensors.items() if n.startswith("network.")})
    except RuntimeError as error:
        raise InputError(f"{path}: of another network ({str(error).splitlines()[0]}); give another output") from None
    for name, parameter in network.named_parameters():
        moments = {
            key: tensors[f"{key}.{name}"].to(memory_format=torch.preserve_format) for key in ("exp_avg", "exp_avg_sq")
        }
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step
