"""Errors that are the user's to mend: one line that names the file or key, the value found and the remedy."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path


class InputError(Exception):
    """Something the user gave cannot be used. ``str(error)`` is one line: what, which value, what to do."""

    exit_code = 2
    """What a launcher ends with."""

    def __init__(self, message: str):
        if message.startswith("Caught ") and "Original Traceback" in message:
            # PyTorch raises a loader worker's error again with the worker's traceback before it; ours is the last line.
            message = message.rpartition(f"{type(self).__name__}: ")[2]
        super().__init__(" ".join(message.split()))


class NotFiniteError(InputError):
    """Losses or gradients that are not finite, more often than the run was told to bear. The weights are those before them."""

    exit_code = 65


class LostRankError(InputError):
    """Another rank has ended. Starting again goes on from the newest checkpoint."""

    exit_code = 71


class ConfigError(InputError):
    """Every problem of a configuration at once.

    Attributes:
        problems: one line a problem, each naming its key.
    """

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__(" | ".join(self.problems))


def from_os_error(error: OSError, path: str | Path | None = None) -> InputError:
    """Turns an operating system's refusal (disk full, no permission, no such file) into one line with a remedy."""
    where = path if path is not None else (error.filename or "a file")
    remedies = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again (finished work is kept)",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EACCES: "permission denied; choose a path you may use",
        errno.EROFS: "the file system is read-only; choose another path",
        errno.ENOENT: "no such file or folder; check the path",
        errno.EISDIR: "is a folder where a file is needed; give the file's path",
        errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
        errno.EEXIST: "already exists; choose another path",
    }
    return InputError(f"{where}: {remedies.get(error.errno or 0, error.strerror or str(error))}")
