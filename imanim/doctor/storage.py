"""Checks of where files go: the output folder, TMPDIR, shared memory, open files."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from imanim.doctor.findings import Finding, Situation, problem, size, warning, well
from imanim.errors import from_os_error

TRIAL_BYTES = 32 << 20
LEAST_BYTES, LOW_BYTES = 1e9, 20e9
"""Free space that stops a run soon, and that is worth a word. A run's own needs: see the check ``memory``."""
LEAST_INODES = 10_000
SLOW_BYTES_PER_SEC, SLOW_SYNC_SEC = 50e6, 1.0
SMALL_SHM_BYTES = 1e9
"""A loader's worker keeps two batches in shared memory; containers get 64 MB unless asked."""
FEW_FILES = 1024


def check_output(situation: Situation) -> Iterator[Finding]:
    """Room at the output folder, how fast it takes data, and that a rename there replaces a file at once."""
    yield from _check_folder("output", situation.output, "choose another output=")


def check_temporary(situation: Situation) -> Iterator[Finding]:
    """The same where temporary files go."""
    folder = Path(situation.env.get("TMPDIR") or tempfile.gettempdir())
    if not folder.is_dir():
        yield problem(f"TMPDIR {folder}: no such folder", "make it, or set TMPDIR to a folder of this machine")
        return
    yield from _check_folder("TMPDIR", folder, "set TMPDIR to a larger or faster folder of this machine")


def _check_folder(name: str, folder: Path, remedy: str) -> Iterator[Finding]:
    # The run makes the folder; the doctor leaves nothing behind.
    nearest = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        yield problem(f"{name} {folder}: {nearest} is a file, not a folder", remedy)
        return
    stat = os.statvfs(nearest)
    free = stat.f_bavail * stat.f_frsize
    text = f"{name} {folder}: {size(free)} free"
    if stat.f_files and stat.f_favail < LEAST_INODES:
        yield warning(f"{text}, but room for only {stat.f_favail} files (inodes)", f"delete small files, or {remedy}")
    if free < LEAST_BYTES:
        yield problem(text, f"free some space, or {remedy}")
        return
    try:
        speed, sync_sec = _write(nearest)
    except OSError as error:
        yield problem(str(from_os_error(error, nearest)), remedy)
        return
    text += f", {speed / 1e6:.0f} MB/s, fsync {sync_sec * 1e3:.1f} ms, rename is atomic"
    if free < LOW_BYTES:
        yield warning(text, f"checkpoints may fill it; free some space, or {remedy}")
    elif speed < SLOW_BYTES_PER_SEC or sync_sec > SLOW_SYNC_SEC:
        yield warning(f"{text}: slow", f"checkpoints will take their time; {remedy}")
    else:
        yield well(text)


def _write(folder: Path) -> tuple[float, float]:
    """(bytes a second with fsync, seconds of a small file's fsync). Leaves nothing. Raises OSError."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".imanim-doctor-") as inner:
        large, small, name = Path(inner, "large"), Path(inner, "small"), Path(inner, "name")
        # Zeros would be compressed away by some file systems.
        data = os.urandom(1 << 20)
        started = time.perf_counter()
        with large.open("wb") as file:
            for _ in range(TRIAL_BYTES // len(data)):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        large_sec = time.perf_counter() - started
        if large.stat().st_size != TRIAL_BYTES:
            raise OSError(f"{TRIAL_BYTES} bytes written, {large.stat().st_size} there")
        name.write_bytes(b"old")
        started = time.perf_counter()
        with small.open("wb") as file:
            file.write(b"new")
            file.flush()
            os.fsync(file.fileno())
        sync_sec = time.perf_counter() - started
        os.replace(small, name)
        if name.read_bytes() != b"new" or small.exists():
            raise OSError("a file that is renamed over another does not take its place")
    return TRIAL_BYTES / large_sec, sync_sec


def check_shared_memory(situation: Situation) -> Iterator[Finding]:
    """/dev/shm, through which the loader's workers hand over batches."""
    remedy = "docker run --shm-size 16g (or --ipc host); data.workers=0 works without"
    if not situation.shm.is_dir():
        yield problem(f"{situation.shm}: not there, and the loader's workers need it", remedy)
        return
    stat = os.statvfs(situation.shm)
    total, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    text = f"{situation.shm}: {size(free)} of {size(total)} free"
    if total <= 64 << 20:
        yield problem(f"{text}, a container's default", remedy)
    elif free < SMALL_SHM_BYTES:
        yield warning(text, remedy)
    else:
        yield well(text)


def check_open_files(situation: Situation) -> Iterator[Finding]:
    """The limit of open files: every tensor that a worker hands over takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{'no limit' if soft == resource.RLIM_INFINITY else f'up to {soft}'}"
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        most = "65536" if hard == resource.RLIM_INFINITY else str(min(hard, 65536))
        yield warning(f"{text}: the loader's workers may run out", f"ulimit -n {most} before starting")
    else:
        yield well(text)
