from __future__ import annotations

import subprocess
import sys

import pytest

from imanim.distributed import Place, place
from imanim.errors import InputError


def test_without_a_launcher_the_world_is_one_process():
    assert place({}) == Place(0, 1, 0, 1) and place({}).is_first


def test_torchruns_and_deepspeeds_variables_are_understood():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    deepspeed = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
    assert place(torchrun) == place(deepspeed) == Place(3, 4, 1, 2)


@pytest.mark.parametrize("env", [{"RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "a", "WORLD_SIZE": "2"}])
def test_half_an_environment_is_refused(env: dict[str, str]):
    with pytest.raises(InputError, match="RANK and WORLD_SIZE"):
        place(env)


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(InputError, match="RANK=2 is outside WORLD_SIZE=2"):
        place({"RANK": "2", "WORLD_SIZE": "2"})


def test_a_task_of_srun_knows_its_place_and_a_batch_script_is_alone():
    task = {
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_NTASKS": "4",
    }
    assert place(task) == Place(3, 4, 1, 2)
    assert place({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}) == Place()
    assert place({**task, "RANK": "0", "WORLD_SIZE": "1"}) == Place(
        0, 1, 0, 1
    )  # a launcher inside the step knows better
    with pytest.raises(InputError, match="srun"):
        place({**task, "SLURM_LOCALID": "x"})


LAST_COLLECTIVE = """
import sys, time, torch
from imanim import cli, distributed
distributed.start(60)
sys.somebodys_group = torch.distributed.group.WORLD
sys.setswitchinterval(100)  # gloo's thread gets the interpreter from whoever waits, and from nobody else
torch.distributed.all_reduce(torch.ones(1), async_op=True)
done = time.monotonic() + 0.5
while time.monotonic() < done:
    pass
"""


@pytest.mark.parametrize(("end", "code"), [("distributed.stop()", 0), ("cli.run(lambda argv: 3)", 3)])
def test_a_rank_ends_with_its_own_code_while_gloos_thread_still_holds_a_tensor(end: str, code: int):
    """Gloo drops a collective's tensors after it has said that it is done; in an ending interpreter that aborts the process."""
    done = subprocess.run([sys.executable, "-c", LAST_COLLECTIVE + end], capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
