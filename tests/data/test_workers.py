"""The loader's decoding processes: how they end, and what is said when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_sample_and_shards import make_sample

from imanim.data.sample import encode
from imanim.data.shards import ShardSet, write_manifest, write_shard
from imanim.data.stream import Loader, SampleDataset, close, lost_worker
from imanim.errors import InputError

ENDS = """
import multiprocessing, sys
from imanim.data.shards import ShardSet
from imanim.data.stream import Loader, SampleDataset, close, lost_worker
data = SampleDataset(ShardSet(sys.argv[1], "train"), frames=5, height=32, width=16)
feed = iter(Loader(data, global_batch=2, seed=0, workers=2))
print(next(feed)["keys"])
close(feed)
print(len(multiprocessing.active_children()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workers")
    write_shard(path, "train", 0, [(f"s{i}", encode(make_sample(f"s{i}", seed=i))) for i in range(4)])
    write_manifest(path, {"licence": "none"})
    return path


def test_closing_a_feed_ends_its_workers_without_a_word(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS, str(folder)], capture_output=True, text=True, timeout=1200)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "0"


def test_a_feed_with_workers_gives_what_one_without_gives(folder: Path) -> None:
    data = SampleDataset(ShardSet(folder, "train"), frames=5, height=32, width=16)
    alone, helped = (iter(Loader(data, global_batch=2, seed=0, workers=workers)) for workers in (0, 2))
    for _ in range(4):
        a, b = next(alone), next(helped)
        assert a["keys"] == b["keys"] and (a["driving"] == b["driving"]).all()


def test_a_killed_worker_is_told_and_not_waited_for(folder: Path) -> None:
    data = SampleDataset(ShardSet(folder, "train"), frames=5, height=32, width=16)
    feed = iter(Loader(data, global_batch=2, seed=0, workers=1))
    next(feed)
    # Killed between batches PyTorch says so; killed while it hands one over, the connection breaks first.
    with pytest.raises((RuntimeError, ConnectionError, EOFError)) as caught:
        os.kill(feed._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
        for _ in range(20):
            next(feed)
    told = lost_worker(caught.value)  # what imanim.training.loop knows the failure by
    assert told is not None and "DataLoader worker" in told


def test_a_connection_that_broke_elsewhere_is_no_lost_worker() -> None:
    with pytest.raises(ConnectionResetError) as caught:
        raise ConnectionResetError("somebody else's")
    assert (
        lost_worker(caught.value) is None and lost_worker(None) is None and lost_worker(RuntimeError("other")) is None
    )


def test_a_worker_killed_while_it_hands_a_batch_over_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SampleDataset(ShardSet(folder, "train"), frames=5, height=32, width=16)
    feed = iter(Loader(data, global_batch=2, seed=0, workers=1))
    next(feed)

    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(feed._data_queue, "get", broken)  # type: ignore[attr-defined]
    with pytest.raises(ConnectionResetError) as caught:
        next(feed)
    monkeypatch.undo()
    close(feed)
    assert "handed a batch over" in (lost_worker(caught.value) or "")


def test_a_worker_s_refusal_is_one_line_without_its_traceback(folder: Path, tmp_path: Path) -> None:
    data = SampleDataset(ShardSet(folder, "train"), frames=9, height=32, width=16)
    told = []
    for workers in (0, 1):
        feed = iter(Loader(data, global_batch=2, seed=0, workers=workers))
        with pytest.raises(InputError) as caught:
            next(feed)
        close(feed)
        told.append(str(caught.value))
    assert told[0] == told[1] and "Traceback" not in told[1] and told[1].startswith("sample s")
