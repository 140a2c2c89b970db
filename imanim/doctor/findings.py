"""What a check gets to know and what it gives back."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imanim.distributed import Place

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LEVELS = (OK, WARNING, PROBLEM)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: the check's name.
        level: ``ok``, ``warning`` (it works, but slowly or not as tested) or ``problem`` (training would fail).
        found: what is the case.
        remedy: what to do about it; empty when all is well.
        where: the machine, or the rank, that found it.
    """

    check: str
    level: str
    found: str
    remedy: str = ""
    where: str = ""


@dataclass(frozen=True)
class Situation:
    """What is examined.

    Attributes:
        config: the run's configuration file; None when the machine alone is examined.
        overrides: its ``key=value`` settings.
        data: folder of shards, if one is known.
        output: where a run would write.
        limit_sec: how long a check, or a stage of the check of links, may take.
        place: this process among those started.
        env: the environment as it was found, before anything was set for libraries.
        shm: where the loader's workers leave batches.
    """

    config: str | None = None
    overrides: Sequence[str] = ()
    data: str | Path | None = None
    output: Path = Path("runs")
    limit_sec: float = 60.0
    place: Place = field(default_factory=Place)
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    shm: Path = Path("/dev/shm")


Check = Callable[[Situation], Iterable[Finding]]


def well(found: str) -> Finding:
    """All is well."""
    return Finding("", OK, found)


def warning(found: str, remedy: str) -> Finding:
    """It works, but slowly or not as tested."""
    return Finding("", WARNING, found, remedy)


def problem(found: str, remedy: str) -> Finding:
    """Training would fail."""
    return Finding("", PROBLEM, found, remedy)


def hostname() -> str:
    """This machine's name, without its domain. On Slurm the node's, which need not be the same."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]


def guarded(name: str, check: Check, situation: Situation, limit_sec: float | None) -> list[Finding]:
    """Runs one check. One that raises, or does not end in time, is itself a problem and stops nobody else.

    Args:
        limit_sec: None for a check that limits itself.

    Returns:
        at least one finding, each with the check's name and this machine's.
    """
    found: list[Finding] = []

    def work() -> None:
        try:
            found.extend(check(situation))
        except Exception as error:
            what = f"{type(error).__name__}: {first_line(error)}"
            found.append(problem(f"the check itself failed ({what})", "mend that; what this check looks at is unknown"))

    # A file system that does not answer cannot be interrupted, but it need not be waited for.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_sec)
    if thread.is_alive():
        slow = f"not finished after {limit_sec:.0f} s"
        found = [*found, problem(slow, "look for a file system or device that hangs, or give more time: --time-limit")]
    named = [Finding(name, f.level, f.found, f.remedy, f.where or hostname()) for f in found]
    return named or [Finding(name, PROBLEM, "the check found nothing to say", "report this", hostname())]


def first_line(error: BaseException) -> str:
    """An error's first line without its full stop."""
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


def size(count: float) -> str:
    """Bytes as people say them: ``76.9 GB``, ``12.0 MB``."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def worst(findings: Iterable[Finding]) -> str:
    """The gravest level."""
    return max((f.level for f in findings), key=LEVELS.index, default=OK)


def to_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """``{"verdict": level, "findings": [{check, level, found, remedy, where}]}``."""
    listed = list(findings)
    return {"verdict": worst(listed), "findings": [asdict(f) for f in listed]}


def lines(findings: Sequence[Finding]) -> list[str]:
    """The findings as text; what several machines or ranks found alike is said once, naming them only where others differ."""
    together: dict[Finding, list[str]] = {}
    for f in findings:
        together.setdefault(Finding(f.check, f.level, f.found, f.remedy), []).append(f.where)
    asked = {f.check: {g.where for g in findings if g.check == f.check} for f in findings}
    out = []
    for f, places in together.items():
        where = "" if set(places) == asked[f.check] else f" [{', '.join(dict.fromkeys(places))}]"
        out.append(f"{f.level:<8} {f.check:<14} {f.found}{where}")
        if f.remedy:
            out.append(f"{'':<23} -> {f.remedy}")
    return out
