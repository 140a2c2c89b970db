"""The same job on Ray: a cluster of this one machine."""

import bad_neighbours
import numpy as np
import pytest
from moving_disc import disc_frames, settings, write
from test_job import bytes_of

from data_pipeline.config import LimitsConfig
from data_pipeline.jobs import job, on_ray
from imanim.errors import InputError

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")


@pytest.mark.slow
def test_a_job_on_ray_makes_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    videos = tmp_path / "in"
    videos.mkdir()
    for i in range(3):
        write(videos / f"v{i}.mp4", disc_frames(80, blue=10 + 30 * i, ground=60 + 20 * i))
    write(videos / "pair.mp4", np.concatenate([disc_frames(60), disc_frames(60)], axis=2))
    here, there = settings(videos, tmp_path / "here"), settings(videos, tmp_path / "ray")
    job.run(here, progress=False)
    job.plan(there)
    job.run_task(there, 1, 1, progress=False, ray="local")
    job.merge(there)
    assert bytes_of(there.output) == bytes_of(here.output)

    # A video that crashes or hangs costs nobody else there either; a refusal stops the batch.
    there.limits = LimitsConfig(memory_gb=0.6, stall_sec=6.0, total_sec=12.0)
    tasks = ["good-1", "segfault", "hang", bad_neighbours.Unloadable("lost"), "good-2"]
    ended = {e.task: e.reason for e in on_ray.run(bad_neighbours.work, tasks, there, "local")}
    assert ended == {"good-1": None, "segfault": "crashed", "hang": "stalled", "lost": "crashed", "good-2": None}
    with pytest.raises(InputError, match="disk is full"):
        list(on_ray.run(bad_neighbours.work, ["refuse"], there, "local"))


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no Ray cluster there"):
        list(on_ray.run(bad_neighbours.work, ["good-1"], settings(tmp_path, tmp_path), "auto"))
