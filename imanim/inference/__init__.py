"""Animating a character: the pipeline, its windows over long videos, faces, and frames that do not fit in memory."""

from __future__ import annotations

from pathlib import Path

from imanim.errors import InputError

PACKAGED_MODEL = Path(__file__).resolve().parents[1] / "assets" / "tiny"
"""The model of size ``tiny`` that comes with the package."""
_INDEX = "model_index.json"


def find_model(folder: str | Path | None) -> Path:
    """The model folder that the user means: a saved model, the ``model/`` of a training run, or (None) the packaged one.

    Raises:
        InputError: there is none.
    """
    if folder is None:
        if not (PACKAGED_MODEL / _INDEX).is_file():
            raise InputError(
                f"{PACKAGED_MODEL}: this installation carries no weights; train a model and give --model RUN"
            )
        return PACKAGED_MODEL
    for candidate in (Path(folder), Path(folder) / "model"):
        if (candidate / _INDEX).is_file():
            return candidate
    what = "holds no finished model" if Path(folder).is_dir() else "no such folder"
    raise InputError(f"{folder}: {what}; give a training run's folder or one that holds {_INDEX}")
