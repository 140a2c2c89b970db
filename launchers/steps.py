"""Steps of a long command: each is done once, leaves a record and a log, and is skipped when the command is given again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imanim.data.files import read_json, write_json
from imanim.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "steps"


def run(
    name: str,
    command: Sequence[str],
    output: Path,
    place: str,
    *,
    depends: Mapping[str, Any] | None = None,
    forget: bool = True,
    cwd: Path = ROOT,
    started_as: Callable[[list[str]], list[str]] = lambda words: words,
    finished: Callable[[int, float], bool] = lambda code, started: code == 0,
) -> float:
    """Runs a command as a step (see :func:`once`), showing and keeping what it says.

    Args:
        depends: what else the step's result depends on.
        started_as: what to start for the command, where it has to be filled in; the step is known by the command as given.
        finished: whether an exit code, with the time (seconds since 1970) of the start, means that the step is finished.

    Raises:
        InputError: the command failed; its own message stands above.
    """
    log = output / FOLDER / f"{slug(name)}.log"

    def work() -> None:
        began = time.time()
        code = tee(started_as(list(command)), log, cwd)
        if not finished(code, began):
            raise InputError(f"step {name} failed with code {code} (log: {log}); mend it, run again")

    what = {"command": list(command), **({"depends": dict(depends)} if depends else {})}
    return once(name, what, output, place, work, words=" ".join(command), forget=forget)


def once(
    name: str,
    depends: Mapping[str, Any],
    output: Path,
    place: str,
    work: Callable[[], None],
    *,
    words: str = "",
    forget: bool = True,
) -> float:
    """Does ``work`` unless it was finished before with equal ``depends`` (JSON); returns the seconds it took.

    ``forget``: what a step of other ``depends`` left in ``output/NAME`` is deleted first, so that nothing of it is continued.
    """
    record = output / FOLDER / f"{slug(name)}.json"
    fingerprint = fingerprint_of(depends)
    known = read_json(record) if record.is_file() else {}
    if known.get("fingerprint") == fingerprint and known.get("done"):
        print(f"[{place}] {name}: done before ({known['seconds']:.0f} s)", flush=True)
        return known["seconds"]
    if known and known.get("fingerprint") != fingerprint and forget:
        shutil.rmtree(output / slug(name), ignore_errors=True)
    print(f"\n[{place}] {name}: {words}", flush=True)
    state: dict[str, Any] = {**depends, "fingerprint": fingerprint}
    earlier_sec = known.get("seconds", 0.0) if known.get("fingerprint") == fingerprint else 0.0
    write_json(record, {**state, "done": False, "seconds": earlier_sec})
    started = time.monotonic()
    try:
        work()
    finally:
        seconds = earlier_sec + time.monotonic() - started
        write_json(record, {**state, "done": False, "seconds": seconds})
    write_json(record, {**state, "done": True, "seconds": seconds})
    print(f"[{place}] {name}: {seconds:.0f} s", flush=True)
    return seconds


def seconds_before(name: str, output: Path) -> float | None:
    """What a finished step took; None where it was not finished yet."""
    record = output / FOLDER / f"{slug(name)}.json"
    known = read_json(record) if record.is_file() else {}
    return known["seconds"] if known.get("done") else None


def fingerprint_of(depends: Mapping[str, Any]) -> str:
    """Of JSON values, whatever their order."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def slug(name: str) -> str:
    """A step's name as a file's."""
    return name.replace(" ", "_")


def tee(command: Sequence[str], log: Path, cwd: Path) -> int:
    """Runs a command, showing and keeping what it says; returns its exit code."""
    # One thread a process: the ranks share the cores (two threads each on two cores are ten times slower).
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"}
    with open(log, "ab") as kept:
        child = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert child.stdout is not None
        try:
            while chunk := os.read(child.stdout.fileno(), 65536):
                kept.write(chunk)
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
            return child.wait()
        except BaseException:
            # An interrupt reaches the whole foreground group; otherwise the child must not outlive us.
            child.terminate()
            child.wait()
            raise
