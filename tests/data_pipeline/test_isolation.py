"""Videos that hang, crash or eat memory cost nobody else."""

import os

import bad_neighbours
import pytest

from data_pipeline.config import LimitsConfig
from data_pipeline.jobs import isolation
from imanim.errors import InputError

LIMITS = LimitsConfig(memory_gb=0.6, stall_sec=6.0, total_sec=12.0)


def test_each_ends_as_it_must_and_the_others_are_done():
    tasks = ["good-1", "exit", "hang", "good-2", "segfault", "hoard", "gulp", "busy", "good-3", "good-4"]
    ended = {e.task: e for e in isolation.run(bad_neighbours.work, tasks, 3, LIMITS)}
    assert {task: e.reason for task, e in ended.items()} == {
        "good-1": None,
        "good-2": None,
        "good-3": None,
        "good-4": None,
        "exit": "crashed",
        "segfault": "crashed",
        "hang": "stalled",
        "busy": "out_of_time",
        "hoard": "out_of_memory",
        "gulp": "out_of_memory",
    }
    assert "SIGSEGV" in ended["segfault"].detail and "code 3" in ended["exit"].detail
    assert "limits.memory_gb" in ended["hoard"].detail and "limits.stall_sec" in ended["hang"].detail
    processes = {e.result for task, e in ended.items() if task.startswith("good")}
    assert len(processes) == 4 and os.getpid() not in processes, "each has a process of its own"


def test_a_refusal_stops_the_batch():
    with pytest.raises(InputError, match="disk is full"):
        list(isolation.run(bad_neighbours.work, ["good-1", "refuse", "hang"], 2, LIMITS))
