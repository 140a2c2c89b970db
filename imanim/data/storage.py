"""Where shards lie: a local folder, or any place that fsspec reaches (``s3://bucket/shards``, ``gs://``, ``hf://``, ``memory://``).

Local files are read with one ``pread`` a range. Whatever has ``://`` in its name goes through fsspec; the network fails now and
then, so its reads are tried again before they are given up. Reading only: shards are made locally and copied
(data_pipeline.publish).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import fsspec

from imanim.data.files import parse_json, read_json, sha256_file
from imanim.errors import InputError, from_os_error

Span = tuple[int, int]
"""First byte, and the one behind the last."""
Result = TypeVar("Result")

WAITS_SEC = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Before something remote is tried again; then it is given up."""
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
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EISDIR, errno.ENOTDIR)
"""What a mounted disk refuses and will refuse again."""
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
MISSET = ("ProfileNotFound", "NoRegionError", "InvalidRegionError", "ConfigParseError", "ParamValidationError")
"""botocore's errors that no second attempt mends, by name: it need not be installed."""
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true for a public bucket"


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
        self._files()  # a protocol that nothing here speaks is refused now, not at the first sample

    def json(self, names: Sequence[str]) -> list[Any]:
        """See :class:`Storage`."""

        def fetch(files: fsspec.AbstractFileSystem) -> list[bytes]:
            # A list of one path gives the bytes themselves in some versions of fsspec.
            found = files.cat(self._paths(names), on_error="return")
            contents = [found] if isinstance(found, bytes) else [found[path] for path in self._paths(names)]
            for name, content in zip(names, contents):
                if isinstance(content, Exception):
                    raise _FailedAt(self.path(name), content)
            return contents

        contents = attempt(fetch, self._files, self.url)
        return [parse_json(content, self.path(name)) for name, content in zip(names, contents)]

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """See :class:`Storage`."""

        def ask(files: fsspec.AbstractFileSystem) -> list[int | None]:
            # One listing, where a request for each of thousands of shards would take minutes. Web servers tell no sizes in it.
            root = self._files().root
            files.invalidate_cache(root)
            listed = {entry["name"].strip("/"): entry.get("size") for entry in files.ls(root, detail=True)}
            told = [(path, listed.get(path.strip("/"), -1)) for path in self._paths(names)]
            return [None if size == -1 else files.size(path) if size is None else size for path, size in told]

        return attempt(ask, self._files, self.url)

    def ranges(self, name: str, spans: Sequence[Span]) -> list[bytes]:
        """See :class:`Storage`."""
        path = self._paths([name])[0]

        def fetch(files: fsspec.AbstractFileSystem) -> list[bytes]:
            starts, stops = [s for s, _ in spans], [s for _, s in spans]
            return files.cat_ranges([path] * len(spans), starts, stops, on_error="raise")

        return attempt(fetch, self._files, self.path(name))

    def sha256(self, name: str) -> str:
        """See :class:`Storage`."""

        def digest(files: fsspec.AbstractFileSystem) -> str:
            with files.open(self._paths([name])[0], "rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()

        return attempt(digest, self._files, self.path(name))

    def path(self, name: str) -> str:
        """See :class:`Storage`."""
        return f"{self.url}/{name}"

    def _paths(self, names: Sequence[str]) -> list[str]:
        root = self._files().root
        return [f"{root}/{name}" for name in names]

    def _files(self) -> Connection:
        return _connection(self.url, os.getpid())


# --------------------------------------------------------------------------------------------------------- connecting


class Connection(NamedTuple):
    """A file system of fsspec, and the folder's path in it, without a slash behind."""

    files: fsspec.AbstractFileSystem
    root: str


@functools.lru_cache(maxsize=16)
def _connection(url: str, process: int) -> Connection:
    """A connection to read by. It must not pass a fork, so each process has its own."""
    found = connect(url)
    # s3fs tries every request five times itself: the attempts that a failure tells of would not be those that were made.
    if hasattr(found.files, "retries"):
        found.files.retries = 1
    return found


def connect(url: str) -> Connection:
    """A new connection of the caller's own. Raises InputError for a protocol that nothing here speaks, naming what does."""
    protocol = url.split("://")[0]
    try:
        files, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, **_options(protocol))
    except (ImportError, ValueError) as error:
        known = (
            f"pip install {PACKAGES[protocol]}"
            if protocol in PACKAGES
            else "`fsspec.available_protocols()` lists what there is"
        )
        raise InputError(f"{url}: fsspec cannot open {protocol}:// here ({error}); {known}") from None
    return Connection(files, root.rstrip("/"))


