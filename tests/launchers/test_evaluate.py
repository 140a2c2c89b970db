"""launchers/evaluate.py: refusals and the dry run (what it measures is tested in tests/evaluation)."""

import sys

import pytest

from imanim import cli
from launchers import evaluate


@pytest.mark.parametrize(
    "argv, says",
    [
        ([], "data: required"),
        (["data=/nowhere", "--dry-run"], "no such folder"),
        (["data=x", "setps=3"], "did you mean `steps`"),
        (["data=x", "model=/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_bad_requests_leave_with_one_line_and_two(argv, says, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *argv])
    with pytest.raises(SystemExit) as left:
        cli.run(evaluate.main)
    error = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and len(error) == 1 and says in error[0]


def test_the_settings_are_listed(capsys):
    assert evaluate.main(["--settings"]) == 0
    assert "video_clips" in capsys.readouterr().out


def test_the_shipped_configuration_is_readable():
    from evaluation.benchmark import EvalConfig
    from imanim import config

    cfg = config.load(EvalConfig, "configs/eval/cross_identity.yaml", ["data=x"])
    assert cfg.splits == ["test"] and cfg.video_clips is None
