"""Models on disk, in diffusers' layout: an index and one folder a part.

    model_index.json                                  configuration, what made it, the size of every other file; written last
    denoiser/config.json                              the configuration again, so that parts of two models are not mixed
    denoiser/diffusion_pytorch_model.safetensors      the weights; or, above ``max_shard_bytes``,
    denoiser/diffusion_pytorch_model-00001-of-00003.safetensors, ..., diffusion_pytorch_model.safetensors.index.json

A folder whose writing or copying was cut short is told from a whole one by its files' sizes. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import imanim
from imanim.config import from_dict, to_dict
from imanim.errors import InputError, from_os_error
from imanim.models.config import AnimatorConfig
from imanim.revision import revision

INDEX = "model_index.json"
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARD_INDEX = f"{WEIGHTS}.index.json"
MAX_SHARD_BYTES = 5 * 10**9
FORMAT = 2
FLOAT32_PARTS = frozenset({"codebook"})
"""Parts whose weights are never made smaller: in bfloat16 a moving average stands still and neighbouring codes fall together."""
_SHARD_NAMES = WEIGHTS.replace(".safetensors", "{suffix}.safetensors")
_AGAIN = "copy or train the model again"


class Index(NamedTuple):
    """A saved model.

    Attributes:
        files: part -> name of each file in its folder -> bytes.
        record: what made the weights.
        version, revision: of the imanim that wrote it; revision is None where that was no checkout.
    """

    folder: Path
    config: AnimatorConfig
    files: dict[str, dict[str, int]]
    record: dict[str, Any]
    version: str
    revision: str | None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.files)

    @property
    def sizes_bytes(self) -> dict[str, int]:
        """Part to the size of its folder."""
        return {part: sum(sizes.values()) for part, sizes in self.files.items()}


def unsaved(part: nn.Module) -> frozenset[str]:
    """Names in a part's state that are not saved with it, because they come from elsewhere: its attribute ``unsaved``."""
    return getattr(part, "unsaved", frozenset())


def own_state(part: nn.Module) -> dict[str, Tensor]:
    """What is saved of a part."""
    elsewhere = unsaved(part)
    return {name: value for name, value in part.state_dict().items() if name not in elsewhere}


# --------------------------------------------------------------------------------------------------------- writing


