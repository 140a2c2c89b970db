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
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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


class Writer:
    """Writes a run's checkpoints; the files of one while the next steps are already taken.

    A checkpoint is taken in three moves: every rank copies what it holds (:meth:`take`), writes its files in a thread, and when all
    have told each other that they are done, the first one gives the folder its name (:meth:`settle`). The ranks tell each other
    with every micro-batch, so nobody ever waits for a disk, but for the last checkpoint of a run.

    Args:
        keep: the newest ones kept.
    """

    IDLE, BUSY, DONE, FAILED = range(4)

    def __init__(self, output: str | Path, *, keep: int):
        self.root, self.keep = Path(output, FOLDER), keep
        self._state: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._hashes: dict[str, str] = {}
        self._error: Exception | None = None

    @property
    def condition(self) -> int:
        """How this rank's writing stands; what it tells the others."""
        if self._state is None:
            return self.IDLE
        if self._thread is not None and self._thread.is_alive():
            return self.BUSY
        return self.DONE if self._error is None else self.FAILED

    def take(self, engine: Any, animator: Animator, state: Mapping[str, Any], ema: Ema | None) -> None:
        """Copies what this rank holds and begins to write it. Every rank must call it, at the same step, none of them writing.

        Args:
            animator: the model inside ``engine``.
            state: JSON values; ``step`` and ``identity`` among them.
        """
        here = distributed.place()
        counted = {"ranks": here.world_size, "optimizer_steps": fragments.taken_steps(engine), "format": FORMAT}
        files = _copies(engine, animator, ema)
        self._state, self._error, self._hashes = {**state, **counted}, None, {}
        if here.is_first:
            try:
                shutil.rmtree(self._partial, ignore_errors=True)
                self._partial.mkdir(parents=True)
            except OSError as error:
                self._error = error
        distributed.barrier()
        self._thread = threading.Thread(target=self._write, args=(files,), name="checkpoint")
        self._thread.start()

    def settle(self, conditions: Sequence[float]) -> None:
        """Finishes a checkpoint once everybody's files are written. ``conditions``: of every rank, the same list on all.

        Raises:
            InputError: a system refused to write (disk full, quota), on every rank; earlier checkpoints are untouched.
        """
        if self.FAILED in conditions:
            self._abandon()
        if self.IDLE in conditions or self.BUSY in conditions:
            return
        hashes = dict(sorted(pair for found in distributed.gather(self._hashes) for pair in found.items()))
        error: str | None = None
        if distributed.place().is_first:
            try:
                self._name(hashes)
            except OSError as refused:
                error = str(refused)
        if (error := distributed.from_first(error)) is not None:
            self._refuse(error)
        self._state = None

    def finish(self, device: torch.device) -> None:
        """Waits for what is being written. Every rank must call it. Raises InputError as :meth:`settle`."""
        if self._thread is not None:
            self._thread.join()
        (conditions,) = distributed.tell(float(self.condition), device=device)
        self.settle(conditions)

    @property
    def _final(self) -> Path:
        assert self._state is not None
        return self.root / f"step-{int(self._state['step']):06d}"

    @property
    def _partial(self) -> Path:
        return self.root / f".partial-{self._final.name}"

    def _write(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        try:
            for name, tensors in files.items():
                save_file(dict(tensors), self._partial / name)
                _sync_file(self._partial / name)
                self._hashes[name] = sha256_file(self._partial / name)
        except Exception as error:  # a thread's own error would be lost
            self._error = error

    def _name(self, hashes: Mapping[str, str]) -> None:
        """The state last, then the name: a folder that bears it is whole."""
        final, partial = self._final, self._partial
        write_json(partial / STATE, {**(self._state or {}), "files": hashes})
        _sync_folder(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(self.root)
        for old in complete(self.root.parent)[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _abandon(self) -> None:
        if self._thread is not None:
            self._thread.join()
        said = distributed.gather(None if self._error is None else str(self._error))
        self._refuse(next(text for text in said if text is not None))

    def _refuse(self, why: str) -> None:
        distributed.barrier()
        if distributed.place().is_first:
            shutil.rmtree(self._partial, ignore_errors=True)  # its space may be what is missing
        self._state = None
        # safetensors wraps the operating system's error.
        if self._error is not None and not isinstance(self._error, (OSError, SafetensorError)):
            raise self._error
        raise InputError(
            f"{self.root}: the checkpoint could not be written ({why.splitlines()[0]}); free some space and run the same command "
            "again, it continues from the newest checkpoint"
        )


def _copies(engine: Any, animator: Animator, ema: Ema | None) -> dict[str, dict[str, Tensor]]:
    """This rank's files: name -> tensors of their own on the CPU, which the next step does not change."""
    here, files = distributed.place(), {}
    if here.is_first or not fragments.everywhere(engine):
        files[_name("optimizer", here.rank)] = fragments.copies(fragments.held(engine, animator))
    if ema is not None and (here.is_first or ema.is_cut):
        files[_name("average", here.rank)] = fragments.copies(ema.fragments())
    frozen = dict(fragments.untrained(animator, animator.unsaved))
    if here.is_first:
        files[UNTRAINED] = frozen
    return files


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


def _sync_file(path: Path) -> None:
    """To the disk, so that the rename that follows never names a file whose bytes were lost."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
