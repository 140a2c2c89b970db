"""kill -9 at random moments: what was saved is whole, right, and never older than the last save that had returned."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

from sizes import mini

from imanim import distributed
from imanim.models.animator import Animator
from imanim.training import checkpoint
from imanim.training.monitor import read_metrics

KILLS = 20


class Alone:
    """An engine without ZeRO: torch's own AdamW."""

    def __init__(self, animator: Animator):
        self.optimizer = torch.optim.AdamW([p for p in animator.parameters() if p.requires_grad], lr=1e-2)
        self.global_steps = 0


def fresh() -> tuple[Animator, Alone]:
    torch.manual_seed(0)
    animator = Animator(mini(), ("codebook", "retargeter", "joint_decoder"))
    animator.set_modes({"codebook": "frozen", "retargeter": "train", "joint_decoder": "train"})
    return animator, Alone(animator)


def step(animator: Animator, engine: Alone, number: int) -> None:
    """A step whose gradient depends on nothing but the weights and its number."""
    engine.optimizer.zero_grad()
    sum((p * (number % 7 - p)).square().sum() for p in animator.parameters() if p.requires_grad).backward()
    engine.optimizer.step()


def resumed(output: Path) -> tuple[Animator, Alone, int]:
    animator, engine = fresh()
    found = checkpoint.newest(output)
    if found is not None:
        checkpoint.load(engine, animator, found, None)
    return animator, engine, found.step if found else 0


def train_until_killed(output: Path, told: int) -> None:
    """Steps and saves for ever; writes the number of every save that has returned to the pipe ``told``."""
    animator, engine, done = resumed(output)
    writer = checkpoint.Writer(output, keep=2)
    while True:
        step(animator, engine, done)
        done += 1
        writer.take(engine, animator, {"step": done, "stage": 2, "identity": {}}, None)
        writer.finish(torch.device("cpu"))
        os.write(told, f"{done}\n".encode())


def kill_one(output: Path, after_sec: float) -> int:
    """Starts a training process, kills it some time after its first save, returns the last save it told of."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            train_until_killed(output, write)
        finally:
            os._exit(1)
    os.close(write)
    said = os.read(read, 100)
    time.sleep(after_sec)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    with os.fdopen(read) as pipe:
        return max(int(line) for line in (said.decode() + pipe.read()).split())


def test_twenty_kills_lose_nothing_that_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    monkeypatch.setattr(distributed, "gather", lambda value: [value])
    monkeypatch.setattr(distributed, "from_first", lambda value: value)
    monkeypatch.setattr(distributed, "tell", lambda *values, device: [[float(value)] for value in values])
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    moments, reference, done = random.Random(0), fresh(), 0
    for _ in range(KILLS):
        saved = kill_one(tmp_path, moments.uniform(0, 0.2))
        animator, _, at = resumed(tmp_path)  # verifies every hash
        assert at >= saved > done
        while done < at:
            step(*reference, done)
            done += 1
        ours, theirs = animator.state_dict(), reference[0].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len(checkpoint.complete(tmp_path)) <= 3  # a kill may come between the rename and the pruning


def test_twenty_kills_of_one_rank_of_two_change_nothing_about_the_run(tmp_path: Path):
    """A life ends with a kill -9 of one rank, while steps are taken or a checkpoint is being written; the losses are those of an
    undisturbed run, step for step."""
    toy.write_model(tmp_path)
    toy.write_shards(tmp_path / "shards")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_ranks.py")), str(tmp_path), str(KILLS)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["lost"] == 0, "a checkpoint that was whole has gone"
    killed, undisturbed = (
        {row["step"]: row["loss"] for row in read_metrics(tmp_path / name)} for name in ("killed", "undisturbed")
    )
    assert list(killed) == list(range(1, found["steps"] + 1)) and killed == undisturbed
    assert found["steps"] > 2 * KILLS
