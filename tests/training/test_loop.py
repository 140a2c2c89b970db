"""The loop's phases on a world of one, with an engine that only counts; the real one is in test_three_stages.py."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import toy
from PIL import Image

from imanim import distributed
from imanim.config import load
from imanim.data.augment import mirror
from imanim.data.shards import ShardSet
from imanim.errors import InputError, NotFiniteError
from imanim.models.config import AnimatorConfig
from imanim.training import batches, checkpoint, loop, pictures, plan, transfer, utilisation, validation
from imanim.training.config import AugmentConfig, TrainConfig
from imanim.training.guard import Guard
from imanim.training.monitor import Monitor, read_metrics
from imanim.training.objective import Losses
from imanim.training.stop import Stopper
from imanim.training.watch import Watch

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
    monkeypatch.setattr(distributed, "tell", lambda *values, device: [[float(value)] for value in values])
    monkeypatch.setattr(distributed, "mean_over_ranks", lambda values, device: dict(values))
    monkeypatch.setattr(distributed, "gather", lambda value: [value])


def config(folder: Path, output: Path, *overrides: str) -> TrainConfig:
    always = [f"data.train={folder / 'shards'}", f"model={folder / 'toy.yaml'}", f"output={output}", "data.workers=0"]
    return load(TrainConfig, CONFIGS / "stage1.yaml", [*always, "batch.global_size=4", *overrides])


def sizes_of(cfg: TrainConfig) -> AnimatorConfig:
    return transfer.model_config(cfg)


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


def make_run(cfg: TrainConfig, engine: CountingEngine, shards: ShardSet, moving: dict | None = None) -> loop.Run:
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
        monitor=Monitor(cfg, planned.sizes, torch.device("cpu"), 0),
        stopper=Stopper(None),
        guard=Guard(cfg.failures, cfg.output, moving or {}),
        watch=Watch(cfg.failures.timeout_sec),
        writer=checkpoint.Writer(cfg.output, keep=2),
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


def test_a_loss_that_is_not_finite_is_left_out_and_written_down(folder, shards, tmp_path, alone, capsys):
    """One NaN in a step of two micro-batches: no optimizer step, no trace in the codebook, keys and numbers in a file."""
    engine = CountingEngine([1.0, math.nan])
    codebook = torch.ones(3)
    run = make_run(config(folder, tmp_path / "run", "batch.micro_size=2"), engine, shards, {"sums": codebook})
    loop.accumulate_gradients(run, 7)
    codebook += 5
    engine.norm = math.inf  # what ZeRO's optimizers say of a gradient that they dropped
    run.ema = SimpleNamespace(update=lambda step: pytest.fail("the average took in a step that was left out"))  # type: ignore[assignment]
    assert loop.take_step(run, 7)["all"] == math.inf
    assert torch.equal(codebook, torch.ones(3))
    assert (run.guard.skipped, run.guard.in_a_row) == (1, 1)
    said = capsys.readouterr().out
    assert "warning: step 8 was left out: the loss is not finite (rank 0: samples train-0" in said
    written = json.loads((tmp_path / "run" / "failures" / "step-000008.json").read_text())
    good, bad = written["ranks"][0]["micro_batches"]
    assert (written["step"], good["loss"], bad["loss"], written["gradient_norm"]) == (8, 1.0, None, None)
    assert len(bad["keys"]) == 2 and bad["batch"]["driving"]["finite"] == 1.0
    assert run.monitor._count == 1  # the mean loss of the log is of the finite ones


def test_too_many_bad_steps_in_a_row_end_the_run_and_a_good_one_between_them_does_not(folder, shards, tmp_path, alone):
    run = make_run(
        config(folder, tmp_path / "run", "failures.skip_in_a_row=1"), CountingEngine([1.0] * 9, norm=math.inf), shards
    )
    steps = iter(range(100))

    def step(norm: float) -> None:
        run.engine.norm = norm
        number = next(steps)
        loop.accumulate_gradients(run, number)
        loop.take_step(run, number)

    for norm in (math.inf, 1.0, math.nan, 1.0, math.inf):
        step(norm)
    assert (run.guard.skipped, run.guard.in_a_row) == (3, 1)
    with pytest.raises(
        NotFiniteError, match=r"step 6, 2 in a row: the gradient .* nothing was saved yet.* since step 4;"
    ):
        step(math.inf)


def test_a_loss_that_leaps_is_said_with_its_rank(folder, shards, tmp_path, alone):
    cfg = config(folder, tmp_path / "run", "failures.spike_window=4", "failures.spike_factor=3")
    guard = Guard(cfg.failures, tmp_path, {})
    batch = {"keys": ["a"]}
    said = []
    for step, loss in enumerate([100.0, 1.0, 1.1, 0.9, 1.0, 5.0, 1.0]):
        guard.begin()
        guard.look(batch, Losses(torch.tensor(loss), {}), [loss])
        said.append(guard.spike(step))
    assert [step for step, text in enumerate(said) if text] == [5] and guard.spikes == 1
    assert said[5] is not None and "step 6: loss 5 is 5.0 times the median of the last 4 steps (1)" in said[5]
    again = Guard(cfg.failures, tmp_path, {})
    again.load(json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()


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

        def __call__(self, batch: dict[str, Any], dice: Any, step: int, noise_level: None) -> Losses:
            measured.append(batch["number"])
            if batch["number"] == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return Losses(torch.tensor(1.0), {})

    cfg = SimpleNamespace(seed=0, stage=1, sequence_parallel=1, cut=lambda ranks: (1, 1))
    held_out = [{"number": i, "keys": []} for i in range(5)]
    run: Any = SimpleNamespace(
        engine=Engine([]), validation=held_out, cfg=cfg, device=torch.device("cpu"), stopper=stopper, watch=Watch(60)
    )
    found = validation.measure(run, 0)
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
            for number in range(cfg.cut(ranks)[1]):
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
    Monitor(cfg, sizes_of(cfg), torch.device("cpu"), 2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_the_monitor_writes_means_rates_and_throughput(folder, tmp_path, alone, capsys):
    cfg = config(folder, tmp_path, "max_steps=4", "monitor.peak_tflops=0.5")
    monitor = Monitor(cfg, sizes_of(cfg), torch.device("cpu"), 0)
    for value in (1.0, 3.0):
        monitor.record(torch.tensor(value), {"vq": torch.tensor(0.5)}, 0.01, (toy.FRAMES, toy.HEIGHT, toy.WIDTH))
    monitor.log(2, {"denoiser": 1e-3}, {"all": 0.7, "denoiser": math.inf}, {"skipped_steps": 3})
    monitor.close()
    (row,) = read_metrics(tmp_path)
    assert (row["step"], row["loss"], row["vq"], row["grad_norm"], row["lr"]) == (2, 2.0, 0.5, 0.7, {"denoiser": 1e-3})
    assert row["grad_norms"] == {"denoiser": None} and row["skipped_steps"] == 3
    assert row["tokens_per_sec"] == pytest.approx(toy.FRAMES * 4 * row["samples_per_sec"])
    operations = utilisation.model_flops(cfg, sizes_of(cfg))
    assert (
        row["model_flop_utilisation"] == pytest.approx(row["samples_per_sec"] * operations / 0.5e12)
        and operations > 1e6
    )
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


def test_a_clip_is_as_wide_as_its_rows_and_becomes_a_moving_picture():
    rows = [torch.rand(5, 3, 21, 11), torch.rand(5, 3, 21, 10)]
    clip = pictures.side_by_side(rows)
    assert clip.shape == (5, 22, 22, 3) and clip.dtype == np.uint8
    with Image.open(io.BytesIO(pictures.as_gif(clip, 12))) as gif:
        assert gif.n_frames == 5
