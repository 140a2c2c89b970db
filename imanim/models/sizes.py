"""Model sizes by name: configs/model/*.yaml, one laid over another (``model=wan2.1-1.3b,tokenizer-small``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imanim import config
from imanim.errors import InputError
from imanim.models.config import AnimatorConfig

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "model"


def load(text: str, settings: Mapping[str, Any] | None = None) -> AnimatorConfig:
    """The configuration that ``text`` names: names in configs/model or YAML files, with commas, later ones laid over earlier.

    Args:
        settings: laid over them all, e.g. ``{"base": "weights/Wan2.1-T2V-1.3B-Diffusers"}``.

    Raises:
        InputError, ConfigError: no such name or file, or a value that is not allowed.
    """
    return config.load(AnimatorConfig, [_find(part.strip()) for part in text.split(",")], settings=settings)


def names() -> list[str]:
    """The names that :func:`load` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _find(text: str) -> Path:
    path = Path(text)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path  # config.load says so when a file is missing
    named = FOLDER / f"{text}.yaml"
    if not named.is_file():
        raise InputError(f"model: {text}: neither a file nor one of {', '.join(names())}")
    return named
