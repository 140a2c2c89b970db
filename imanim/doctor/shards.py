"""Checks of the training data: what a loader is going to read, read once."""

from __future__ import annotations

import time
from collections.abc import Iterator

from imanim.doctor.findings import Finding, Situation, problem, warning, well
from imanim.errors import InputError

DECODE_SEC = 2.0
"""Decode samples for about this long to tell the speed."""
SLOW = 3.0
"""Storage is slow when decoding takes this many times as long by the clock as on the core."""


def check_data(situation: Situation) -> Iterator[Finding]:
    """Manifest, every split's indexes and sizes of shards, its first and last sample decoded; the speed of decoding."""
    from imanim.data.shards import ShardSet, read_manifest

    if situation.data is None:
        yield well("not looked at: no data=FOLDER given")
        return
    try:
        splits = read_manifest(situation.data)["splits"]
    except InputError as error:
        yield problem(*_parted(error))
        return
    if not splits:
        yield problem(f"{situation.data}: no split holds a sample", "preprocess again, and read its report")
    whole = None
    for name in sorted(splits):
        try:
            shards = ShardSet(situation.data, name)
            for place in dict.fromkeys((0, len(shards) - 1)):
                _decode(shards, place)
        except InputError as error:
            yield problem(*_parted(error))
        except (KeyError, TypeError, ValueError) as error:
            yield problem(
                f"{situation.data}: split {name}: its manifest or index is damaged ({error!r})", "make it again"
            )
        else:
            whole = shards if whole is None or len(shards) > len(whole) else whole
            yield well(f"{situation.data}: {name}, {len(shards)} samples, first and last decoded")
    if whole is not None:
        yield _speed(whole)


def _parted(error: InputError) -> tuple[str, str]:
    """An error's line as what was found and the remedy: our errors have them in this order, with a semicolon between."""
    found, _, remedy = str(error).rpartition("; ")
    return (found, remedy) if found else (remedy, "make the folder again")


def _decode(shards: object, place: int) -> None:
    from imanim.data.sample import decode
    from imanim.data.shards import ShardSet

    assert isinstance(shards, ShardSet)
    # What training does not look at is not decoded either.
    decode(*shards.read(place), skip=("parts.png", "driving_parts.png"))


def _speed(shards: object) -> Finding:
    """Samples a second and core: FFmpeg may use several threads, so the time is the process's, not the clock's."""
    from imanim.data.shards import ShardSet

    assert isinstance(shards, ShardSet)
    started, cpu, clock = time.perf_counter(), time.process_time(), 0.0
    count = 0
    while clock < DECODE_SEC and count < len(shards):
        _decode(shards, count * 7919 % len(shards))  # a prime's steps: not neighbours, as a loader's shuffled order
        count, clock = count + 1, time.perf_counter() - started
    used = max(time.process_time() - cpu, 1e-9)
    text = f"split {shards.split}: {count / used:.3g} samples/s decoded per core"
    # Waiting for the disk takes no time of a core.
    if clock > SLOW * used:
        return warning(f"{text}, but {count / clock:.3g} by the clock", "slow storage: copy the shards to a local disk")
    return well(text)
