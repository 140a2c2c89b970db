"""Checkpoints that are whole or not there.

``OUTPUT/checkpoints/step-000500/`` holds DeepSpeed's files (``engine/``, each rank's shards), the moving average and
``state.json``. It is written under another name and renamed when the last rank has finished, so a folder that bears its
name is complete and the newest of them is where a run continues. No random state is saved: all randomness follows from
(seed, step, place).
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

from imanim import distributed
from imanim.data.files import read_json, write_json
from imanim.errors import InputError
from imanim.training.ema import Ema

FOLDER = "checkpoints"
STATE = "state.json"
ENGINE = "engine"
FORMAT = 1


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


def to_continue(output: str | Path, resume: str, identity: Mapping[str, Any], ranks: int) -> Checkpoint | None:
    """Decides where a run starts: at a checkpoint, or afresh (None). Reads only; safe on every rank.

    Args:
        identity: the settings that must be the same (``config.identity`` and the model's sizes).
        ranks: processes of this run.

    Raises:
        InputError: the folder holds another run, or this one cut over another number of ranks.
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
    if found.state["ranks"] != ranks:
        raise InputError(
            f"{found.path}: was saved by {found.state['ranks']} ranks, this run has {ranks}; start it with {found.state['ranks']}"
        )
    return found


def save(engine: Any, output: str | Path, state: Mapping[str, Any], ema: Ema | None, *, keep: int) -> Path:
    """Writes a checkpoint and removes the oldest beyond ``keep``. Every rank must call it, at the same step.

    Args:
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
        engine.save_checkpoint(str(partial), tag=ENGINE, save_latest=False)
        if ema is not None:
            ema.save(partial, here.rank)
        distributed.barrier()
        if here.is_first:
            write_json(partial / STATE, {**state, "format": FORMAT, "ranks": here.world_size})
            _sync(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _sync_folder(root)
            _prune(output, keep)
    distributed.barrier()
    return final


def load(engine: Any, checkpoint: Checkpoint, ema: Ema | None) -> None:
    """Puts weights, optimizer state, buffers and moving average back, bit for bit. Every rank must call it."""
    path, _ = engine.load_checkpoint(str(checkpoint.path), tag=ENGINE)
    if path is None:
        raise InputError(
            f"{checkpoint.path}: DeepSpeed found nothing to load; remove this folder to continue from an older one"
        )
    if ema is not None:
        ema.load(checkpoint.path, distributed.place().rank)


def remove_partial(output: str | Path) -> None:
    """Removes what a killed run left half-written. Call on one rank."""
    for path in Path(output, FOLDER).glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _refusals(partial: Path) -> Iterator[None]:
    """A write that the system refuses becomes one line, and what it left behind is removed: its space may be what is missing."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's file writer reports a full disk as a RuntimeError of its own.
        if (
            isinstance(error, RuntimeError)
            and "PytorchStreamWriter" not in str(error)
            and "inline_container" not in str(error)
        ):
            raise
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
