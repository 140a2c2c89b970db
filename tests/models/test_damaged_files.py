"""Model folders that are half-written, mixed from two models, made to mislead, or of another kind: each is refused in one line."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from saving import SHARD_BYTES, TWO, accept_sizes, change_json, refused, rewrite
from sizes import mini

from imanim.errors import InputError
from imanim.models import files
from imanim.models.animator import Animator
from imanim.models.files import CONFIG, INDEX, SHARD_INDEX, WEIGHTS


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


# ------------------------------------------------------------------------------------------------------------ shards


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / "retargeter").glob("*.safetensors"))


def test_a_tensor_in_two_shards_is_refused(sharded):
    first, second = shards_of(sharded)[:2]
    key, value = next(iter(load_file(first).items()))
    rewrite(second, load_file(second) | {key: value})
    accept_sizes(sharded)
    assert f"{second}: tensor {key} is in {first.name} too" in refused(sharded)


def test_a_tensor_that_a_shard_lost_is_refused(sharded):
    first = shards_of(sharded)[0]
    tensors = load_file(first)
    key = sorted(tensors)[0]
    rewrite(first, {name: value for name, value in tensors.items() if name != key} | {"filler": torch.zeros(1)})
    accept_sizes(sharded)
    line = refused(sharded)
    assert SHARD_INDEX in line and ("filler" in line or key in line)


def test_a_shard_that_nobody_lists_is_missing(sharded):
    lost = shards_of(sharded)[1]
    lost.unlink()
    accept_sizes(sharded)
    line = refused(sharded)
    assert lost.name in line and "no file" in line


@pytest.mark.parametrize("there", [True, False])
def test_a_shard_index_that_points_out_of_the_folder_is_refused_and_the_file_not_opened(sharded, there, monkeypatch):
    path = sharded / "retargeter" / SHARD_INDEX
    mapped = json.loads(path.read_text())["weight_map"]
    key = sorted(mapped)[0]
    outside = sharded.parent / "evil.safetensors"
    if there:
        shutil.copy(sharded / "retargeter" / mapped[key], outside)
    change_json(path, weight_map=mapped | {key: "../../evil.safetensors"})
    accept_sizes(sharded)
    opened, real = [], files.safe_open
    monkeypatch.setattr(files, "safe_open", lambda p, **more: opened.append(Path(p)) or real(p, **more))
    line = refused(sharded)
    assert "../../evil.safetensors" in line and key in line
    assert opened and all(p.parent.parent == sharded for p in opened)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "..", ""])
@pytest.mark.parametrize("what", ["part", "file"])
def test_an_index_that_points_out_of_the_folder_is_refused(saved, name, what):
    parts = json.loads((saved / INDEX).read_text())["parts"]
    parts = parts | {name: parts["codebook"]} if what == "part" else parts | {"codebook": {"files": {name: 5}}}
    change_json(saved / INDEX, parts=parts)
    assert "lies outside" in refused(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 3}', "{", "\udce9"])
def test_a_damaged_shard_index_is_refused(sharded, content):
    (sharded / "retargeter" / SHARD_INDEX).write_bytes(content.encode(errors="surrogateescape"))
    accept_sizes(sharded)
    assert SHARD_INDEX in refused(sharded)


# ------------------------------------------------------------------------------------------------- damaged and mixed


def test_whatever_file_is_missing_or_cut_short_the_model_is_refused(sharded, tmp_path):
    every = sorted(p.relative_to(sharded) for p in sharded.rglob("*") if p.is_file())
    assert len(every) > 6
    animator = Animator(mini(), TWO)
    before = {name: value.clone() for name, value in animator.state_dict().items()}
    for path, kept in itertools.product(every, (None, 0, 0.5, -1)):
        folder = tmp_path / "damaged"
        shutil.copytree(sharded, folder)
        whole = (folder / path).read_bytes()
        (folder / path).unlink()
        if kept is not None:
            (folder / path).write_bytes(whole[: kept if kept <= 0 else math.ceil(kept * len(whole))])
        if path.name == INDEX and kept == -1:  # its last byte is a line's end: nothing is lost
            Animator.from_pretrained(folder)
        else:
            assert path.name in refused(folder), (path, kept)
            with pytest.raises(InputError):
                animator.load_parts(folder)
        shutil.rmtree(folder)
    assert all(torch.equal(value, before[name]) for name, value in animator.state_dict().items())
    assert Animator.from_pretrained(sharded).parts == TWO, "the whole one is read"


def test_weights_of_another_size_are_refused_by_tensor_and_both_shapes(saved):
    cfg = mini()
    cfg.retargeter.bottleneck = 5
    animator = Animator(cfg, TWO)
    before = animator.part("codebook").embedding.clone()
    with pytest.raises(
        InputError, match=r"part retargeter: tensor to_bottleneck\.\w+ is \[6(, 16)?\] in the file, \[5(, 16)?\]"
    ):
        animator.load_parts(saved)
    assert torch.equal(animator.part("codebook").embedding, before), "a refused load changes nothing"


@pytest.mark.parametrize("change", ["lost", "foreign"])
def test_a_missing_and_an_unknown_tensor_are_refused_by_name(saved, change):
    path = saved / "retargeter" / WEIGHTS
    tensors = load_file(path)
    if change == "lost":
        del tensors["mask_token"]
    else:
        tensors["nobodys"] = torch.zeros(3)
    rewrite(path, tensors)
    accept_sizes(saved)
    line = refused(saved)
    wanted = "tensor mask_token [16] is missing" if change == "lost" else "tensor nobodys [3] is unknown to the model"
    assert f"part retargeter: {wanted}" in line


def test_a_file_that_is_no_safetensors_is_refused(saved):
    (saved / "retargeter" / WEIGHTS).write_bytes(b"\x80\x04 a pickle, perhaps" * 99)
    accept_sizes(saved)
    assert "not readable as safetensors" in refused(saved)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda tree: tree | {"_format": 99}, "format 99"),
        (lambda tree: tree | {"_format": 1}, "format 1 (imanim 0.1.0), this version reads 2"),
        (lambda tree: tree | {"config": tree["config"] | {"hieght": 3}}, "hieght"),
        (lambda tree: tree | {"config": [1]}, "not a model index"),
        (lambda tree: tree | {"parts": {"codebook": {"bytes": 3}}}, "not a model index"),
        (lambda tree: tree | {"parts": {"codebook": {"files": {"a": "many"}}}}, "not a model index"),
        (lambda tree: {k: v for k, v in tree.items() if k != "record"}, "'record'"),
        (lambda tree: {"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}, "'_format'"),
        (lambda tree: [tree], "not a model index"),
    ],
)
def test_an_index_of_another_kind_is_refused(saved, damage, named):
    tree = json.loads((saved / INDEX).read_text()) | {"_imanim_version": "0.1.0"}
    (saved / INDEX).write_text(json.dumps(damage(tree)))
    assert named in refused(saved)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert "no such folder" in refused(tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    assert f"holds no {INDEX}" in refused(tmp_path / "empty")


def test_parts_of_two_models_are_not_mixed(saved, tmp_path):
    other = mini()
    other.denoiser.ffn_dim = 64
    Animator(other, TWO).save_pretrained(tmp_path / "other")  # of equal shapes in these parts: only the config can tell
    shutil.rmtree(saved / "retargeter")
    shutil.copytree(tmp_path / "other" / "retargeter", saved / "retargeter")
    accept_sizes(saved)
    line = refused(saved)
    assert f"{saved / 'retargeter' / CONFIG}: denoiser.ffn_dim is 64, but 32 in {INDEX}" in line and "mixed" in line
    assert Animator.from_pretrained(saved, ("codebook",)).parts == ("codebook",), "the other part is untouched"


@pytest.mark.parametrize("content", ["[]", '{"config": 3}', "{", '{"config": {"height": "tall"}}'])
def test_a_damaged_part_config_is_refused(saved, content):
    (saved / "codebook" / CONFIG).write_text(content)
    accept_sizes(saved)
    with pytest.raises(InputError, match=f"codebook/{CONFIG}"):
        Animator.from_pretrained(saved)
