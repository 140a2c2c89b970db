"""Models on disk, in diffusers' layout: ``model_index.json`` and one folder a part with config.json and safetensors.

The index is written last and lists every file's size, so a folder whose writing was cut short is told from a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import imanim
from imanim.config import from_dict, to_dict
from imanim.errors import InputError, from_os_error
from imanim.models.config import AnimatorConfig

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
FORMAT = 1
_AGAIN = "copy or train the model again"


class Index(NamedTuple):
    """A saved model: its folder, configuration, parts with their file sizes in bytes, and what made it."""

    folder: Path
    config: AnimatorConfig
    sizes_bytes: dict[str, int]
    record: dict[str, Any]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.sizes_bytes)


def save(
    folder: Path, config: AnimatorConfig, parts: Mapping[str, Mapping[str, Tensor]], record: dict[str, Any]
) -> None:
    """Writes a model aside and moves it into place: ``folder`` is the old model or the new one, never half of one."""
    aside = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        sizes = {name: _save_part(aside / name, name, config, tensors) for name, tensors in parts.items()}
        index = {
            "_class_name": "Animator",
            "_imanim_version": imanim.__version__,
            "_format": FORMAT,
            "config": to_dict(config),
            "parts": {name: {"bytes": size} for name, size in sizes.items()},
            "record": record,
        }
        (aside / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        _replace(aside, folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise from_os_error(error, folder) from None
    except SafetensorError as error:  # its writer wraps the operating system's error
        shutil.rmtree(aside, ignore_errors=True)
        raise InputError(f"{folder}: not written: {error}; make room or choose another folder") from None


def convert(source: Path, folder: Path, dtype: torch.dtype, *, sampling_steps: int | None = None) -> dict[str, int]:
    """Copies a saved model with its float32 weights as ``dtype``; the codebook's moving averages stay float32.

    Args:
        sampling_steps: what the copy's configuration shall say, None as the source's.

    Returns:
        the size of each part's file in bytes.

    Raises:
        InputError: the source is no whole model, or the system refuses to write.
    """
    from imanim.models.animator import Animator

    index = read_index(source)
    animator = Animator(index.config, index.parts)
    parts = {name: load_part(index, name, animator.part(name).state_dict()) for name in index.parts}
    for name in parts.keys() - {"codebook"}:
        parts[name] = {key: value.to(dtype) for key, value in parts[name].items()}
    if sampling_steps is not None:
        index.config.denoiser.sampling_steps = sampling_steps
    save(folder, index.config, parts, index.record)
    return read_index(folder).sizes_bytes


def write_tensors(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Writes one safetensors file, whole or not at all, with its floating-point tensors as ``dtype``. Raises InputError."""
    aside = path.with_name(path.name + ".partial")
    whole = {
        k: v.detach().cpu().to(dtype if v.is_floating_point() else v.dtype).contiguous() for k, v in tensors.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_safetensors(whole, aside)
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise from_os_error(error, path) from None
        raise InputError(f"{path}: not written: {error}; make room or choose another path") from None


def _write_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    # Its writer makes the file private; a model is to be read by whoever may read the folder.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _save_part(folder: Path, name: str, config: AnimatorConfig, tensors: Mapping[str, Tensor]) -> int:
    folder.mkdir()
    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    _write_safetensors(whole, folder / WEIGHTS)
    (folder / "config.json").write_text(
        json.dumps({"_class_name": f"imanim.{name}", "config": to_dict(config)}, indent=2) + "\n"
    )
    return (folder / WEIGHTS).stat().st_size


def _replace(new: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_index(folder: Path) -> Index:
    """Reads and checks ``model_index.json``. Raises InputError."""
    path = folder / INDEX
    if not path.is_file():
        what = "no such folder" if not folder.exists() else f"holds no {INDEX}, so no whole model"
        raise InputError(f"{folder}: {what}; give the folder that training wrote")
    try:
        tree = json.loads(path.read_text())
        if tree["_format"] != FORMAT:
            raise InputError(f"{path}: format {tree['_format']}, this version reads {FORMAT}; use the matching imanim")
        sizes = {str(name): int(entry["bytes"]) for name, entry in tree["parts"].items()}
        return Index(folder, from_dict(AnimatorConfig, tree["config"], name=str(path)), sizes, tree.get("record", {}))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a model index of imanim ({type(error).__name__}: {error}); {_AGAIN}") from None


def load_part(index: Index, part: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A part's tensors, after checking names and shapes against ``like`` (the built part's state). Raises InputError."""
    path = index.folder / part / WEIGHTS
    if not path.is_file():
        raise InputError(f"{path}: missing, though {INDEX} lists it; {_AGAIN}")
    if path.stat().st_size != index.sizes_bytes[part]:
        raise InputError(
            f"{path}: {path.stat().st_size} bytes, {index.sizes_bytes[part]} expected (cut short?); {_AGAIN}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: torch.Size(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            _check(path, part, found, {key: value.shape for key, value in like.items()})
            return {key: file.get_tensor(key) for key in found}
    except SafetensorError as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); {_AGAIN}") from None


def _check(path: Path, part: str, found: Mapping[str, torch.Size], wanted: Mapping[str, torch.Size]) -> None:
    remedy = f"use the model configuration these weights were made with (in {INDEX}) or other weights"
    for key, shape in wanted.items():
        if key not in found:
            raise InputError(f"{path}: part {part}: tensor {key} {list(shape)} is missing; {remedy}")
        if found[key] != shape:
            raise InputError(
                f"{path}: part {part}: tensor {key} is {list(found[key])} in the file, {list(shape)} in the model; {remedy}"
            )
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise InputError(
            f"{path}: part {part}: tensor {extra[0]} {list(found[extra[0]])} is unknown to the model; {remedy}"
        )