def save(
    folder: Path,
    config: AnimatorConfig,
    parts: Mapping[str, Mapping[str, Tensor]],
    record: dict[str, Any],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a model aside and moves it into place: ``folder`` is the old model or the new one, never half of one.

    (A process killed just between the two renames leaves the old one as ``folder.old``.)

    Args:
        folder: new, empty or holding a model, which is replaced (other files beside its index stay).
        max_shard_bytes: a part with more weights is split into files of at most this size (a single larger tensor gets its own).

    Raises:
        InputError: the system refuses, or ``folder`` holds something else.
    """
    _save(folder, config, parts.items(), record, max_shard_bytes)


def convert(source: Path, folder: Path, dtype: torch.dtype, *, sampling_steps: int | None = None) -> dict[str, int]:
    """Copies a saved model with its weights as ``dtype``; the codebook's moving averages stay float32. A part at a time is held.

    Args:
        sampling_steps: what the copy's configuration shall say, None as the source's.

    Returns:
        the size of each part's files in bytes.

    Raises:
        InputError: the source is no whole model, or the system refuses to write.
    """
    from imanim.models.animator import empty

    index = read_index(source)
    animator = empty(index.config, index.parts)
    stored = [check_part(index, name, animator.part(name)) for name in index.parts]
    denoiser = index.config.denoiser
    config = replace(index.config, denoiser=replace(denoiser, sampling_steps=sampling_steps or denoiser.sampling_steps))
    parts = ((part.name, part.copies(dtype)) for part in stored)
    _save(folder, config, parts, index.record, MAX_SHARD_BYTES)
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


def _save(
    folder: Path,
    config: AnimatorConfig,
    parts: Iterable[tuple[str, Mapping[str, Tensor]]],
    record: dict[str, Any],
    max_shard_bytes: int,
) -> None:
    if max_shard_bytes < 1:
        raise InputError(f"max_shard_bytes: {max_shard_bytes} must be at least 1")
    target = folder.resolve()  # behind a link the model is replaced, not the link
    aside = target.with_name(target.name + ".partial")
    try:
        _check_target(folder)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        sizes = {name: _save_part(aside / name, name, config, part, max_shard_bytes) for name, part in parts}
        index = {
            "_class_name": "Animator",
            "_imanim_version": imanim.__version__,
            "_git_revision": revision(),
            "_format": FORMAT,
            "config": to_dict(config),
            "parts": {name: {"files": files} for name, files in sizes.items()},
            "record": record,
        }
        _write_json(index, aside / INDEX)
        _replace(aside, target)
    except OSError as error:
        raise from_os_error(error, folder) from None
    except SafetensorError as error:  # its writer wraps the operating system's error
        raise InputError(f"{folder}: not written: {error}; make room or choose another folder") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_target(folder: Path) -> None:
    """What is replaced must be a model: a home folder given by mistake would be gone."""
    if folder.is_dir():
        if (folder / INDEX).is_file() or not any(folder.iterdir()):
            return
        raise InputError(f"{folder}: holds other things than a model; choose a new folder")
    if folder.exists():
        raise InputError(f"{folder}: is a file; choose a new folder")


def _save_part(
    folder: Path, name: str, config: AnimatorConfig, tensors: Mapping[str, Tensor], max_shard_bytes: int
) -> dict[str, int]:
    """Writes a part's folder. Returns its files' sizes."""
    folder.mkdir()
    # Split by the tensors' own sizes: those that lie in one buffer (ZeRO's) would count as one and stay together.
    sizes = {key: torch.empty_like(value, device="meta") for key, value in tensors.items()}
    split = split_torch_state_dict_into_shards(sizes, filename_pattern=_SHARD_NAMES, max_shard_size=max_shard_bytes)
    for file, keys in split.filename_to_tensors.items():
        _write_safetensors({key: tensors[key].detach().cpu().contiguous() for key in keys}, folder / file)
    if split.is_sharded:
        _write_json({"metadata": split.metadata, "weight_map": split.tensor_to_filename}, folder / SHARD_INDEX)
    _write_json({"_class_name": f"imanim.{name}", "config": to_dict(config)}, folder / CONFIG)
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _write_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    # Its writer makes the file private; a model is to be read by whoever may read the folder.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _write_json(tree: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n")


def _replace(new: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    if folder.exists():  # else an interrupted replacement may have left the only copy there: it stays until the end
        shutil.rmtree(old, ignore_errors=True)
        for path in folder.iterdir():
            if path.is_file() and path.name != INDEX:
                shutil.copy2(path, new / path.name)
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


# --------------------------------------------------------------------------------------------------------- reading


class StoredPart(NamedTuple):
    """A part whose files were checked against the module that is to get its weights.

    Attributes:
        holds: file -> names of its tensors.
        like: the module's own tensors (any device), by name.
    """

    name: str
    holds: dict[Path, list[str]]
    like: dict[str, Tensor]

    def mapped(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor as the file has it. They are pages of the file: nothing is in memory before it is used."""
        for path, names in self.holds.items():
            with _opened(path) as file:
                yield from ((name, file.get_tensor(name)) for name in names)

    def copies(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Every tensor in memory of its own, floating-point ones as ``dtype``; see ``FLOAT32_PARTS``."""
        keep = self.name in FLOAT32_PARTS
        kinds = {n: dtype if v.is_floating_point() and not keep else v.dtype for n, v in self.like.items()}
        # Mapped tensors start anywhere; kernels may round otherwise there, and a file that is cut later would end the process.
        return {name: value.to(kinds[name], copy=True) for name, value in self.mapped()}


def read_index(folder: Path) -> Index:
    """Reads and checks ``model_index.json``. Raises InputError."""
    path = folder / INDEX
    if not path.is_file():
        what = "no such folder" if not folder.exists() else f"holds no {INDEX}, so no whole model"
        raise InputError(f"{folder}: {what}; give the folder that training wrote")
    tree = _read_json(path)
    try:
        if tree["_format"] != FORMAT:
            raise InputError(
                f"{path}: format {tree['_format']} (imanim {tree.get('_imanim_version')}), this version reads {FORMAT}; use the "
                "imanim that wrote it, or make the model again"
            )
        files = {part: {n: int(size) for n, size in entry["files"].items()} for part, entry in tree["parts"].items()}
        for name in (*files, *(name for sizes in files.values() for name in sizes)):
            if name in ("", ".", "..") or "/" in name or "\\" in name:
                raise InputError(
                    f"{path}: names {name!r}, which lies outside the model's folder; do not use this model"
                )
        config = from_dict(AnimatorConfig, tree["config"], name=str(path))
        return Index(folder, config, files, dict(tree["record"]), str(tree["_imanim_version"]), tree["_git_revision"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a model index of imanim ({type(error).__name__}: {error}); {_AGAIN}") from None


def check_part(index: Index, name: str, part: nn.Module) -> StoredPart:
    """Checks everything about a saved part that can be checked without reading its weights.

    Args:
        part: the built module (its tensors may be on the meta device), whose own state the files must hold, no more, no less.

    Raises:
        InputError: a file is missing, cut short or damaged; the part is another model's; a tensor is missing, unknown, twice
            there or of another shape.
    """
    folder = index.folder / name
    for file, size in index.files[name].items():
        if not (folder / file).is_file():
            raise InputError(f"{folder / file}: missing, though {INDEX} lists it; {_AGAIN}")
        found_bytes = (folder / file).stat().st_size
        if found_bytes != size:
            raise InputError(f"{folder / file}: {found_bytes} bytes, {size} expected (cut short?); {_AGAIN}")
    _check_config(index, folder / CONFIG)
    found, like = _headers(folder, index.files[name]), own_state(part)
    _check_tensors(folder, name, found, like)
    holds: dict[Path, list[str]] = {}
    for key, (file, _) in found.items():
        holds.setdefault(folder / file, []).append(key)
    return StoredPart(name, holds, like)


def _check_config(index: Index, path: Path) -> None:
    """The part must be of the model that the index describes."""
    try:
        theirs = to_dict(from_dict(AnimatorConfig, _read_json(path)["config"], name=str(path)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a part's config ({type(error).__name__}: {error}); {_AGAIN}") from None
    differing = _first_difference(to_dict(index.config), theirs)
    if differing is not None:
        key, ours, other = differing
        raise InputError(
            f"{path}: {key} is {other!r}, but {ours!r} in {INDEX}: parts of two models are mixed; copy one whole model"
        )


def _first_difference(ours: dict[str, Any], theirs: dict[str, Any], at: str = "") -> tuple[str, Any, Any] | None:
    for key, value in ours.items():
        if isinstance(value, dict):
            found = _first_difference(value, theirs[key], f"{at}{key}.")
            if found is not None:
                return found
        elif value != theirs[key]:
            return f"{at}{key}", value, theirs[key]
    return None


def _headers(folder: Path, listed: Iterable[str]) -> dict[str, tuple[str, list[int]]]:
    """Every tensor's file and shape, by the files' own headers, which must agree with the shards' index where there is one."""
    found: dict[str, tuple[str, list[int]]] = {}
    for name in (name for name in listed if name.endswith(".safetensors")):
        with _opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118
                if key in found:
                    raise InputError(f"{folder / name}: tensor {key} is in {found[key][0]} too; {_AGAIN}")
                found[key] = (name, list(file.get_slice(key).get_shape()))
    if SHARD_INDEX in listed:
        _check_shard_index(folder / SHARD_INDEX, {key: name for key, (name, _) in found.items()})
    return found


def _check_shard_index(path: Path, held: Mapping[str, str]) -> None:
    tree = _read_json(path)
    mapped = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(mapped, dict):
        raise InputError(f"{path}: not an index of shards (no weight_map); {_AGAIN}")
    for key in (*mapped, *held):
        if mapped.get(key) != held.get(key):
            there, here = mapped.get(key, "no file"), held.get(key, "no file")
            raise InputError(
                f"{path}: tensor {key} should be in {there}, but is in {here} of those that {INDEX} lists; {_AGAIN}"
            )


def _check_tensors(
    folder: Path, part: str, found: Mapping[str, tuple[str, list[int]]], like: Mapping[str, Tensor]
) -> None:
    remedy = f"use the model configuration these weights were made with (in {INDEX}) or other weights"
    for key, value in like.items():
        if key not in found:
            raise InputError(f"{folder}: part {part}: tensor {key} {list(value.shape)} is missing; {remedy}")
        file, shape = found[key]
        if shape != list(value.shape):
            raise InputError(
                f"{folder / file}: part {part}: tensor {key} is {shape} in the file, {list(value.shape)} in the model; {remedy}"
            )
    extra = sorted(found.keys() - like.keys())
    if extra:
        file, shape = found[extra[0]]
        raise InputError(f"{folder / file}: part {part}: tensor {extra[0]} {shape} is unknown to the model; {remedy}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise from_os_error(error, path) from None
    except SafetensorError as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); {_AGAIN}") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise from_os_error(error, path) from None
    except ValueError as error:  # neither JSON nor even text
        raise InputError(f"{path}: damaged JSON ({error}); {_AGAIN}") from None
