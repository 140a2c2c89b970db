"""What the steps of each video left behind: the works folder.

    OUT/.work/plan.json                     the files, in order
    OUT/.work/files/HASH_OF_NAME.json       a file's sha256, good while its size and time stay
    OUT/.work/videos/AB/SHA256/
        STEP-KEY.npz        a step's arrays and facts
        samples-KEY-*.tar   the encoded samples (an ordinary shard with its index), until they are in the set's shards
        row-KEY.json        written last: this video is finished under these settings

A video is known by its bytes, not by its name. Every file is whole or absent, so a process may be killed at any moment.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imanim.data.files import read_json, sha256, sha256_file, write_atomic, write_json
from imanim.data.shards import index_path, shard_name, write_shard

WORK = ".work"
FACTS = "facts"
Row = dict[str, Any]
EncodedSample = tuple[str, dict[str, bytes]]


@dataclass
class Artefact:
    """A step's result: plain facts (JSON) and arrays."""

    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


@dataclass(frozen=True)
class VideoFolder:
    """One video's results in a works folder."""

    output: Path
    sha256: str

    @property
    def path(self) -> Path:
        """The folder itself; it may not exist yet."""
        return self.output / WORK / "videos" / self.sha256[:2] / self.sha256

    def load(self, step: str, key: str) -> Artefact | None:
        """A step's result; None when it is not there, or damaged: it can be made again, and is."""
        path = self._file(step, key)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return Artefact(json.loads(bytes(arrays.pop(FACTS))), arrays)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def save(self, step: str, key: str, artefact: Artefact) -> None:
        """Keeps a step's result. Raises InputError when the system refuses (disk full)."""
        facts = np.frombuffer(json.dumps(artefact.facts, sort_keys=True).encode(), np.uint8)
        buffer = io.BytesIO()
        arrays: Mapping[str, Any] = {FACTS: facts, **artefact.arrays}
        np.savez_compressed(buffer, **arrays)
        write_atomic(self._file(step, key), buffer.getvalue())

    def save_samples(self, key: str, samples: list[EncodedSample]) -> None:
        """Keeps the encoded samples, which may be none."""
        if samples:
            write_shard(self.path, f"samples-{key}", 0, samples)

    def samples_tar(self, key: str) -> Path:
        """Where :meth:`save_samples` puts them."""
        return self.path / shard_name(f"samples-{key}", 0)

    def drop_samples(self, key: str) -> None:
        """Forgets encoded samples that are in the set's shards now."""
        tar = self.samples_tar(key)
        for path in (index_path(tar), tar):
            path.unlink(missing_ok=True)

    def row(self, key: str) -> Row | None:
        """The finished video's row of the report, None when it is not finished under these settings."""
        path = self._row(key)
        return read_json(path) if path.is_file() else None

    def save_row(self, key: str, row: Row) -> None:
        """Says that the video is finished."""
        write_json(self._row(key), row)

    def drop_row(self, key: str) -> None:
        """Makes the video unfinished again; its steps stay."""
        self._row(key).unlink(missing_ok=True)

    def _file(self, step: str, key: str) -> Path:
        return self.path / f"{step}-{key}.npz"

    def _row(self, key: str) -> Path:
        return self.path / f"row-{key}.json"


def sha256_of(output: Path, name: str, path: Path) -> str:
    """A video's sha256: remembered while the file's size and time of change stay, else computed. Raises OSError."""
    stat = path.stat()
    mark = {"name": name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    note = _note(output, name)
    if note.is_file():
        known = read_json(note)
        if {key: known.get(key) for key in mark} == mark:
            return known["sha256"]
    found = sha256_file(path)
    write_json(note, {**mark, "sha256": found})
    return found


def known_sha256(output: Path, name: str) -> str | None:
    """The sha256 that a run found for a file name, without looking at the file; None when no run met it."""
    note = _note(output, name)
    return read_json(note)["sha256"] if note.is_file() else None


def _note(output: Path, name: str) -> Path:
    digest = sha256(name.encode("utf-8", "surrogateescape"))
    return output / WORK / "files" / digest[:2] / f"{digest[:24]}.json"
