"""The benchmarks at sizes that say nothing of speed: both sides of a ratio do the same work, and every figure is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imanim.errors import InputError
from launchers import benchmark
from launchers.benchmarks import compile as compiling
from launchers.benchmarks import loader, runs, step, zero
from launchers.benchmarks.runs import Timed


def test_an_unknown_benchmark_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(
        InputError,
        match="no such benchmark; use one of step, zero, compile, loader, preprocess, latents, features, features_video, storage",
    ):
        benchmark.main(["speed"])
    assert benchmark.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in benchmark.BENCHMARKS)


def test_both_loaders_read_every_clip(tmp_path: Path):
    found = loader.run(["--clips", "6", "--frames", "5", "--size", "32", "--turns", "2", "--json", str(tmp_path / "f")])
    assert json.loads((tmp_path / "f").read_text()) == found and len(found["ratios"]) == 2 and found["ratio"] > 0
    data = loader.clips.write(tmp_path / "shards", 5, frames=5, height=32, width=32, fps=16.0, cross=False, shards=2)
    assert loader.ours(data)() == loader.by_webdataset(data)() == 5


def test_ratios_are_of_turns_and_their_median():
    one = [Timed([2.0, 4.0, 3.0], 9.0, 100), Timed([3.0], 8.0, 100), Timed([4.0], 6.0, 200)]
    other = [Timed([1.0], 3.0, 50), Timed([3.0], 4.0, 100), Timed([2.0], 6.0, 100)]
    assert runs.ratio(one, other) == {"ratio": 2.0, "turns": [3.0, 1.0, 2.0]}
    assert runs.ratio(one, other, of="first")["turns"] == [3.0, 2.0, 1.0]
    assert runs.figures({"a": one})["a"] == {"step_sec": 3.0, "first_step_sec": 8.0, "peak_gb": 100 / 1e9}


def test_a_training_that_fails_is_told_by_its_last_line(tmp_path: Path):
    words = runs.settings(tmp_path / "nowhere", tmp_path / "run", steps=3, batch=1)
    with pytest.raises(InputError, match=r"exit code 2: .*nowhere"):
        runs.train([*runs.start(), "launchers/train.py", "--config", "configs/stage3.yaml", *words], tmp_path / "run")


def test_our_step_and_the_plain_loops_are_both_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = step.run(["--steps", "1", "--batch", "1", "--turns", "1", "--json", str(tmp_path / "step.json")])
    assert json.loads((tmp_path / "step.json").read_text()) == found
    assert all(
        found[side][name] > 0 for side in ("ours", "plain") for name in ("step_sec", "first_step_sec", "peak_gb")
    )
    assert found["step"]["ratio"] == pytest.approx(found["ours"]["step_sec"] / found["plain"]["step_sec"])
    assert capsys.readouterr().out.count("ours over plain: x") == 3


def test_zero_3_is_timed_against_zero_0(tmp_path: Path):
    found = zero.run(["--ranks", "1", "--steps", "1", "--batch", "1", "--turns", "1"])
    one = found["ranks_1"]
    assert one["step"]["ratio"] == pytest.approx(one["zero_3"]["step_sec"] / one["zero_0"]["step_sec"])


def test_compiled_and_plain_trainings_differ_in_nothing_else_and_start_with_an_empty_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked: list[list[str]] = []

    def train(command: list[str], output: Path) -> Timed:
        asked.append([word for word in command if not word.startswith("output=")])
        return Timed([1.0 if "compile=true" in command else 2.0], 9.0, 100)

    monkeypatch.setattr(runs, "train", train)
    found = compiling.run(["--zero", "3", "--turns", "2", "--data", str(tmp_path), "--json", str(tmp_path / "f")])
    assert json.loads((tmp_path / "f").read_text()) == found and found["zero_3"]["step"]["turns"] == [0.5, 0.5]
    for one, other in zip(asked[::2], asked[1::2]):
        assert {a for a, b in zip(one[2:], other[2:], strict=True) if a != b} == {"compile=true"}
    assert len({command[1] for command in asked}) == 4 and all("CACHE_DIR" in command[1] for command in asked)
    assert "step, compiled over plain: x0.50" in capsys.readouterr().out
