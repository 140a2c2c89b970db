"""The benchmark of feature networks, at a size that says nothing of speed: both sides must give the same features."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imanim import weights
from imanim.errors import InputError
from launchers.benchmarks import references


def test_both_sides_give_the_same_features(tmp_path: Path):
    try:
        references.installed("torch_fidelity")
        weights.require("inception-2015")
    except InputError as error:
        pytest.skip(str(error))
    file = tmp_path / "figures.json"
    words = "features --case inception --threads 1 --count 2 --batch 2 --turns 1 --json".split()
    # In a process of its own: it puts empty classes in the place of torchvision.
    done = subprocess.run(
        [sys.executable, "launchers/benchmark.py", *words, str(file)],
        cwd=references.ROOT,
        env={**os.environ, "PYTHONPATH": str(references.ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())["inception, 1 threads"]
    assert found["apart"] < 1e-4 and found["ours"] > 0 and found["theirs"] > 0 and len(found["ratios"]) == 1
    assert "per 1000 pictures, torch-fidelity" in done.stdout


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"pytorch_fid: not installed; run `pip install --no-deps pytorch-fid==0\.3\.0`"
    ):
        references.installed("pytorch_fid")
