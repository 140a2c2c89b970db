"""Which commit the running code is of, for what a run leaves behind."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

_PATIENCE_SEC = 30.0
_ELSEWHERE = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"}
)
"""Set by a git hook that runs us: they would point git to another repository."""


@functools.cache
def revision() -> str | None:
    """The commit (40 hex digits) this package runs from, ``-dirty`` behind it when tracked files differ from it.

    None when nobody can tell: no checkout (an installed package), a checkout of somebody else's repository around it, no commit
    yet, or no git. Asked once a process: later calls say what the first one found.
    """
    return of_package(Path(__file__).resolve().parent)


def of_package(package: Path) -> str | None:
    """:func:`revision` of the package in a folder, asked anew."""
    top = _git(package, "rev-parse", "--show-toplevel")
    # Inside somebody else's repository (an environment under their project) theirs would be a wrong answer.
    if top is None or Path(top).resolve() != package.resolve().parent:
        return None
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    changes = _git(package.parent, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return commit + ("-dirty" if changes else "")


def _git(folder: Path, *words: str) -> str | None:
    """What git answers, None when it does not."""
    env = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=_PATIENCE_SEC, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()
