"""A rank that stops, hangs or dies is named by the others, and the run ends within the stated time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy

from imanim.errors import LostRankError
from imanim.training import watch
from imanim.training.watch import Report, behind

SCRIPT = Path(__file__).with_name("watched.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watched")
    toy.write_model(path)
    toy.write_shards(path / "shards")
    return path


def start(folder: Path, how: str) -> list[subprocess.Popen[str]]:
    """Two ranks, without a launcher that would end one for the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), how],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("stop", "rank 1 (node {node}, process {pid}) does not answer any more"),
        ("hang", "rank 1 (node {node}, process {pid}) is behind: waits for its next batch"),
        ("die", "rank 1 (node {node}, process {pid}) has ended"),
    ],
)
def test_the_rank_that_fails_is_named_and_nobody_waits_for_ever(folder: Path, how: str, named: str):
    ranks = start(folder, how)
    try:
        said, errors = ranks[0].communicate(timeout=90)
    finally:
        for process in ranks:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
    assert f"step {3}/" in said, "the run did not come to the failure"
    assert named.format(node=socket.gethostname(), pid=ranks[1].pid) in errors
    assert ranks[0].returncode == watch.EXIT_LOST_RANK == LostRankError.exit_code


def test_whoever_has_begun_the_least_is_behind():
    reports = [Report(rank, "node", 1, 5, progress, "x") for rank, progress in enumerate((8, 7, 8, 7))]
    assert [report.rank for report in behind(reports)] == [1, 3]
    assert Report.decode(reports[1].encode()) == reports[1]


def test_one_process_that_hangs_says_what_it_was_doing(tmp_path: Path):
    program = (
        "import time; from imanim.training.watch import Watch\n"
        "w = Watch(1.0); w.begin(); w.mark('waits for its next batch'); time.sleep(60)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, cwd=SCRIPT.parents[2]
    )
    assert done.returncode == watch.EXIT_LOST_RANK and time.monotonic() - began < 40
    assert "nothing has moved for 1 s (waits for its next batch)" in done.stderr and "File" in done.stderr