def _options(protocol: str) -> dict[str, Any]:
    """What a protocol is opened with, beside what the environment and fsspec's own configuration say."""
    if PACKAGES.get(protocol) != "s3fs":
        return {}
    given = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
    # botocore's own attempts lie within s3fs's, and those within ours: a dead server would be asked 125 times.
    return {"config_kwargs": {"retries": {"max_attempts": 0}, **given}}


# ------------------------------------------------------------------------------------------------------------- trying


class _FailedAt(Exception):
    """An error at one of several files."""

    def __init__(self, what: str, error: Exception):
        super().__init__(what, error)
        self.what, self.error = what, error


def attempt(
    do: Callable[[fsspec.AbstractFileSystem], Result],
    connection: Callable[[], Connection],
    what: str,
    *,
    verb: str = "read",
) -> Result:
    """Does something remote, and again after each of ``WAITS_SEC`` as long as it fails in a way that may pass.

    Args:
        do: what to do with the file system; may be called several times.
        connection: gives this process's connection.
        what: the file or folder, for the error.
        verb: what could not be done (``read``, ``written``).

    Raises:
        InputError: nothing there, not allowed, no credentials, disk full (at once); or every attempt failed.
    """
    for wait in (*WAITS_SEC, None):
        try:
            return do(connection().files)
        except InputError:
            raise
        # Every protocol's package has errors of its own, and few are OSError.
        except Exception as caught:
            at, error = (caught.what, caught.error) if isinstance(caught, _FailedAt) else (what, caught)
            final = _final(at, error)
            if final is not None:
                raise final from None
            if wait is None:
                raise InputError(
                    f"{at}: could not be {verb} in {len(WAITS_SEC) + 1} attempts ({type(error).__name__}: {error}); look after "
                    "the connection and the credentials, then run the same command again"
                ) from None
            time.sleep(wait)
    raise AssertionError("not reached: the last attempt returns or raises")


def no_bucket(error: FileNotFoundError) -> bool:
    """Whether it is the bucket that is missing: object stores tell that from a missing object in words only."""
    return "specified bucket" in str(error)


def _final(what: str, error: Exception) -> InputError | None:
    """The refusal that an error stands for when trying again is of no use; None when it may pass."""
    if isinstance(error, FileNotFoundError):
        return InputError(
            f"{what}: {'no such bucket; make it, or' if no_bucket(error) else 'no such file or folder;'} check the path"
        )
    if isinstance(error, PermissionError):
        told = f" ({error})" if " " in str(error) and error.errno is None else ""
        return InputError(f"{what}: permission denied{told}; look after the credentials")
    if isinstance(error, OSError) and error.errno in FULL:
        return from_os_error(error, what)
    kind = type(error).__name__
    if kind in NO_CREDENTIALS:
        return InputError(f"{what}: no usable credentials ({error}); set {CREDENTIALS}")
    # A plain ValueError is how clients refuse an endpoint or a name; those of broken replies are of kinds below it.
    if kind == "ValueError" or kind in MISSET:
        return InputError(f"{what}: cannot be asked for ({error}); check the path and the variables AWS_* and FSSPEC_*")
    return None
