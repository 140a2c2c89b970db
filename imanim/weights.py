"""Pretrained weight files that published Python archives carry: named, pinned by version, checked by sha256.

An entry names an archive of the package index (project and version), the member inside it and that member's sha256. The
archive is fetched from whatever index pip is configured for, and only the member is read out of it: nothing in the archive
is installed or run. Nothing is fetched unasked: jobs take :func:`require` and :func:`require_all`, which name what to
import. On a machine without a network, bring the archive by hand::

    imanim weights list                              # what is known, and what is already here
    imanim weights import NAME ... [--archive FILE]  # fetch, or read out of an archive you carried over
    imanim weights verify                            # recompute the sha256 of everything here
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imanim import cli, package_index
from imanim.errors import InputError, from_os_error

CACHE_VARIABLE = "IMANIM_WEIGHTS"
CHUNK_BYTES = 1 << 20


class Archive(Protocol):
    """A pinned file of the package index."""

    @property
    def requirement(self) -> str:
        """``project==version``."""

    @property
    def by_hand(self) -> str:
        """How to get the file on a connected machine."""

    def fetch(self, folder: Path) -> Path:
        """Brings the file into ``folder``. Raises NotFetched with the reason."""


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, pinned. Its compatibility tags choose the file; the machine's own do not matter."""

    project: str
    version: str
    python_version: str = "3.11"
    platforms: tuple[str, ...] = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    def pip_arguments(self) -> list[str]:
        """The arguments after ``python -m pip``, without the destination."""
        tags = [part for platform in self.platforms for part in ("--platform", platform)]
        return [
            *("download", "--no-deps", "--only-binary", ":all:", "--python-version", self.python_version),
            *(*tags, "--retries", "1", self.requirement),
        ]

    @property
    def by_hand(self) -> str:
        return f"run `python -m pip {' '.join(self.pip_arguments())}`"

    def fetch(self, folder: Path) -> Path:
        command = [sys.executable, "-m", "pip", *self.pip_arguments(), "--dest", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = sorted(folder.iterdir()) if done.returncode == 0 else []
        if not files:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
            raise package_index.NotFetched(lines[0].strip())
        return files[0]


@dataclass(frozen=True)
class SourceArchive:
    """A source archive of the package index, pinned by its own sha256.

    pip is not asked for it: it would run the archive's build script to learn its name, and nothing may run here.
    """

    project: str
    version: str
    filename: str
    sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    @property
    def by_hand(self) -> str:
        page = f"https://pypi.org/project/{self.project}/{self.version}/#files"
        return f"download {self.filename} from {page} (without pip, which would run it)"

    def fetch(self, folder: Path) -> Path:
        return package_index.fetch(self.project, self.filename, self.sha256, folder)


@dataclass(frozen=True)
class WeightFile:
    """One member of an archive. ``sha256`` and ``size_bytes`` are the member's, not the archive's."""

    name: str
    archive: Archive
    member: str
    sha256: str
    size_bytes: int
    licence: str
    source: str


_MEDIAPIPE = Wheel("mediapipe", "0.10.21")
_MEDIAPIPE_SOURCE = "MediaPipe (Google), as packed in its wheel"


def _mediapipe(name: str, member: str, size_bytes: int, sha256: str) -> WeightFile:
    path = f"mediapipe/modules/{member}"
    return WeightFile(name, _MEDIAPIPE, path, sha256, size_bytes, "Apache-2.0", _MEDIAPIPE_SOURCE)


_DLIB = SourceArchive(
    "face-recognition-models",
    "0.3.0",
    "face_recognition_models-0.3.0.tar.gz",
    "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
)


def _dlib(name: str, member: str, size_bytes: int, sha256: str) -> WeightFile:
    path = f"face_recognition_models/models/{member}"
    return WeightFile(name, _DLIB, path, sha256, size_bytes, "CC0-1.0", "dlib (Davis King), as packed by A. Geitgey")


_RAPIDOCR = Wheel("rapidocr-onnxruntime", "1.4.4")


def _rapidocr(name: str, member: str, size_bytes: int, sha256: str) -> WeightFile:
    path = f"rapidocr_onnxruntime/models/{member}"
    source = "PaddleOCR PP-OCRv4 (Baidu), as converted and packed by RapidOCR"
    return WeightFile(name, _RAPIDOCR, path, sha256, size_bytes, "Apache-2.0", source)


REGISTRY: dict[str, WeightFile] = {
    entry.name: entry
    for entry in (
        _mediapipe(
            "blazepose-detector",
            "pose_detection/pose_detection.tflite",
            2959046,
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        ),
        _mediapipe(
            "blazepose-landmarks-full",
            "pose_landmark/pose_landmark_full.tflite",
            6440512,
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        ),
        _mediapipe(
            "blazeface-short-range",
            "face_detection/face_detection_short_range.tflite",
            229714,
            "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        ),
        _dlib(
            "dlib-face-embedding",
            "dlib_face_recognition_resnet_model_v1.dat",
            22466066,
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        ),
        _dlib(
            "dlib-face-landmarks-5",
            "shape_predictor_5_face_landmarks.dat",
            9150489,
            "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        ),
        _rapidocr(
            "text-detector-dbnet",
            "ch_PP-OCRv4_det_infer.onnx",
            4745517,
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        _rapidocr(
            "text-reader-svtr",
            "ch_PP-OCRv4_rec_infer.onnx",
            10857958,
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        ),
    )
}


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
    return folder / f"{entry.name}-{entry.sha256[:12]}{Path(entry.member).suffix}"


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
    data = _read_member(Path(archive), entry.member)
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise InputError(
            f"{archive}: member {entry.member} has sha256 {found[:12]}..., not the pinned {entry.sha256[:12]}...;"
            f" use the archive of {entry.archive.requirement}"
        )
    _write_atomic(path, data)
    return path


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
    if path.stat().st_size != entry.size_bytes:
        raise InputError(f"{path}: {path.stat().st_size} bytes instead of {entry.size_bytes}; delete it and try again")
    return True


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
        good = path.is_file() and sha256_of(path) == entry.sha256
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
    bring.add_argument("--archive", metavar="FILE", help="an archive already on this machine")
    actions.add_parser("verify", help="recompute every sha256")
    args = parser.parse_args(argv)
    if args.action == "import":
        for name in sorted(REGISTRY) if "all" in args.names else args.names:
            print(import_archive(name, args.archive) if args.archive else ensure(name))
        return 0
    return _list() if args.action == "list" else _verify()


if __name__ == "__main__":
    cli.run(main)
