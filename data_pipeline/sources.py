"""Videos as they come: found in a folder; and the word for one that gives nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imanim.errors import InputError, from_os_error


class Unusable(Exception):
    """This video gives nothing. ``reason`` is a short code for counting, ``detail`` one line for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[Unusable], tuple[str, str]]:
        return Unusable, (self.reason, self.detail)


def find_files(folder: Path, extensions: Sequence[str]) -> list[Path]:
    """The video files under a folder, sorted. Raises InputError when the folder is missing or holds none."""
    if not folder.is_dir():
        raise InputError(f"input: {folder} is not a folder; give the folder that holds the videos")
    endings = {"." + e.lower().lstrip(".") for e in extensions}
    try:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and p.is_file())
    except OSError as error:
        raise from_os_error(error, folder) from None
    if not found:
        raise InputError(
            f"input: {folder} holds no {', '.join(sorted(endings))} file; check the folder or `extensions`"
        )
    return found
