"""A clip's tokens cut over ranks: what comes out, and every gradient, is that of one rank alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import team_ranks
from base_pipeline import family
from safetensors.torch import load_file
from torch import Tensor, multiprocessing

from imanim.errors import InputError
from imanim.models.animator import Animator
from imanim.sequence import Team


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on teams of 1, 2 and 3 processes (see team_ranks.py). One that waits for another for ever fails here."""
    folder = tmp_path_factory.mktemp("teams")
    multiprocessing.spawn(team_ranks.run, (str(folder),), nprocs=max(team_ranks.SIZES))
    return folder


def load(folder: Path, name: str, size: int, rank: int) -> dict[str, Tensor]:
    return load_file(folder / f"{name}-{size}-{rank}.safetensors")


@pytest.mark.parametrize("size", team_ranks.SIZES[1:])
@pytest.mark.parametrize("name", team_ranks.CASES)
def test_a_team_computes_what_one_rank_computes(ranks: Path, name: str, size: int):
    alone = load(ranks, name, 1, 0)
    assert any(key.startswith("grad.denoiser.transformer.blocks.1.attn1.to_q") for key in alone)
    assert any(key.startswith("grad.expression.blocks") for key in alone)
    for rank in range(size):
        found = load(ranks, name, size, rank)
        assert found.keys() == alone.keys()
        for key, value in found.items():
            scale = alone[key].abs().max().clamp(min=1e-3)
            off = (value - alone[key]).abs().max() / scale
            assert off < 2e-4, f"{key}: rank {rank} is {off:.1e} off"


def test_the_plain_model_is_not_touched_by_forming_teams_of_one():
    animator = Animator(family("wan2.1-1.3b"), ("denoiser",))
    before = [type(block.attn1.processor) for block in animator.denoiser.transformer.blocks]
    animator.share(Team())
    assert [type(block.attn1.processor) for block in animator.denoiser.transformer.blocks] == before


@pytest.mark.parametrize(
    ("heads", "frames", "message"),
    [
        (2, 9, "sequence_parallel: 3: each rank needs one of the 2 denoiser.heads; use at most 2"),
        (4, 5, "2 latent frames"),
    ],
)
def test_a_team_larger_than_frames_or_heads_is_refused(heads: int, frames: int, message: str):
    config = family("wan2.1-1.3b", heads=heads)
    config.frames = frames
    with pytest.raises(InputError, match=message):
        Animator(config, ("denoiser",)).share(Team(3, 0))
