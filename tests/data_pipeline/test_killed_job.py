"""kill -9 at any moment, then the same command again: the same bytes as undisturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from moving_disc import disc_frames, settings, write
from test_job import bytes_of

from imanim.config import to_yaml

ROOT = Path(__file__).resolve().parents[2]
KILLS = 12


def command(config, folder, *words):
    (folder / "job.yaml").write_text(to_yaml(config))
    return [sys.executable, "launchers/preprocess.py", *words, "--config", str(folder / "job.yaml")]


def start(words):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)])}
    said = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, cwd=ROOT, env=env, start_new_session=True, **said)


@pytest.mark.slow
def test_killed_at_random_moments_a_job_ends_in_the_same_bytes(tmp_path):
    videos = tmp_path / "in"
    videos.mkdir()
    for i in range(6):
        write(videos / f"v{i}.mp4", disc_frames(90 + 20 * i, blue=10 + 15 * i, ground=60 + 10 * i))
    write(videos / "cut.mp4", np.concatenate([disc_frames(40, blue=5), disc_frames(40, ground=180, blue=5)]))
    (videos / "bad.mp4").write_bytes((videos / "v0.mp4").read_bytes()[:4000])
    undisturbed = settings(videos, tmp_path / "whole")
    begun = time.monotonic()
    assert start(command(undisturbed, tmp_path)).wait() == 0
    seconds = time.monotonic() - begun
    chance = random.Random(7)
    config = settings(videos, tmp_path / "out")
    killed = 0
    for _ in range(KILLS):
        process = start(command(config, tmp_path))
        try:
            process.wait(chance.uniform(0.2, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            killed += 1
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
    last = start(command(config, tmp_path))
    text, _ = last.communicate()
    assert last.returncode == 0, text
    assert killed >= KILLS // 4, "hardly a kill hit the work"
    assert bytes_of(config.output) == bytes_of(undisturbed.output)
