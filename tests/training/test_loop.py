"""The loop's phases on a world of one, with an engine that only counts; the real one is in test_three_stages.py."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import toy

from imanim import distributed
from imanim.config import load
from imanim.data.augment import mirror
from imanim.data.shards import ShardSet
from imanim.errors import InputError
from imanim.training import batches, loop, pictures, plan, validation
from imanim.training import engine as engines
from imanim.training.config import AugmentConfig, TrainConfig
from imanim.training.monitor import Monitor, read_metrics
from imanim.training.objective import Losses
from imanim.training.stop import Stopper

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loop")
    toy.write_model(path)
    toy.write_shards(path / "shards")
    return path


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of one without a process group."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed, "any_rank", lambda *flags, device: list(flags))
    monkeypatch.setattr(distributed, "mean_over_ranks", lambda values, device: dict(values))
    monkeypatch.setattr(distributed, "gather", lambda value: [value])


def config(folder: Path, output: Path, *overrides: str) -> TrainConfig:
    always = [f"data.train={folder / 'shards'}", f"model={folder / 'toy.yaml'}", f"output={output}", "data.workers=0"]
    return load(TrainConfig, CONFIGS / "stage1.yaml", [*always, "batch.global_size=4", *overrides])


class CountingEngine:
    """Gives the losses it is told and counts what the loop asks for."""

    def __init__(self, losses: list[float], norm: float = 1.0):
        self.losses, self.norm = list(losses), norm
        self.optimizer = SimpleNamespace(_global_grad_norm=norm)
        self.calls: list[str] = []
        self.module = torch.nn.Module()

    def __call__(self, batch: dict[str, Any], random: torch.Generator, step: int) -> Losses:
        return Losses(torch.tensor(self.losses.pop(0), requires_grad=True), {})

    def backward(self, loss: torch.Tensor) -> None:
        self.calls.append("backward")

    def step(self) -> None:
        self.calls.append("step")

    def get_global_grad_norm(self) -> float:
        return self.norm


def make_run(cfg: TrainConfig, engine: CountingEngine, shards: ShardSet) -> loop.Run:
    planned = plan.make(cfg)
    Path(cfg.output).mkdir(parents=True, exist_ok=True)
    return loop.Run(
        cfg=cfg,
        sizes=planned.sizes,
        device=torch.device("cpu"),
        engine=engine,
        module=None,  # type: ignore[arg-type]
        ema=None,
        feed=batches.training_batches(cfg, planned.sizes, shards, 0),
        validation=[],
        monitor=Monitor(cfg, torch.device("cpu"), 0, toy.FRAMES),
        stopper=Stopper(None),
        identity=planned.identity,
        origin={},
        start=0,
    )


@pytest.fixture
def shards(folder: Path) -> ShardSet:
    return ShardSet(folder / "shards", "train")


def test_gradients_accumulate_over_the_micro_batches_of_a_step(folder, shards, tmp_path, alone):
    engine = CountingEngine([1.0, 2.0])
    run = make_run(config(folder, tmp_path / "run", "batch.micro_size=2"), engine, shards)
    loop.accumulate_gradients(run, 0)
    loop.take_step(run, 0)
    assert not run.stopper.stopping
    assert engine.calls == ["backward", "step", "backward", "step"]


def test_a_loss_that_is_not_finite_stops_before_backward_and_names_step_and_samples(folder, shards, tmp_path, alone):
    engine = CountingEngine([math.nan])
    run = make_run(config(folder, tmp_path / "run"), engine, shards)
    with pytest.raises(
        InputError,
        match=r"step 8: the loss is not finite \(rank 0: samples train-0.*\); stopped, nothing was saved yet",
    ):
        loop.accumulate_gradients(run, 7)
    assert engine.calls == []


def test_a_gradient_that_is_not_finite_ends_the_run(folder, shards, tmp_path, alone):
    run = make_run(config(folder, tmp_path / "run"), CountingEngine([1.0], norm=math.inf), shards)
    with pytest.raises(InputError, match="step 1: the gradient is not finite"):
        loop.take_step(run, 0)


def test_a_signal_is_taken_up_at_the_end_of_the_step(folder, shards, tmp_path, alone):
    before = signal.getsignal(signal.SIGTERM)
    with make_run(config(folder, tmp_path / "run"), CountingEngine([1.0, 1.0]), shards) as run:
        loop.accumulate_gradients(run, 0)
        assert not run.stopper.stopping
        os.kill(os.getpid(), signal.SIGTERM)
        loop.accumulate_gradients(run, 1)
        assert run.stopper.stopping and run.stopper.preempted and run.stopper.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_during_validation_leaves_the_validation(alone):
    """A preempted job has seconds: it must not finish a validation of minutes first."""
    stopper, measured = Stopper(None), []

    class Engine(CountingEngine):
        def eval(self) -> None: ...

        def train(self) -> None: ...

        def __call__(self, batch: dict[str, Any], dice: Any, step: int) -> Losses:
            measured.append(batch["number"])
            if batch["number"] == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return Losses(torch.tensor(1.0), {})

    cfg = SimpleNamespace(seed=0, batch=SimpleNamespace(cut=lambda ranks: (1, 1)))
    held_out = [{"number": i, "keys": []} for i in range(5)]
    found = validation.measure(Engine([]), held_out, cfg, torch.device("cpu"), 0, stopper)  # type: ignore[arg-type]
    stopper.close()
    assert found is None and measured == [0, 1] and stopper.preempted


def test_time_that_is_up_is_a_reason_to_stop_but_no_preemption(alone):
    stopper = Stopper(max_minutes=1e-9)
    assert stopper.poll(torch.device("cpu")) is False and stopper.stopping and stopper.reason == "max_minutes is over"
    stopper.close()


def test_what_a_sample_meets_does_not_depend_on_how_the_batch_is_cut(folder, tmp_path, monkeypatch):
    drawn = {}
    for ranks, micro in ((1, 4), (1, 2), (2, 2), (2, 1), (4, 1)):
        cfg = config(folder, tmp_path / "run", f"batch.micro_size={micro}")
        pieces, shared = [], set()
        for rank in range(ranks):
            monkeypatch.setattr(distributed, "place", lambda r=rank, n=ranks: distributed.Place(r, n, r, n))
            for number in range(cfg.batch.cut(ranks)[1]):
                dice = batches.dice(cfg, 7, number)
                pieces.append(dice.randn(3))
                shared.add(float(torch.rand((), generator=dice.shared)))
        drawn[ranks, micro] = torch.cat(pieces)
        assert len(shared) == 1
    assert all(torch.equal(drawn[1, 4], other) for other in drawn.values())
    assert len({tuple(row.tolist()) for row in drawn[1, 4]}) == 4
    assert not torch.equal(batches.dice(cfg, 8).randn(3), batches.dice(cfg, 7).randn(3))
    assert not torch.equal(batches.validation_dice(cfg, 0).randn(3), batches.dice(cfg, 0).randn(3))


def test_augmentation_changes_the_driver_and_leaves_the_truth(folder, shards, tmp_path, alone):
    cfg = config(folder, tmp_path / "run")
    batch = next(batches.training_batches(cfg, plan.make(cfg).sizes, shards, 0))
    seen = batches.augment(batch, AugmentConfig(mirror=False), batches.dice(cfg, 0))
    assert torch.equal(seen["target"], batch["target"]) and torch.equal(seen["joints"], batch["joints"])
    assert not torch.equal(seen["driving"], batch["driving"])
    assert not torch.equal(seen["driving_joints"], batch["driving_joints"])
    mirrored = mirror(batch, batches.dice(cfg, 0))
    both = batches.augment(batch, AugmentConfig(0, 0, 0, 0, mirror=True), batches.dice(cfg, 0))
    assert torch.equal(both["target"], mirrored["target"])


def test_data_of_another_size_is_refused_before_anything_is_written(folder, tmp_path, alone):
    (tmp_path / "big").mkdir()
    path = toy.write_model(tmp_path / "big", height="64")
    with pytest.raises(InputError, match="5 frames of 48x32"):
        plan.make(config(folder, tmp_path / "run", f"model={path}"))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_is_refused_with_the_number_that_would(folder, tmp_path, alone, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"batch.global_size: 4 does not divide over 3 ranks; use a multiple of 3"):
        plan.make(config(folder, tmp_path / "run"))


def test_the_plan_tells_parts_geometry_and_epochs_without_touching_the_output(folder, tmp_path, alone):
    text = plan.describe(plan.make(config(folder, tmp_path / "run", "max_steps=6")))
    assert "tokenizer_encoder  train" in text and "denoiser           absent" in text
    assert "4 samples = 1 ranks x 1 micro-batches x 4" in text and "2.0 epochs" in text
    assert not (tmp_path / "run").exists()


def test_a_resumed_monitor_forgets_the_steps_that_will_be_done_again(folder, tmp_path, alone):
    cfg = config(folder, tmp_path, "monitor.tensorboard=false")
    rows = "".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in (1, 2, 3))
    (tmp_path / "metrics.jsonl").write_text(rows + '{"step": 4, "lo')
    Monitor(cfg, torch.device("cpu"), 2, toy.FRAMES)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_the_monitor_writes_means_rates_and_throughput(folder, tmp_path, alone, capsys):
    cfg = config(folder, tmp_path, "max_steps=4")
    monitor = Monitor(cfg, torch.device("cpu"), 0, toy.FRAMES)
    for value in (1.0, 3.0):
        monitor.record(torch.tensor(value), {"vq": torch.tensor(0.5)}, 0.01)
    monitor.log(2, {"denoiser": 1e-3}, 0.7, 0)
    monitor.close()
    (row,) = read_metrics(tmp_path)
    assert (row["step"], row["loss"], row["vq"], row["grad_norm"], row["lr"]) == (2, 2.0, 0.5, 0.7, {"denoiser": 1e-3})
    assert row["frames_per_sec"] == pytest.approx(toy.FRAMES * row["samples_per_sec"])
    assert list((tmp_path / "tensorboard").iterdir())
    assert "step 2/4  loss 2.0000" in capsys.readouterr().out


def test_heatmaps_glow_where_the_joint_is():
    joints = torch.tensor([[[0.75, 0.25, 1.0]]])
    seen = pictures.heat_over(torch.zeros(1, 3, 40, 40), pictures.true_heat(joints, 10, 10))[0].amax(0)
    y, x = divmod(int(seen.argmax()), 40)
    assert abs(x - 30) <= 2 and abs(y - 10) <= 2 and float(seen[30:, :10].max()) < 0.05


def test_a_filmstrip_has_a_row_a_clip_and_a_column_a_frame():
    clip = torch.rand(17, 3, 20, 10)
    sheet = pictures.filmstrip({"driver": clip, "truth": clip}, still=clip[0], columns=[0, 8, 16])
    assert sheet.shape == (2 * (20 + 14 + 4) + 4, 4 * (10 + 4) + 4, 3)
    assert pictures.chosen_frames(17) == [0, 3, 6, 10, 13, 16] and pictures.chosen_frames(1) == [0]


def test_without_zero_a_gradient_that_is_not_finite_does_not_reach_the_optimizer():
    engine = CountingEngine([])
    engine.optimizer = SimpleNamespace()
    weight = torch.nn.Parameter(torch.zeros(2))
    engine.module = torch.nn.ParameterList([weight])
    weight.grad = torch.tensor([3.0, 4.0])
    assert engines.step(engine) == pytest.approx(5.0) and engine.calls == ["step"]
    weight.grad = torch.tensor([math.nan, 0.0])
    assert math.isnan(engines.step(engine)) and engine.calls == ["step"]
