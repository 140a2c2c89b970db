"""Where shards lie: a local folder, or any place that fsspec reaches (``s3://bucket/shards``, ``gs://``, ``hf://``, ``memory://``).

Local files are read with one ``pread`` a range. Whatever has ``://`` in its name goes through fsspec; the network fails now and
then, so its reads are tried again before they are given up. Reading only: shards are made locally and copied.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import fsspec

from imanim.data.files import parse_json, read_json, sha256_file
from imanim.errors import InputError, from_os_error

Span = tuple[int, int]
"""First byte, and the one behind the last."""
Result = TypeVar("Result")

WAITS_SEC = (0.5, 1.0, 2.0, 4.0)
"""Before a remote read is tried again; then it is given up."""
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
}
"""What fsspec needs beside itself."""


class Storage(Protocol):
    """A folder of files that are read, never written."""

    def json(self, names: Sequence[str]) -> list[Any]:
        """JSON files. Raises InputError naming the first that is missing or damaged."""

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of files; None where there is none."""

    def ranges(self, name: str, spans: Sequence[Span]) -> list[bytes]:
        """Pieces of a file, shorter where it ends before. Raises InputError when it cannot be read."""

    def sha256(self, name: str) -> str:
        """Hexadecimal SHA-256 of a file."""

    def path(self, name: str) -> str:
        """How people call a file of this folder."""


def is_remote(folder: str | Path) -> bool:
    """Whether a folder's name is fsspec's to resolve."""
    return "://" in str(folder)


def at(folder: str | Path) -> Storage:
    """The folder's storage. Raises InputError for a protocol that nothing here speaks, naming the package that does."""
    return Remote(str(folder)) if is_remote(folder) else Local(Path(folder))


class Local:
    """A folder of this machine's file systems."""

    def __init__(self, folder: Path):
        self.folder = folder

    def json(self, names: Sequence[str]) -> list[Any]:
        """See :class:`Storage`."""
        return [read_json(self.folder / name) for name in names]

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """See :class:`Storage`."""
        return [path.stat().st_size if path.is_file() else None for path in (self.folder / name for name in names)]

    def ranges(self, name: str, spans: Sequence[Span]) -> list[bytes]:
        """See :class:`Storage`."""
        try:
            with open(self.folder / name, "rb", buffering=0) as stream:
                return [os.pread(stream.fileno(), stop - start, start) for start, stop in spans]
        except OSError as error:
            raise from_os_error(error, self.folder / name) from None

    def sha256(self, name: str) -> str:
        """See :class:`Storage`."""
        return sha256_file(self.folder / name)

    def path(self, name: str) -> str:
        """See :class:`Storage`."""
        return str(self.folder / name)


class Remote:
    """A folder that fsspec reaches. May be sent to worker processes: each connects for itself."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        _connect(self.url, os.getpid())  # a protocol that nothing here speaks is refused now, not at the first sample

    def json(self, names: Sequence[str]) -> list[Any]:
        """See :class:`Storage`."""
        found = self._try(lambda files: files.cat(self._paths(names), on_error="raise"), self.url)
        # One path gives the bytes themselves in some versions of fsspec.
        contents = [found] if isinstance(found, bytes) else [found[path] for path in self._paths(names)]
        return [parse_json(content, self.path(name)) for name, content in zip(names, contents)]

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """See :class:`Storage`."""

        def ask(files: fsspec.AbstractFileSystem) -> list[int | None]:
            # One listing, where a request for each of thousands of shards would take minutes. Web servers tell no sizes in it.
            root = _connect(self.url, os.getpid())[1]
            listed = {entry["name"].strip("/"): entry.get("size") for entry in files.ls(root, detail=True)}
            told = [(path, listed.get(path.strip("/"), -1)) for path in self._paths(names)]
            return [None if size == -1 else files.size(path) if size is None else size for path, size in told]

        return self._try(ask, self.url)

    def ranges(self, name: str, spans: Sequence[Span]) -> list[bytes]:
        """See :class:`Storage`."""
        path = self._paths([name])[0]

        def fetch(files: fsspec.AbstractFileSystem) -> list[bytes]:
            starts, stops = [s for s, _ in spans], [s for _, s in spans]
            return files.cat_ranges([path] * len(spans), starts, stops, on_error="raise")

        return self._try(fetch, self.path(name))

    def sha256(self, name: str) -> str:
        """See :class:`Storage`."""

        def digest(files: fsspec.AbstractFileSystem) -> str:
            with files.open(self._paths([name])[0], "rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()

        return self._try(digest, self.path(name))

    def path(self, name: str) -> str:
        """See :class:`Storage`."""
        return f"{self.url}/{name}"

    def _paths(self, names: Sequence[str]) -> list[str]:
        root = _connect(self.url, os.getpid())[1].rstrip("/")
        return [f"{root}/{name}" for name in names]

    def _try(self, read: Callable[[fsspec.AbstractFileSystem], Result], what: str) -> Result:
        files = _connect(self.url, os.getpid())[0]
        for wait in (*WAITS_SEC, None):
            try:
                return read(files)
            except FileNotFoundError:
                raise InputError(f"{what}: no such file or folder; check the path") from None
            except PermissionError:
                raise InputError(f"{what}: permission denied; look after the credentials") from None
            # Every protocol's package has errors of its own, and few are OSError.
            except Exception as error:
                if wait is None:
                    raise InputError(
                        f"{what}: could not be read in {len(WAITS_SEC) + 1} attempts ({type(error).__name__}: {error}); look after "
                        "the connection and the credentials, then run the same command again"
                    ) from None
                time.sleep(wait)
        raise AssertionError("not reached: the last attempt returns or raises")


@functools.lru_cache(maxsize=16)
def _connect(url: str, process: int) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system and the path in it. A connection must not pass a fork, so each process has its own."""
    protocol = url.split("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        known = (
            f"pip install {PACKAGES[protocol]}"
            if protocol in PACKAGES
            else "`fsspec.available_protocols()` lists what there is"
        )
        raise InputError(f"{url}: fsspec cannot open {protocol}:// here ({error}); {known}") from None
