from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
import torch
import toy
from safetensors.torch import load_file

from imanim import distributed
from imanim.config import load
from imanim.data.files import write_json
from imanim.errors import InputError
from imanim.models import files
from imanim.models.animator import Animator
from imanim.models.config import AnimatorConfig
from imanim.training import checkpoint, engine, transfer
from imanim.training.config import TrainConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

from sizes import mini

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
IDENTITY = {"stage": 1, "optimizer.lr": 1e-3}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of one without a process group."""
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    monkeypatch.setattr(distributed, "gather", lambda value: [value])
    monkeypatch.setattr(distributed, "from_first", lambda value: value)
    monkeypatch.setattr(distributed, "tell", lambda *values, device: [[float(value)] for value in values])
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def small_animator() -> Animator:
    torch.manual_seed(0)
    animator = Animator(mini(), ("codebook", "joint_decoder"))
    animator.set_modes({"codebook": "frozen", "joint_decoder": "train"})
    return animator


class Alone:
    """An engine without ZeRO: torch's own AdamW on the module's parameters."""

    def __init__(self, animator: Animator):
        self.optimizer = torch.optim.AdamW([p for p in animator.parameters() if p.requires_grad], lr=1e-2)
        self.global_steps = 0


def train(animator: Animator, engine: Alone, steps: int) -> None:
    for _ in range(steps):
        engine.optimizer.zero_grad()
        sum(p.square().sum() for p in animator.parameters() if p.requires_grad).backward()
        engine.optimizer.step()


def save(output: Path, step: int, keep: int = 2, animator: Animator | None = None, engine: Alone | None = None) -> Path:
    animator = animator or small_animator()
    writer = checkpoint.Writer(output, keep=keep)
    writer.take(engine or Alone(animator), animator, {"step": step, "stage": 1, "identity": IDENTITY}, None)
    writer.finish(torch.device("cpu"))
    return output / "checkpoints" / f"step-{step:06d}"


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path, alone: None):
    assert checkpoint.newest(tmp_path) is None
    for step in (9, 10, 100):
        save(tmp_path, step, keep=3)
    (tmp_path / "checkpoints" / ".partial-step-000200").mkdir()
    (tmp_path / "checkpoints" / "step-000300").mkdir()  # no state.json: not complete
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 100 and found.state["ranks"] == 1


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path, alone: None):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-000003", "step-000004"]


def test_what_was_saved_comes_back_bit_for_bit_and_goes_on_alike(tmp_path: Path, alone: None):
    animator = small_animator()
    engine = Alone(animator)
    train(animator, engine, 3)
    animator.codebook.uses.fill_(0.25)
    save(tmp_path, 3, animator=animator, engine=engine)
    again = small_animator()
    other = Alone(again)
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.state["optimizer_steps"] == 3
    checkpoint.load(other, again, found, None)
    train(animator, engine, 2)
    train(again, other, 2)
    mine, theirs = animator.state_dict(), again.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert other.global_steps == 3 and float(again.codebook.uses[0]) == 0.25


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
@pytest.mark.parametrize("name", ["optimizer-rank-00000.safetensors", "untrained.safetensors"])
def test_a_damaged_file_is_found_by_its_hash_before_anything_is_changed(
    tmp_path: Path, alone: None, harm: str, name: str
):
    path = save(tmp_path, 3) / name
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    animator = small_animator()
    before = {key: value.clone() for key, value in animator.state_dict().items()}
    found = checkpoint.newest(tmp_path)
    assert found is not None
    with pytest.raises(
        InputError, match=f"{name}: missing or damaged; remove this folder to continue from an older one"
    ):
        checkpoint.load(Alone(animator), animator, found, None)
    assert all(torch.equal(value, before[key]) for key, value in animator.state_dict().items())


def test_what_is_written_is_what_was_there_when_it_was_taken(tmp_path: Path, alone: None):
    """The files are written while the run goes on."""
    animator = small_animator()
    engine, writer = Alone(animator), checkpoint.Writer(tmp_path, keep=2)
    train(animator, engine, 1)
    then = {name: value.clone() for name, value in animator.state_dict().items()}
    writer.take(engine, animator, {"step": 1, "stage": 1, "identity": IDENTITY}, None)
    train(animator, engine, 1)
    animator.codebook.uses.fill_(7)
    assert writer.condition in (writer.BUSY, writer.DONE) and checkpoint.newest(tmp_path) is None
    writer.settle([float(writer.BUSY)])
    assert checkpoint.newest(tmp_path) is None, "another rank is still writing"
    writer.finish(torch.device("cpu"))
    assert writer.condition == writer.IDLE
    again, found = small_animator(), checkpoint.newest(tmp_path)
    assert found is not None
    checkpoint.load(Alone(again), again, found, None)
    assert all(torch.equal(value, then[name]) for name, value in again.state_dict().items())
    assert not torch.equal(animator.codebook.uses, then["codebook.uses"])


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 1)

    def refuse(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(InputError, match=r"could not be written .*No space left"):
        save(tmp_path, 2)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_defect_of_ours_is_not_called_a_full_disk(tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch):
    def fail(tensors: object, path: Path) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        save(tmp_path, 1)


def test_an_empty_folder_starts_afresh_and_an_equal_run_continues(tmp_path: Path, alone: None):
    assert checkpoint.to_continue(tmp_path, "auto", IDENTITY) is None
    save(tmp_path, 5)
    found = checkpoint.to_continue(tmp_path, "auto", IDENTITY)
    assert found is not None and found.step == 5


@pytest.mark.parametrize(
    ("resume", "identity", "named"),
    [
        ("never", IDENTITY, "resume=auto"),
        ("auto", {**IDENTITY, "optimizer.lr": 2e-3}, "optimizer.lr is 0.001 there and 0.002 here"),
        ("auto", {**IDENTITY, "stage": 2}, "stage 1"),
    ],
)
def test_another_run_in_the_folder_is_refused(tmp_path: Path, alone: None, resume: str, identity: dict, named: str):
    save(tmp_path, 5)
    with pytest.raises(InputError, match=named):
        checkpoint.to_continue(tmp_path, resume, identity)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, alone: None):
    path = save(tmp_path, 5)
    write_json(path / "state.json", {"format": 99, "step": 5})
    with pytest.raises(InputError, match="format 99"):
        checkpoint.to_continue(tmp_path, "auto", IDENTITY)


def stage2(folder: Path, *overrides: str) -> TrainConfig:
    always = [f"data.train={folder}", f"output={folder / 'run'}"]
    return load(TrainConfig, CONFIGS / "stage2.yaml", [*always, *overrides])


@pytest.fixture
def first_stage(tmp_path: Path) -> Animator:
    """A saved model with stage 1's parts in ``tmp_path/first/model``."""
    cfg = load(AnimatorConfig, toy.write_model(tmp_path))
    torch.manual_seed(1)
    animator = Animator(cfg, ("tokenizer_encoder", "codebook", "motion_decoder"))
    animator.save_pretrained(tmp_path / "first" / "model")
    return animator


