"""torch.compile: the same training by other code, or one line that says why not."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn
from torch._dynamo.utils import counters

from imanim.models import sizes
from imanim.models.animator import Animator
from imanim.models.layers import Attention, Block
from imanim.training import compiling

SCRIPT = Path(__file__).with_name("compiled.py")
REPOSITORY = SCRIPT.parents[2]
CXX = os.environ.get("CXX", "g++")
needs_cxx = pytest.mark.skipif(shutil.which(CXX) is None, reason=f"no C++ compiler here ({CXX})")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's data, and an untrained model for stage 3 to start from."""
    path = tmp_path_factory.mktemp("compiling")
    toy.write_shards(path / "shards")
    cfg = sizes.load(str(toy.write_model(path)))
    torch.manual_seed(0)
    parts = ("tokenizer_encoder", "codebook", "motion_decoder", "joint_decoder", "retargeter")
    animator = Animator(cfg, parts)
    animator.codebook.ready.fill_(True)
    animator.save_pretrained(path / "stage2")
    return path


def start(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    done = start(str(SCRIPT), str(folder))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads((folder / "found.json").read_text())


@needs_cxx
@pytest.mark.slow
def test_a_compiled_run_under_zero_3_is_the_plain_one_in_one_graph_a_block(found: dict[str, Any]):
    plain, compiled = found["plain"], found["compiled"]
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert compiled["norms"] == pytest.approx(plain["norms"], rel=1e-4)
    # The trial's line, the frozen encoder's block, the identity encoder's, the retargeter's, the DiT's two in one.
    assert (compiled["graphs"], compiled["breaks"]) == (5, 0)


@needs_cxx
@pytest.mark.slow
def test_model_and_checkpoint_have_the_names_of_a_plain_run_and_continue_bit_for_bit(found: dict[str, Any]):
    assert found["compiled"]["names"] == found["plain"]["names"]
    assert any("transformer.blocks.1.attn1.to_q.weight" in name for name in found["plain"]["names"])
    assert found["compiled"]["resumed"] and found["plain"]["resumed"]


def test_without_a_compiler_training_is_refused_before_it_starts(folder: Path, tmp_path: Path):
    words = [f"data.train={folder / 'shards'}", f"model={folder / 'toy.yaml'}", f"output={tmp_path / 'run'}"]
    command = ["launchers/train.py", "--config", "configs/stage1.yaml", "compile=true", *words, "data.workers=0"]
    done = start(*command, CXX="/no/such/c++")
    said = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and not (tmp_path / "run").exists() and "Traceback" not in done.stderr
    assert "compile: true" in said and "/no/such/c++" in said and "compile=false" in said


def test_a_block_that_is_not_one_graph_ends_the_run_with_one_line():
    class Odd(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return super().forward(x)

    model = nn.Sequential(Odd(8, 2))
    compiling.compile_blocks(model, shapes=False)
    with pytest.raises(Exception) as caught:
        model(torch.ones(1, 2, 8))
    told = compiling.failure(caught.value)
    assert told is not None and str(told).startswith("compile: true") and str(told).endswith("set compile=false")
    assert compiling.failure(ValueError("something else")) is None and compiling.failure(None) is None


@pytest.mark.parametrize(("shapes", "versions"), [(False, 3), (True, 1)])
def test_samples_of_several_shapes_share_their_code(monkeypatch: pytest.MonkeyPatch, shapes: bool, versions: int):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = nn.Sequential(Block(8, 2), Block(8, 2))
    compiling.compile_blocks(model, shapes=shapes)
    before = counters["stats"]["unique_graphs"]
    for length in (3, 5, 7):
        model(torch.ones(2, length, 8, requires_grad=True))
    assert counters["stats"]["unique_graphs"] - before == versions


@pytest.mark.parametrize("name", ["tiny", "wan2.1-1.3b"])
def test_every_repeated_block_is_known_and_no_name_changes(name: str):
    with torch.device("meta"):
        animator = Animator(sizes.load(name))
    names = list(animator.state_dict())
    compiling.compile_blocks(animator, shapes=False)
    assert list(animator.state_dict()) == names
    attention = (Attention, nn.MultiheadAttention, WanAttention)
    stacks = [m for m in animator.modules() if isinstance(m, (nn.ModuleList, nn.ModuleDict))]
    blocks = [b for stack in stacks for b in stack.children() if any(isinstance(m, attention) for m in b.modules())]
    assert len(blocks) > 10 and all("forward" in vars(block) for block in blocks)
