"""What is in the set's shards, and how a new layout takes the place of the old one at once.

    OUT/.work/ledger.json       shard -> its samples in order, each with a stamp of what it was made from
    OUT/.work/merge/            new shards on their way, and commit.json once they are all there

From the moment commit.json is there the new layout counts: whoever comes next finishes the move, however often it is killed. Before
that moment nothing of the old layout is touched.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.video.artefacts import WORK
from imanim.data.files import read_json, sha256, write_atomic, write_json
from imanim.data.shards import MANIFEST, index_path, shard_name, write_shard
from imanim.errors import from_os_error

LEDGER = "ledger.json"
COMMIT = "commit.json"


@dataclass(frozen=True)
class Entry:
    """A sample that belongs into the set.

    Attributes:
        key: the sample's key. split: where it goes. person: whom it shows.
        sha256: the video it is from. made: key of the samples step that made it. beside: mark of what the user says of the video.
        name: how the video is called; another name alone changes nothing that is in a shard already.
    """

    key: str
    split: str
    person: str
    sha256: str
    made: str
    beside: str = ""
    name: str = ""

    @property
    def stamp(self) -> list[str]:
        """Equal when the sample's bytes are."""
        return [self.sha256, self.made, self.beside, self.person]


@dataclass
class Ledger:
    """``shards``: shard file name -> list of (key, stamp) in order."""

    shards: dict[str, list[list[Any]]] = field(default_factory=dict)

    @classmethod
    def read(cls, output: Path) -> Ledger:
        """The folder's ledger, or an empty one."""
        path = output / WORK / LEDGER
        return cls(read_json(path)["shards"]) if path.is_file() else cls()

    def write(self, output: Path) -> None:
        """Writes it, whole or not at all."""
        write_json(output / WORK / LEDGER, {"shards": self.shards})


@dataclass(frozen=True)
class Layout:
    """``new``: shards to write (name -> entries in order); ``keep``: shards that stay as they are; ``remove``: those that go."""

    new: dict[str, list[Entry]]
    keep: list[str]
    remove: list[str]


def arrange(entries: list[Entry], old: Ledger, samples_per_shard: int) -> Layout:
    """Which shards hold what: a pure function.

    As long as what is in the shards stays wanted as it is, they stay and new samples go into further ones. Otherwise all is laid
    out anew. Samples stand in the order of their keys' hashes, so that a shard holds many people.
    """
    wanted = {e.key: e for e in entries}
    stays = all(
        key in wanted and wanted[key].stamp == stamp and name.rpartition("-")[0] == wanted[key].split
        for name, samples in old.shards.items()
        for key, stamp in samples
    )
    there = {key for samples in old.shards.values() for key, _ in samples} if stays else set()
    counts: dict[str, int] = {}
    for name in old.shards if stays else ():
        split, _, digits = name.removesuffix(".tar").rpartition("-")
        counts[split] = max(counts.get(split, 0), int(digits) + 1)
    new: dict[str, list[Entry]] = {}
    for split in sorted({e.split for e in entries}):
        rest = sorted((e for e in entries if e.split == split and e.key not in there), key=_mixed)
        for i in range(0, len(rest), samples_per_shard):
            number = counts.get(split, 0) + i // samples_per_shard
            new[shard_name(split, number)] = rest[i : i + samples_per_shard]
    keep = sorted(old.shards) if stays else []
    return Layout(new, keep, [name for name in sorted(old.shards) if name not in new and name not in keep])


def stage(output: Path, name: str, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    """Writes a new shard aside."""
    split, _, number = name.removesuffix(".tar").rpartition("-")
    write_shard(output / WORK / "merge", split, int(number), samples)


def clear_stage(output: Path) -> None:
    """Forgets new shards of a merge that did not come to its end."""
    shutil.rmtree(output / WORK / "merge", ignore_errors=True)


def commit(output: Path, layout: Layout, ledger: Ledger, *, same_set: bool = False) -> None:
    """From here on the new layout counts. ``ledger``: what the set holds then; ``same_set``: the manifest stays true."""
    if same_set:
        write_atomic(output / WORK / "merge" / MANIFEST, (output / MANIFEST).read_bytes())
    move = {"new": sorted(layout.new), "remove": layout.remove, "shards": ledger.shards}
    write_json(output / WORK / "merge" / COMMIT, move)
    finish(output)


def finish(output: Path) -> bool:
    """Ends a committed move that was cut short. True when there was one."""
    aside = output / WORK / "merge"
    if not (aside / COMMIT).is_file():
        return False
    move = read_json(aside / COMMIT)
    try:
        # Without a manifest the folder is unfinished: nobody trains on half of each layout.
        (output / MANIFEST).unlink(missing_ok=True)
        for name in move["new"]:
            for path in (index_path(aside / name), aside / name):
                if path.is_file():
                    os.replace(path, output / path.name)
        for name in move["remove"]:
            (output / name).unlink(missing_ok=True)
            index_path(output / name).unlink(missing_ok=True)
        if (aside / MANIFEST).is_file():
            os.replace(aside / MANIFEST, output / MANIFEST)
    except OSError as error:
        raise from_os_error(error, output) from None
    Ledger(move["shards"]).write(output)
    clear_stage(output)
    return True


def _mixed(entry: Entry) -> tuple[str, str]:
    return sha256(entry.key.encode()), entry.key
