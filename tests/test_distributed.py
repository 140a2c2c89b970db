from __future__ import annotations

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
