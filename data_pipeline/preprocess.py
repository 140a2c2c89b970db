"""The sources that `launchers/preprocess.py` knows, and how to start the one that a configuration names."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from imanim import config
from imanim.errors import InputError


@dataclass(frozen=True)
class SourceKind:
    """Where a source's settings and its ``run(config, progress=, dry_run=)`` are; imported only when it is chosen.

    What ``run`` returns says with ``lines()`` what was made.
    """

    schema: str
    run: str


SOURCES: dict[str, SourceKind] = {
    "videos": SourceKind("data_pipeline.config:VideosConfig", "data_pipeline.jobs.job:run"),
    "doubles": SourceKind("data_pipeline.doubles.config:DoublesConfig", "data_pipeline.doubles.generate:run"),
}


def source_of(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """The ``source`` that a configuration file (or its base, or an override) names.

    Raises:
        InputError: the file is missing or unreadable, or names no known source.
    """
    name = next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("source=")), None)
    name = name or _stated(Path(path), depth=0)
    if name is None:
        raise InputError(f"{path}: has no `source`; add `source: {' | '.join(SOURCES)}`")
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        raise InputError(
            f"{path}: source: `{name}` is unknown; {f'did you mean `{near[0]}`?' if near else ', '.join(SOURCES)}"
        )
    return name


def _stated(path: Path, depth: int) -> str | None:
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file; check --config (or `extends:`)")
    if depth > 20:
        raise InputError(f"{path}: extends itself in a circle; break it")
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}; mend the file") from None
    if isinstance(tree, dict):
        if "source" in tree:
            return str(tree["source"])
        if "extends" in tree:
            return _stated(path.parent / str(tree["extends"]), depth + 1)
    return None


def load(path: str | Path, overrides: Sequence[str] = ()) -> tuple[str, Any]:
    """(source name, its configuration, checked). Raises InputError / ConfigError."""
    name = source_of(path, overrides)
    return name, config.load(_resolve(SOURCES[name].schema), path, overrides)


def run(path: str | Path, overrides: Sequence[str] = (), *, progress: bool = True, dry_run: bool = False) -> Any:
    """Runs the source that the configuration names; returns what it made, with ``lines()`` for people. Raises InputError."""
    name, settings = load(path, overrides)
    return _resolve(SOURCES[name].run)(settings, progress=progress, dry_run=dry_run)


def describe(path: str | Path) -> str:
    """Every setting of the source that a configuration names, for ``--help``."""
    return config.help_text(_resolve(SOURCES[source_of(path)].schema))


def _resolve(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
