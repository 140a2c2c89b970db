"""Saving and loading: there and back bit for bit, shards, interrupted saves, what is kept out (refusals: test_damaged_files.py)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file
from saving import SHARD_BYTES, TWO, refused, same
from sizes import mini, mini_batch
from torch import nn

import imanim
from imanim.errors import InputError
from imanim.inference import PACKAGED_MODEL
from imanim.models import animator as animator_module
from imanim.models import files, wan
from imanim.models.animator import PARTS, Animator
from imanim.models.files import CONFIG, INDEX, SHARD_INDEX, WEIGHTS
from imanim.revision import revision

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def saved(tmp_path):
    """A small model of two parts."""
    Animator(mini(), TWO).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def sharded(tmp_path):
    """The same in shards, the retargeter in many."""
    Animator(mini(), TWO).save_pretrained(tmp_path / "m", max_shard_bytes=SHARD_BYTES)
    return tmp_path / "m"


# ---------------------------------------------------------------------------------------------------- there and back


def test_saving_and_loading_gives_the_same_model(tmp_path):
    animator = Animator(mini()).eval()
    animator.save_pretrained(tmp_path / "model", record={"stage": 3})
    same(animator, Animator.from_pretrained(tmp_path / "model"))
    assert not (tmp_path / "model.partial").exists()
    some = Animator.from_pretrained(tmp_path / "model", TWO)
    assert some.parts == TWO
    animator.save_pretrained(tmp_path / "model")  # over an old one
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_the_index_tells_what_made_the_weights_and_every_files_size(saved):
    Animator(mini(), TWO).save_pretrained(saved, record={"stage": 2, "losses": {"joints": 0.5}})
    tree, index = json.loads((saved / INDEX).read_text()), files.read_index(saved)
    assert tree["_class_name"] == "Animator" and tree["_format"] == 2
    assert index.version == imanim.__version__ and index.revision == revision()
    assert index.record == {"stage": 2, "losses": {"joints": 0.5}} and index.config == mini()
    for part in TWO:
        assert index.files[part] == {p.name: p.stat().st_size for p in (saved / part).iterdir()}
        assert index.files[part].keys() == {CONFIG, WEIGHTS}
        assert index.sizes_bytes[part] == sum(index.files[part].values())


def test_a_loaded_model_equals_a_built_and_filled_one_bit_for_bit(tmp_path):
    torch.manual_seed(1)
    Animator(mini()).save_pretrained(tmp_path / "model")
    torch.manual_seed(2)
    filled = Animator(mini())
    assert filled.load_parts(tmp_path / "model") == list(PARTS)
    loaded, filled = Animator.from_pretrained(tmp_path / "model"), filled.eval()
    same(loaded, filled)
    batch, latents = mini_batch(), torch.randn(2, 8, 4, 2)
    nn.init.normal_(filled.denoiser.transformer.proj_out.weight)
    loaded.denoiser.transformer.proj_out.weight.data.copy_(filled.denoiser.transformer.proj_out.weight)
    outputs = []
    for model in (loaded, filled):
        told = model.conditions(batch["driving"], batch["faces"], latents)
        outputs.append(model.denoise(torch.ones(2, 8, 3, 4, 2), torch.tensor([0.3, 0.8]), *told))
    assert outputs[0].std() > 0 and torch.equal(*outputs)


def test_nothing_is_initialised_that_the_folder_overwrites(saved, monkeypatch):
    seen, real = [], files.check_part
    monkeypatch.setattr(files, "check_part", lambda i, n, part: seen.append(part) or real(i, n, part))
    loaded = Animator.from_pretrained(saved)
    assert len(seen) == 2 and not any(p.is_meta for p in loaded.parameters())
    monkeypatch.setattr(Animator, "_check_weights", lambda self: None)
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
    assert all(p.is_meta for p in Animator.from_pretrained(saved).part("retargeter").parameters())


def test_weights_come_in_the_type_asked_for_but_the_codebook_and_computed_tables_stay_float32(tmp_path):
    animator = Animator(mini()).eval()
    animator.save_pretrained(tmp_path / "model")
    loaded = Animator.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert {v.dtype for v in loaded.codebook.state_dict().values()} == {torch.float32}
    for name, value in animator.state_dict().items():
        wanted = value if name.startswith("codebook.") else value.to(torch.bfloat16)
        assert torch.equal(loaded.state_dict()[name], wanted) and loaded.state_dict()[name].dtype == wanted.dtype, name
    rotary = loaded.denoiser.transformer.rope.freqs_cos
    assert rotary.dtype == torch.float32 and torch.equal(rotary, animator.denoiser.transformer.rope.freqs_cos)
    batch = mini_batch()
    told = loaded.conditions(batch["driving"], batch["faces"], torch.randn(2, 8, 4, 2))
    assert loaded.denoise(torch.ones(2, 8, 3, 4, 2), torch.tensor([0.3, 0.8]), *told).isfinite().all()
    with pytest.raises(InputError, match=r"dtype: torch\.int8"):
        Animator.from_pretrained(tmp_path / "model", dtype=torch.int8)


def test_loaded_weights_are_memory_of_their_own(saved):
    loaded = Animator.from_pretrained(saved)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    assert all(value.data_ptr() % 16 == 0 for value in before.values())
    for path in saved.rglob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))  # in place: a mapped file would change under the model
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())


def test_the_shipped_model_is_whole():
    index = files.read_index(PACKAGED_MODEL)
    assert index.parts == PARTS and index.record["stage"] == 3
    assert Animator.from_pretrained(PACKAGED_MODEL).parts == PARTS


def test_a_stage_takes_what_the_last_one_has_and_keeps_the_rest(tmp_path):
    Animator(mini(), ("tokenizer_encoder", "codebook")).save_pretrained(tmp_path / "one")
    animator = Animator(mini(), ("tokenizer_encoder", "codebook", "retargeter"))
    start = animator.part("retargeter").mask_token.clone()
    parameter = animator.part("tokenizer_encoder").latent_tokens
    assert animator.load_parts(tmp_path / "one", strict=False) == ["tokenizer_encoder", "codebook"]
    assert torch.equal(animator.part("retargeter").mask_token, start)
    assert animator.part("tokenizer_encoder").latent_tokens is parameter, "an optimizer may hold it already"
    for load in (animator.load_parts, lambda folder: Animator.from_pretrained(folder, TWO)):
        with pytest.raises(InputError, match="has no part retargeter"):
            load(tmp_path / "one")


# ------------------------------------------------------------------------------------------------------------ shards


def test_a_model_in_shards_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(3)
    animator = Animator(mini()).eval()
    animator.save_pretrained(tmp_path / "model", max_shard_bytes=SHARD_BYTES)
    folder = tmp_path / "model" / "denoiser"
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 3 and not (folder / WEIGHTS).exists()
    for i, path in enumerate(shards):
        assert path.name == f"diffusion_pytorch_model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= SHARD_BYTES
    same(animator, Animator.from_pretrained(tmp_path / "model"))
    filled = Animator(mini())
    filled.load_parts(tmp_path / "model")
    same(animator, filled.eval())


@pytest.mark.parametrize("max_shard_bytes", [SHARD_BYTES, files.MAX_SHARD_BYTES])
def test_the_weight_files_are_diffusers_own_byte_for_byte(tmp_path, max_shard_bytes):
    plain = WanTransformer3DModel(**wan.settings(mini()))
    plain.save_pretrained(tmp_path / "theirs", max_shard_size=max_shard_bytes)
    files.save(tmp_path / "ours", mini(), {"denoiser": plain.state_dict()}, {}, max_shard_bytes=max_shard_bytes)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours" / "denoiser"
    assert {p.name for p in theirs.iterdir()} == {p.name for p in ours.iterdir()}
    for path in theirs.glob("*.safetensors"):
        assert path.read_bytes() == (ours / path.name).read_bytes(), path.name
    if (theirs / SHARD_INDEX).exists():
        assert json.loads((theirs / SHARD_INDEX).read_text()) == json.loads((ours / SHARD_INDEX).read_text())
    assert (theirs / SHARD_INDEX).exists() == (max_shard_bytes == SHARD_BYTES)


def test_tensors_that_lie_in_one_buffer_are_split_too(tmp_path):
    """ZeRO lays all weights of a group into one; by its size each would be too large and all would go together."""
    buffer = torch.arange(4000.0)
    state = {f"w{i}": buffer[i * 1000 : (i + 1) * 1000] for i in range(4)}
    files.save(tmp_path / "m", mini(), {"codebook": state}, {}, max_shard_bytes=8000)
    assert [len(load_file(p)) for p in sorted((tmp_path / "m" / "codebook").glob("*.safetensors"))] == [2, 2]


def test_a_shard_of_no_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="max_shard_bytes: 0"):
        Animator(mini(), TWO).save_pretrained(tmp_path / "m", max_shard_bytes=0)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- interrupted


@pytest.fixture
def failing_writer(monkeypatch):
    """``failing_writer(k)``: the disk is full after k files."""

    def arm(allowed: int) -> None:
        done = itertools.count()
        for name in ("save_file", "_write_json"):
            real = REAL[name]

            def write(*args, real=real, **more):
                if next(done) >= allowed:
                    raise OSError(28, "No space left on device")
                return real(*args, **more)

            monkeypatch.setattr(files, name, write)

    return arm


REAL = {"save_file": files.save_file, "_write_json": files._write_json}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_save_that_fails_at_any_file_leaves_the_old_model_whole(sharded, tmp_path, failing_writer):
    old = content(sharded)
    new = Animator(mini(), ("codebook", "motion_decoder"))
    for k in range(len(old) + 99):
        failing_writer(k)
        try:
            new.save_pretrained(sharded, max_shard_bytes=SHARD_BYTES)
            break
        except InputError as error:
            assert "disk is full" in str(error)
        assert content(sharded) == old and [p.name for p in tmp_path.iterdir()] == ["m"]
    assert k == len(content(sharded)) > 5, "every file's turn came"
    same(new.eval(), Animator.from_pretrained(sharded))


def test_a_failed_exchange_of_the_folders_brings_the_old_one_back(saved, tmp_path, monkeypatch):
    old, real = content(saved), files.os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(InputError):
        Animator(mini(), TWO).save_pretrained(saved)
    assert content(saved) == old and [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_record_that_is_no_json_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        Animator(mini(), TWO).save_pretrained(tmp_path / "m", record={"tensor": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_only_a_model_is_replaced_and_other_files_beside_it_stay(saved, tmp_path):
    (saved / "NOTES.md").write_text("mine")
    Animator(mini(), ("codebook",)).save_pretrained(saved)
    assert (saved / "NOTES.md").read_text() == "mine" and not (saved / "retargeter").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    for target in (tmp_path / "home", tmp_path / "home" / "thesis.txt"):
        with pytest.raises(InputError, match="choose a new folder"):
            Animator(mini(), ("codebook",)).save_pretrained(target)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_model_behind_a_link_is_replaced_there(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    Animator(mini(), ("codebook",)).save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and files.read_index(saved).parts == ("codebook",)


# ------------------------------------------------------------------------------------------------- what is not saved


class Borrower(nn.Module):
    """A part on top of weights that come from elsewhere, as adapters on a base do."""

    unsaved = frozenset({"base.weight", "step"})

    def __init__(self, *_: object):
        super().__init__()
        self.base = nn.Linear(3, 3, bias=False).requires_grad_(False)
        self.base.weight.data.copy_(torch.arange(9.0).view(3, 3))
        self.register_buffer("step", torch.tensor(7))
        self.own = nn.Linear(3, 2)


@pytest.fixture
def borrower(monkeypatch, tmp_path):
    """A saved model whose motion decoder borrows."""
    monkeypatch.setattr(animator_module, "MotionDecoder", Borrower)
    animator = Animator(mini(), ("codebook", "motion_decoder"))
    animator.save_pretrained(tmp_path / "m")
    return animator.eval()


def test_what_comes_from_elsewhere_is_not_saved_and_there_after_loading(borrower, tmp_path):
    with safe_open(tmp_path / "m" / "motion_decoder" / WEIGHTS, framework="pt") as file:
        assert sorted(file.keys()) == ["own.bias", "own.weight"]
    same(borrower, Animator.from_pretrained(tmp_path / "m"))
    half = Animator.from_pretrained(tmp_path / "m", dtype=torch.bfloat16).motion_decoder
    assert half.base.weight.dtype == half.own.weight.dtype == torch.bfloat16 and half.step.dtype == torch.int64
    assert half.base.weight.flatten().tolist() == list(range(9)) and not half.base.weight.requires_grad


def test_loading_leaves_what_comes_from_elsewhere_alone(borrower, tmp_path):
    other = Animator(mini(), ("codebook", "motion_decoder"))
    other.motion_decoder.base.weight.data.fill_(3.0)
    other.load_parts(tmp_path / "m")
    assert torch.equal(other.motion_decoder.own.weight, borrower.motion_decoder.own.weight)
    assert other.motion_decoder.base.weight.eq(3).all()


def test_a_folder_that_brings_what_comes_from_elsewhere_is_refused(borrower, tmp_path):
    files.save(tmp_path / "m", mini(), {"motion_decoder": borrower.motion_decoder.state_dict()}, {})
    assert "is unknown to the model" in refused(tmp_path / "m")


def test_a_conversion_leaves_it_out_and_keeps_whole_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(animator_module, "MotionDecoder", Borrower)
    monkeypatch.setattr(Borrower, "unsaved", frozenset({"base.weight"}))
    Animator(mini(), ("motion_decoder",)).save_pretrained(tmp_path / "m")
    files.convert(tmp_path / "m", tmp_path / "out", torch.bfloat16)
    tensors = load_file(tmp_path / "out" / "motion_decoder" / WEIGHTS)
    assert {n: t.dtype for n, t in tensors.items()} == {
        "own.weight": torch.bfloat16, "own.bias": torch.bfloat16, "step": torch.int64,
    }  # fmt: skip
    assert tensors["step"] == 7


class Computing(nn.Module):
    """A part that loading without a normal start cannot fill: its table is computed from a weight."""

    def __init__(self, *_: object):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("table", 2 * self.scale.detach(), persistent=False)


def test_a_tensor_without_values_is_never_handed_out(tmp_path, monkeypatch):
    monkeypatch.setattr(animator_module, "MotionDecoder", Computing)
    Animator(mini(), ("motion_decoder",)).save_pretrained(tmp_path / "m")
    with pytest.raises(RuntimeError, match=r"motion_decoder\.table: without values"):
        Animator.from_pretrained(tmp_path / "m")
