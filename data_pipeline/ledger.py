"""What is finished, so that a second run redoes nothing: the works in progress and the ledger of what is in shards.

    OUT/.work/SHA.tar, SHA.json     one finished video: its samples and its row of the report (the row is written last)
    OUT/videos.json                 the ledger: rows of every video that is in the shards, and how many shards there are

A video is identified by its bytes, not by its name. Samples move from works to shards when a batch ends; the ledger is
written after the shards, so a run killed in between makes those shards again from the works, byte for byte.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.one_video import EncodedSample
from imanim.data.files import read_json, write_json
from imanim.data.shards import index_path, shard_name, write_shard
from imanim.errors import InputError, from_os_error

WORK = ".work"
LEDGER = "videos.json"
Row = dict[str, Any]


@dataclass
class Ledger:
    """The content of ``videos.json``.

    Attributes:
        fingerprint: hash of the settings that made the samples; one folder holds one kind.
        rows: sha256 of a video -> its row of the report.
        shards: how many shards each split has.
    """

    fingerprint: str
    rows: dict[str, Row] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, output: Path, fingerprint: str) -> Ledger:
        """The folder's ledger, or a new one. Raises InputError when the folder was made with other settings."""
        path = output / LEDGER
        if not path.is_file():
            foreign = next(output.glob("*-[0-9][0-9][0-9][0-9][0-9].tar"), None) if output.is_dir() else None
            unfinished = (output / WORK).is_dir()
            if foreign is not None and not unfinished:
                raise InputError(
                    f"output: {output} holds shards of another source ({foreign.name}); choose another folder"
                )
            return cls(fingerprint)
        stored = read_json(path)
        if stored["fingerprint"] != fingerprint:
            raise InputError(
                f"output: {output} was made with other settings ({stored['fingerprint']}, now {fingerprint});"
                " choose another folder, or delete it to start afresh"
            )
        return cls(stored["fingerprint"], stored["rows"], stored["shards"])

    def write(self, output: Path) -> None:
        """Writes it, whole or not at all."""
        write_json(output / LEDGER, {"fingerprint": self.fingerprint, "rows": self.rows, "shards": self.shards})


def save_work(output: Path, fingerprint: str, sha256: str, row: Row, samples: list[EncodedSample]) -> None:
    """Keeps one finished video. Raises InputError when the system refuses (disk full)."""
    folder = _folder(output, fingerprint)
    if samples:
        write_shard(folder, sha256, 0, samples)
    write_json(folder / f"{sha256}.json", row)


def load_row(output: Path, fingerprint: str, sha256: str) -> Row | None:
    """The row of a finished video that is not in the shards yet, or None."""
    path = _folder(output, fingerprint) / f"{sha256}.json"
    return read_json(path) if path.is_file() else None


def load_samples(output: Path, fingerprint: str, sha256: str) -> list[EncodedSample]:
    """The samples of a finished video, in order."""
    path = _folder(output, fingerprint) / shard_name(sha256, 0)
    samples: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                stream = tar.extractfile(member)
                assert stream is not None, f"{path}: {member.name} is no file"
                samples.setdefault(key, {})[extension] = stream.read()
    except tarfile.TarError as error:
        raise InputError(f"{path}: damaged ({error}); delete it and its .json, and run again") from None
    except OSError as error:
        raise from_os_error(error, path) from None
    return list(samples.items())


def drop_work(output: Path, fingerprint: str, sha256: str) -> None:
    """Forgets a video whose samples are in shards now."""
    folder = _folder(output, fingerprint)
    tar = folder / shard_name(sha256, 0)
    for path in (folder / f"{sha256}.json", tar, index_path(tar)):
        path.unlink(missing_ok=True)


def drop_empty_work(output: Path, fingerprint: str) -> None:
    """Removes the folder of works when nothing is left in it."""
    for folder in (_folder(output, fingerprint), output / WORK):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def drop_unlisted_shards(output: Path, ledger: Ledger) -> None:
    """Removes shards that a killed run wrote but did not enter into the ledger; their samples are still in the works."""
    for tar in output.glob("*-[0-9][0-9][0-9][0-9][0-9].tar"):
        split, _, number = tar.stem.rpartition("-")
        if int(number) >= ledger.shards.get(split, 0):
            index_path(tar).unlink(missing_ok=True)
            tar.unlink()


def _folder(output: Path, fingerprint: str) -> Path:
    return output / WORK / fingerprint
