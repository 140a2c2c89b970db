"""The demo's orchestration: what it would run, what it skips, what it says when a step fails."""

import json
import sys
from pathlib import Path

import pytest

from imanim.errors import InputError
from launchers import demo


@pytest.fixture
def plan(capsys, tmp_path):
    def made(*argv: str) -> dict[str, str]:
        assert demo.main(["--dry-run", "--output", str(tmp_path / "out"), *argv]) == 0
        return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())

    return made


def test_the_plan_goes_the_whole_way_and_every_stage_starts_from_the_one_before(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_shipped", lambda: None)
    steps = plan()
    assert list(steps) == ["data", "stage1", "stage2", "stage3", "evaluation"]
    assert "init_from" not in steps["stage1"]
    assert f"init_from='{tmp_path / 'out' / 'stage1'}'" in steps["stage2"]
    assert f"model={tmp_path / 'out' / 'stage3'}" in steps["evaluation"]
    assert all("deepspeed" in steps[s] and "--num_gpus 2" in steps[s] for s in ("stage1", "stage2", "stage3"))


def test_shipped_weights_are_where_training_starts_and_what_it_is_compared_with(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_shipped", lambda: "/assets/tiny")
    steps = plan()
    assert "init_from='/assets/tiny'" in steps["stage1"]
    assert f"init_from='{tmp_path / 'out' / 'stage2'},/assets/tiny'" in steps["stage3"]
    assert "model=/assets/tiny" in steps["evaluation of the shipped weights"]


def test_minutes_scale_the_training_steps(plan):
    def steps(text: str) -> int:
        return int(text.split("max_steps=")[1].split()[0])

    usual, double = plan(), plan("minutes=2", "--minutes", "4")
    assert steps(double["stage3"]) == 2 * steps(usual["stage3"])


def test_your_own_photo_and_clip_are_animated_too(plan, tmp_path):
    for name in ("me.png", "dance.mp4"):
        (tmp_path / name).touch()
    steps = plan("--character", str(tmp_path / "me.png"), "--driving", str(tmp_path / "dance.mp4"))
    assert str(tmp_path / "me.png") in steps["animation"] and "stage3" in steps["animation"]


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--character", "x.png"], "both or none"),
        (["--character", "x.png", "--driving", "y.mp4"], "no such file"),
        (["--minutes", "0"], "above 0"),
        (["minuets=3"], "did you mean `minutes`"),
    ],
)
def test_bad_requests_are_refused(argv, says):
    with pytest.raises(InputError, match=says):
        demo.main(argv)


def test_fresh_never_deletes_a_folder_that_is_not_a_demos(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="no demo wrote it"):
        demo.main(["--fresh", "--output", str(tmp_path)])
    assert (tmp_path / "thesis.tex").exists()


def script(tmp_path: Path, text: str) -> list[str]:
    return [sys.executable, "-c", f"import pathlib; log = pathlib.Path({str(tmp_path / 'ran')!r}); {text}"]


def test_a_finished_step_is_skipped_and_a_changed_one_is_done_again_from_nothing(tmp_path, capfdbinary):
    out = tmp_path / "out"
    count = "log.write_text(log.read_text() + 'x' if log.exists() else 'x')"
    first = script(tmp_path, count)
    assert demo._run("stage1", first, out, "1/1") >= 0
    demo._run("stage1", first, out, "1/1")
    assert (tmp_path / "ran").read_text() == "x"
    (out / "stage1").mkdir()
    (out / "stage1" / "old.ckpt").touch()
    demo._run("stage1", script(tmp_path, count + "; 1"), out, "1/1")
    assert (tmp_path / "ran").read_text() == "xx" and not (out / "stage1").exists()


def test_a_failed_step_is_named_keeps_its_log_and_is_continued_later(tmp_path, capfdbinary):
    out = tmp_path / "out"
    command = script(tmp_path, "print('half way'); ok = log.exists(); log.touch(); raise SystemExit(0 if ok else 3)")
    with pytest.raises(InputError, match="step stage1 failed with code 3"):
        demo._run("stage1", command, out, "1/1")
    assert "half way" in (out / "steps" / "stage1.log").read_text()
    (out / "stage1").mkdir()
    (out / "stage1" / "checkpoint").touch()
    demo._run("stage1", command, out, "1/1")
    assert (out / "stage1" / "checkpoint").exists()  # the same command: its own checkpoint is what it continues from
    assert json.loads((out / "steps" / "stage1.json").read_text())["done"]
