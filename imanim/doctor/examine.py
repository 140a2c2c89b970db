"""The checks, in the order of the report, and how they are run on one rank or many."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from imanim.doctor import links, machine, settings, shards, software, storage
from imanim.doctor.findings import PROBLEM, Check, Finding, Situation, guarded, hostname
from imanim.doctor.peer import LONG_SEC
from imanim.errors import InputError

CHECKS: dict[str, Check] = {
    "packages": software.check_packages,
    "torch": software.check_torch,
    "gpus": software.check_gpus,
    "arithmetic": software.check_arithmetic,
    "attention": software.check_attention,
    "codecs": software.check_codecs,
    "cores": machine.check_cores,
    "memory": machine.check_memory,
    "shared memory": storage.check_shared_memory,
    "open files": storage.check_open_files,
    "output": storage.check_output,
    "temporary": storage.check_temporary,
    "slurm": machine.check_slurm,
    "data": shards.check_data,
    "configuration": settings.check_configuration,
    "weights": settings.check_weights,
    "room": settings.check_room,
}
"""Name to what runs on the first rank of every machine. The check of links runs on every rank, before these."""
LINKS = "links"
GRACE_SEC = 30.0
"""More than the limit for a check that is busy, e.g. importing libraries from a slow disk; none that is well needs it."""


def examine(
    situation: Situation,
    told: Callable[[str], None] = lambda name: None,
    speak: Callable[[list[Finding]], None] = lambda findings: None,
) -> list[Finding]:
    """Runs every check. Over several ranks all of them must call it.

    Args:
        told: called with each check's name before it runs.
        speak: called with the findings where they are to be printed: on the first rank alone when the links are sound, else on
            every rank.

    Returns:
        everybody's findings, the same on every rank, when the links are sound; else this rank's own.
    """
    told(LINKS)
    running: list[links.Link] = []
    found = guarded(LINKS, lambda here: _links(here, running), situation, None)
    sound = bool(running) and all(link.answer is not None for link in running)
    alone, began = situation.place.world_size == 1, time.monotonic()
    try:
        while alone and running:
            running.pop().close(situation.limit_sec)
        if situation.place.local_rank == 0:
            for name, check in CHECKS.items():
                told(name)
                found += guarded(name, check, situation, situation.limit_sec + GRACE_SEC)
        together = found if alone else _together(found, running, situation, sound)
        if alone or not sound or situation.place.is_first:
            speak(together)
        if not alone and not sound:
            # A launcher ends all ranks when one leaves: those that are still at it get the time to say what they found.
            time.sleep(max(0.0, min(GRACE_SEC, situation.limit_sec) + began - time.monotonic()))
        return together
    finally:
        for link in running:
            link.close(patience_sec=LONG_SEC if sound else 0.0)


def _links(situation: Situation, running: list[links.Link]) -> list[Finding]:
    """Starts this rank's link, or all of this machine's, and follows them."""
    try:
        running += links.start(situation)
    except InputError as error:
        found, _, remedy = str(error).partition("; ")
        return [Finding("", PROBLEM, found, remedy)]
    for link in running:
        link.run()
    # What is the same for all ranks is said once: those that agree are not told apart by where they are.
    return list(links.report(running, situation))


def _together(found: list[Finding], running: list[links.Link], situation: Situation, sound: bool) -> list[Finding]:
    """Everybody's findings through the links that were just proved; without them every rank speaks for itself."""
    rank = f"rank {situation.place.rank} on {hostname()}"
    own = [dataclasses.replace(f, where=rank) for f in found]
    if not sound:
        return own
    everyone = running[0].hand_over([dataclasses.asdict(f) for f in found], LONG_SEC)
    if everyone is None:
        return [*own, Finding(LINKS, PROBLEM, running[0].failure, "look at what that rank printed", rank)]
    return [Finding(**f) for findings in everyone for f in findings]
