"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from imanim.errors import InputError, from_os_error


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary neighbour of ``path`` for writing; it takes the name only once wholly on disk.

    Whatever goes wrong, a file that was there before stays as it was and nothing half-written remains.

    Raises:
        InputError: when the system refuses (disk full, no permission), naming ``path``.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp's files are private; what we leave behind follows the user's umask like any other file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise from_os_error(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes ``data`` to ``path``, whole or not at all. Raises InputError when the system refuses."""
    with atomic_file(path) as stream:
        stream.write(data)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON (sorted keys, so that equal values are equal bytes) atomically."""
    write_atomic(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Reads JSON. Raises InputError naming the file when it is missing or damaged."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise from_os_error(error, path) from None
    return parse_json(data, path)


def parse_json(data: bytes, name: str | Path) -> Any:
    """JSON from bytes. Raises InputError naming ``name`` when they are damaged."""
    try:
        return json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{name}: damaged JSON ({error}); make it again") from None


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
