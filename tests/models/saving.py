"""What the tests of saving and loading share: how a refusal looks, and folders changed on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from imanim.errors import InputError
from imanim.models.animator import Animator
from imanim.models.files import INDEX

TWO = ("codebook", "retargeter")
SHARD_BYTES = 10_000
"""So small that the retargeter of ``sizes.mini`` takes many files."""


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as refusal:
        Animator.from_pretrained(folder)
    line = str(refusal.value)
    assert str(folder) in line and "\n" not in line and ";" in line  # it names what and a remedy
    return line


def accept_sizes(folder: Path) -> None:
    """Makes the index agree with the files' sizes: the work of somebody who wants the deeper checks to be reached."""
    index = json.loads((folder / INDEX).read_text())
    for part, entry in index["parts"].items():
        entry["files"] = {p.name: p.stat().st_size for p in sorted((folder / part).iterdir())}
    (folder / INDEX).write_text(json.dumps(index))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


def same(a: Animator, b: Animator) -> None:
    """Equal configurations and tensors: names, values, types, gradients asked for, computed tables."""
    assert a.config == b.config and a.parts == b.parts and a.modes == b.modes and a.training == b.training
    for kind in ("named_parameters", "named_buffers"):
        left, right = dict(getattr(a, kind)()), dict(getattr(b, kind)())
        assert left.keys() == right.keys()
        for name, value in left.items():
            other = right[name]
            assert torch.equal(value, other) and value.dtype == other.dtype, name
            assert value.requires_grad == other.requires_grad and type(value) is type(other), name
            assert value.stride() == other.stride(), name
