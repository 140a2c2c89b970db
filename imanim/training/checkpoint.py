"""Checkpoints that are whole or not there.

``OUTPUT/checkpoints/step-000500/`` holds what each rank's optimizer and moving average hold (:mod:`imanim.training.fragments`),
what is frozen, and ``state.json`` with every file's hash. It is written under another name and renamed when the last rank has
finished, so a folder that bears its name is complete and the newest of them is where a run continues, on any number of ranks and
under any ZeRO stage. No random state is saved: all randomness follows from (seed, step, place). Nothing is pickled.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imanim import distributed
from imanim.config import from_dict
from imanim.data.files import read_json, sha256_file, write_json
from imanim.errors import InputError
from imanim.models.animator import Animator, empty
from imanim.models.config import AnimatorConfig
from imanim.models.files import own_state
from imanim.training import fragments
from imanim.training.ema import AVERAGE, Ema

FOLDER = "checkpoints"
STATE = "state.json"
UNTRAINED = "untrained.safetensors"
FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        step: optimizer steps done.
        state: what ``state.json`` says: format, step, identity (see ``config.identity``), ranks, zero_stage, elapsed_sec, ...
    """

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def newest(output: str | Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run folder, or None."""
    found = complete(output)
    return Checkpoint(found[-1], read_json(found[-1] / STATE)) if found else None


def complete(output: str | Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    folders = (p for p in Path(output, FOLDER).glob("step-*") if re.fullmatch(r"step-\d+", p.name))
    return sorted((p for p in folders if (p / STATE).is_file()), key=lambda p: int(p.name[5:]))


def to_continue(output: str | Path, resume: str, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Decides where a run starts: at a checkpoint, or afresh (None). Reads only; safe on every rank.

    Args:
        identity: the settings that must be the same (``config.identity`` and the model's sizes).

    Raises:
        InputError: the folder holds another run.
    """
    found = newest(output)
    if found is None:
        if (Path(output) / "model").exists():
            raise InputError(
                f"{output}: holds exported weights but no checkpoint to continue from; choose another output="
            )
        return None
    if resume == "never":
        raise InputError(f"{output}: already holds a run at step {found.step}; choose another output=, or resume=auto")
    if found.state.get("format") != FORMAT:
        raise InputError(
            f"{found.path}: format {found.state.get('format')}, this version reads {FORMAT}; choose another output="
        )
    if found.state["stage"] != identity["stage"]:
        raise InputError(
            f"{output}: holds a run of stage {found.state['stage']}, this is stage {identity['stage']}; choose another output="
        )
    theirs = found.state["identity"]
    changed = [key for key in sorted({*theirs, *identity}) if theirs.get(key) != identity.get(key)]
    if changed:
        differences = ", ".join(
            f"{key} is {theirs.get(key)!r} there and {identity.get(key)!r} here" for key in changed[:3]
        )
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(f"{output}: holds a run with other settings ({differences}{more}); choose another output=")
    return found


def save(
    engine: Any, animator: Animator, output: str | Path, state: Mapping[str, Any], ema: Ema | None, *, keep: int
) -> Path:
    """Writes a checkpoint and removes the oldest beyond ``keep``. Every rank must call it, at the same step.

    Args:
        animator: the model inside ``engine``.
        state: JSON values; ``step`` and ``identity`` among them.

    Raises:
        InputError: the system refuses to write (disk full, quota); earlier checkpoints are untouched.
    """
    here, root = distributed.place(), Path(output, FOLDER)
    final = root / f"step-{int(state['step']):06d}"
    partial = root / f".partial-{final.name}"
    with _refusals(partial):
        if here.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        distributed.barrier()
        written = _write(engine, animator, partial, ema)
        hashes = dict(sorted(pair for found in distributed.gather(written) for pair in found.items()))
        if here.is_first:
            counted = {"ranks": here.world_size, "optimizer_steps": fragments.taken_steps(engine), "files": hashes}
            write_json(partial / STATE, {**state, "format": FORMAT, **counted})
            _sync(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _sync_folder(root)
            _prune(output, keep)
    distributed.barrier()
    return final


def _write(engine: Any, animator: Animator, folder: Path, ema: Ema | None) -> dict[str, str]:
    """Writes this rank's files. Returns the sha256 of each."""
    here, written = distributed.place(), []
    if here.is_first or not fragments.everywhere(engine):
        written.append(_name("optimizer", here.rank))
        fragments.write(folder / written[-1], fragments.held(engine, animator))
    if ema is not None and (here.is_first or ema.is_cut):
        written.append(_name("average", here.rank))
        fragments.write(folder / written[-1], ema.fragments())
    frozen = dict(fragments.untrained(animator, animator.unsaved))
    if here.is_first:
        written.append(UNTRAINED)
        save_file(frozen, folder / UNTRAINED)
    return {name: sha256_file(folder / name) for name in written}


def load(engine: Any, animator: Animator, checkpoint: Checkpoint, ema: Ema | None) -> None:
    """Puts weights, optimizer state, buffers and moving average back, bit for bit. Every rank must call it.

    Raises:
        InputError: a file is damaged or missing, or does not fit the model; nothing is changed then.
    """
    verify(checkpoint)
    folder = checkpoint.path
    fragments.restore_untrained(animator, load_file(folder / UNTRAINED), animator.unsaved)
    steps = int(checkpoint.state["optimizer_steps"])
    fragments.restore(engine, animator, fragments.Reader(_files(checkpoint, "optimizer")), steps)
    engine.global_steps = checkpoint.step
    if ema is not None:
        if not _files(checkpoint, "average"):
            raise InputError(f"{folder}: was made without a moving average; set ema_decay=0")
        ema.load(fragments.Reader(_files(checkpoint, "average")))


def verify(checkpoint: Checkpoint) -> None:
    """Reads every file once, the ranks sharing the work, and compares its hash. Every rank must call it.

    Raises:
        InputError: a file is missing or not what was written; on every rank.
    """
    here = distributed.place()
    found = distributed.gather(_broken(checkpoint, here.rank, here.world_size))
    _refuse(checkpoint, [name for names in found for name in names])


def _broken(checkpoint: Checkpoint, first: int = 0, every: int = 1) -> list[str]:
    listed = list(checkpoint.state["files"].items())[first::every]
    paths = {name: (checkpoint.path / name, wanted) for name, wanted in listed}
    return [name for name, (path, wanted) in paths.items() if not path.is_file() or sha256_file(path) != wanted]


def _refuse(checkpoint: Checkpoint, broken: list[str]) -> None:
    if broken:
        raise InputError(
            f"{checkpoint.path}: {', '.join(broken)}: missing or damaged; remove this folder to continue from an older one"
        )


def model_in(
    folder: str | Path, *, raw: bool = False
) -> tuple[AnimatorConfig, dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The model that a checkpoint holds, put together without an engine, a GPU or the ranks that wrote it.

    Args:
        folder: ``.../checkpoints/step-000500``.
        raw: the trained weights, even where there is a moving average of them.

    Returns:
        what ``files.save`` takes: sizes, part -> its own weights (float32), record.

    Raises:
        InputError: no whole checkpoint of this version, or one of its files is damaged.
    """
    path = Path(folder)
    if not (path / STATE).is_file():
        raise InputError(
            f"{path}: no whole checkpoint (no {STATE}); give a folder like runs/stage3/checkpoints/step-000500"
        )
    found = Checkpoint(path, read_json(path / STATE))
    if found.state.get("format") != FORMAT:
        raise InputError(
            f"{path}: format {found.state.get('format')}, this version reads {FORMAT}; use the imanim that wrote it"
        )
    _refuse(found, _broken(found))
    sizes = from_dict(AnimatorConfig, found.state["model"], name=str(path / STATE))
    modes = {name: part["mode"] for name, part in found.state["config"]["parts"].items()}
    animator = empty(sizes, [name for name, mode in modes.items() if mode != "absent"])
    reader = fragments.Reader(_files(found, "optimizer") + _files(found, "average"))
    untrained, averaged = load_file(path / UNTRAINED), bool(_files(found, "average")) and not raw

    def weight(name: str, like: Tensor) -> Tensor:
        if not reader.size(name):
            return untrained[name]
        return reader.read(name, AVERAGE if averaged else fragments.WEIGHT, 0, like.numel()).view(like.shape)

    parts = {
        part: {name: weight(f"{part}.{name}", like) for name, like in own_state(animator.part(part)).items()}
        for part in animator.parts
    }
    kept = ("stage", "elapsed_sec", "origin", "config", "model", "versions")
    record = {
        "steps": found.step,
        "averaged": averaged,
        **{key: found.state[key] for key in kept if key in found.state},
    }
    return sizes, parts, record


def _name(what: str, rank: int) -> str:
    return f"{what}-rank-{rank:05d}.safetensors"


def _files(checkpoint: Checkpoint, what: str) -> list[Path]:
    return [checkpoint.path / name for name in checkpoint.state["files"] if name.startswith(f"{what}-rank-")]


def remove_partial(output: str | Path) -> None:
    """Removes what a killed run left half-written. Call on one rank."""
    for path in Path(output, FOLDER).glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _refusals(partial: Path) -> Iterator[None]:
    """A write that the system refuses becomes one line, and what it left behind is removed: its space may be what is missing."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors wraps the operating system's error
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"{partial.parent}: the checkpoint could not be written ({str(error).splitlines()[0]}); free some space and run the "
            "same command again, it continues from the newest checkpoint"
        ) from error


def _prune(output: str | Path, keep: int) -> None:
    for path in complete(output)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flushes every file to the disk, so that the rename that follows never names a file whose bytes were lost."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
