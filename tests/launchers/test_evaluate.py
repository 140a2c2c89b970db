"""launchers/evaluate.py: refusals, the dry run and the verbs (what it measures is tested in tests/evaluation)."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from imanim import cli
from launchers import evaluate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation"))

from protocol_samples import write_data

QUICK = ["--config", "configs/eval/doubles_quick.yaml"]
SMALL = ["protocol.size=[64,48]", "protocol.frames=9"]


@pytest.mark.parametrize(
    "argv, says",
    [
        ([], "--config: not given"),
        ([*QUICK, "data=/nowhere", "--dry-run"], "no such folder"),
        ([*QUICK, "data=x", "outptu=y"], "did you mean `output`"),
        ([*QUICK, "data=x", "protocol.metrics=[fid]"], "`fid` is unknown"),
        ([*QUICK, "data=x", "model=/nowhere"], "/nowhere: no such folder"),
        ([*QUICK, "--predictions", "/nowhere", "model=y"], "give one of them"),
        (["--config", "configs/eval/tiktok_disco.yaml"], "data: required"),
        (["compare", "/nowhere/a", "/nowhere/b"], "/nowhere/a"),
        (["table", "/nowhere/a"], "/nowhere/a"),
    ],
)
def test_bad_requests_leave_with_one_line_and_two(argv, says, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *argv])
    with pytest.raises(SystemExit) as left:
        cli.run(evaluate.main)
    error = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and len(error) == 1 and says in error[0]


def test_the_settings_and_the_metrics_are_listed(capsys):
    assert evaluate.main(["--settings"]) == 0
    assert "video_clips" in capsys.readouterr().out
    assert evaluate.main(["metrics"]) == 0
    listed = capsys.readouterr().out
    for name in ("fid-clean", "fvd-videogpt", "lpips-alex", "identity", "temporal", "legacy_wrong-psnr-uint8"):
        assert f"\n{name}" in f"\n{listed}"


def test_a_dry_run_counts_and_writes_nothing(tmp_path, capsys):
    data = write_data(tmp_path / "data")
    assert evaluate.main([*QUICK, f"data={data}", f"output={tmp_path / 'out'}", *SMALL, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 samples (4 with video)" in said and "doubles-quick 1: psnr, ssim" in said
    assert not (tmp_path / "out").exists()


def test_videos_of_two_people_are_measured_tabled_and_compared(tmp_path, capsys):
    """Two folders of predictions: one the truth itself, the other held still, with one sample missing."""
    from evaluation.protocols.shards import items
    from imanim import config
    from imanim.data.video import write_png

    data = write_data(tmp_path / "data")
    from evaluation.benchmark import EvalConfig

    cfg = config.load(EvalConfig, QUICK[1], [f"data={data}", *SMALL])
    for item in items(cfg.protocol, str(data)):
        material = item.load()
        for i, frame in enumerate(material.truth):
            write_png(tmp_path / "good" / item.key / f"{i}.png", frame)
            write_png(tmp_path / "still" / item.key / f"{i}.png", material.character)
    shutil.rmtree(tmp_path / "still" / "s0")
    words = [*QUICK, f"data={data}", *SMALL]
    good, still = (
        [*words, "--predictions", str(tmp_path / n), f"output={tmp_path / f'{n}-out'}"] for n in ("good", "still")
    )
    assert evaluate.main(good) == 0 and evaluate.main(still) == 1
    assert "1 samples could not be measured; the first, s0" in capsys.readouterr().out
    folder = tmp_path / "good-out"
    assert {"results.json", "report.html", "table.md", "table.tex"} <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "results.json").read_text())["groups"]["all"]["means"]["ours"]["ssim"] == pytest.approx(
        1
    )
    a, b = str(folder), str(tmp_path / "still-out")
    assert evaluate.main(["compare", a, b, "--html", str(tmp_path / "c.html")]) == 0
    said = capsys.readouterr().out
    assert "PSNR" in said and (tmp_path / "c.html").read_text().startswith("<!doctype html>")
    assert evaluate.main(["table", a, b, "--latex", "--published"]) == 0
    assert r"\begin{tabular}" in capsys.readouterr().out