def test_a_stage_starts_from_exactly_the_last_ones_weights(tmp_path: Path, first_stage: Animator):
    cfg = stage2(tmp_path, f"init_from={tmp_path / 'first'}")
    animator, origin = transfer.build(cfg, transfer.model_config(cfg), None)
    state = animator.state_dict()
    assert all(torch.equal(state[name], value) for name, value in first_stage.state_dict().items())
    assert origin["tokenizer_encoder"].endswith("first/model") and origin["retargeter"] == "new"
    assert not any(p.requires_grad for p in animator.part("tokenizer_encoder").parameters())
    assert all(p.requires_grad for p in animator.part("retargeter").parameters())
    assert not animator.part("codebook").updates


def test_the_first_of_several_folders_that_has_a_part_gives_it(tmp_path: Path, first_stage: Animator):
    torch.manual_seed(2)
    everything = Animator(first_stage.config)
    everything.save_pretrained(tmp_path / "shipped")
    cfg = stage2(tmp_path, f"init_from={tmp_path / 'first'},{tmp_path / 'shipped'}")
    animator, origin = transfer.build(cfg, transfer.model_config(cfg), None)
    assert origin["tokenizer_encoder"].endswith("first/model") and origin["retargeter"].endswith("shipped")
    expected = everything.part("retargeter").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in animator.part("retargeter").state_dict().items())


def test_weights_of_another_size_are_refused_with_tensor_and_shapes(tmp_path: Path, first_stage: Animator):
    other = tmp_path / "other"
    other.mkdir()
    bigger = toy.write_model(other).read_text().replace("tokens: 4", "tokens: 6")
    (other / "toy.yaml").write_text(bigger)
    cfg = stage2(tmp_path, f"init_from={tmp_path / 'first'}", f"model={other / 'toy.yaml'}")
    with pytest.raises(InputError, match=r"latent_tokens is \[4, 32\] in the file, \[6, 32\] in the model"):
        transfer.build(cfg, transfer.model_config(cfg), None)


def test_what_a_part_does_not_save_is_neither_gathered_nor_exported(
    tmp_path: Path, alone: None, first_stage: Animator, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = {"head.to_cells.weight", "head.to_cells.bias"}
    first_stage.part("motion_decoder").unsaved = frozenset(elsewhere)
    gathered: list[torch.Tensor] = []
    real = engine.local_master
    monkeypatch.setattr(engine, "local_master", lambda p: gathered.append(p) or real(p))
    folder = transfer.export(None, first_stage, tmp_path / "run", {"stage": 1}, None)
    saved = load_file(folder / "motion_decoder" / files.WEIGHTS)
    state = first_stage.part("motion_decoder").state_dict()
    assert saved.keys() == state.keys() - elsewhere and elsewhere < state.keys()
    assert all(torch.equal(value, state[name]) for name, value in saved.items())
    asked = {id(p) for p in gathered}
    parameters = dict(first_stage.part("motion_decoder").named_parameters())
    assert {n for n, p in parameters.items() if id(p) not in asked} == elsewhere


def test_a_frozen_part_without_weights_is_refused(tmp_path: Path, first_stage: Animator):
    cfg = stage2(tmp_path, f"init_from={tmp_path / 'first'}", "parts.retargeter.mode=frozen")
    with pytest.raises(InputError, match=r"parts\.retargeter: frozen"):
        transfer.build(cfg, transfer.model_config(cfg), None)


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"model_index\.json"):
        transfer.sources(stage2(tmp_path, f"init_from={tmp_path / 'empty'}"))
