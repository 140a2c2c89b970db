"""300 damaged files: each is refused by name, or gives every frame at its time. Never another exception, a crash, or a hang."""

from __future__ import annotations

import resource
from collections import Counter
from pathlib import Path

import mutants
import numpy as np
import pytest
from rendered import numbered, render

from data_pipeline.config import LimitsConfig
from data_pipeline.jobs import isolation

LIMITS = LimitsConfig(memory_gb=2.0, stall_sec=20.0, total_sec=60.0)
FILES = {
    "h264.mp4": {"options": {"bf": "2", "crf": "18"}, "audio_sec": 1.7},
    "h264.mkv": {"options": {"bf": "2", "crf": "18"}},
    "sound.mkv": {"options": {"bf": "2", "crf": "18"}, "audio_sec": 1.7},
    "h264.mov": {"options": {"crf": "18"}},
    "h265.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "crf": "20", "b": "0", "g": "12"}},
    "vp8.webm": {"codec": "libvpx", "options": {"b": "1M", "deadline": "realtime", "cpu-used": "8", "g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"b": "2M"}},
}
EACH = 4  # of every damage to every file
SILENT = 0.11  # of all mutants: frames and times whole, pixels not; measured: see decode.frames
MISPLACED = 0.011  # of all mutants: a header's number is another, and as good as the first; measured: see decode.frames


def make(folder: Path, each: int, seed: int) -> list[tuple[str, str, Path]]:
    """(file, damage, path) of every mutant."""
    out = []
    for name, how in FILES.items():
        original = render(folder / name, numbered(40, 64, 96), **how)
        data = original.read_bytes()
        for number, (damage, mutate) in enumerate(mutants.ANYWHERE.items()):
            for n in range(each):
                path = folder / f"{original.stem}-{damage}-{n}{original.suffix}"
                path.write_bytes(mutate(bytearray(data), np.random.default_rng([seed, number, n])))
                out.append((name, damage, path))
    return out


def special(folder: Path) -> list[tuple[str, str, Path]]:
    """Damage that chance would not make."""
    out = []
    for name in FILES:
        for wrong in {"mp4", "mkv", "avi"} - {name.split(".")[1]}:
            path = folder / f"{name}.swapped.{wrong}"
            path.write_bytes((folder / name).read_bytes())
            out.append((name, "ending", path))
    for name in ("h264.mp4", "h264.mov", "h265.mp4"):
        data = (folder / name).read_bytes()
        for box in (b"moov", b"trak", b"stbl", b"stts", b"stsz", b"stco", b"stsd"):
            path = folder / f"{name}.no_{box.decode()}.mp4"
            path.write_bytes(mutants.without_box(data, box))
            out.append((name, f"no {box.decode()}", path))
        for size in ((65535, 65535), (16384, 16384)):
            path = folder / f"{name}.{size[0]}.mp4"
            path.write_bytes(mutants.huge_track(data, *size))
            out.append((name, "huge track", path))
    return out


def judge(made, folder, workers=2):
    """(file, damage, path, what) of each, where what is refused, same, pixels (others), or misplaced (frames or times)."""
    whole = {name: mutants.outcome(folder / name) for name in FILES}
    assert all(len(w["times"]) == 40 for w in whole.values())
    size = 16
    batches = [mutants.Batch(f"{i}", tuple(p for _, _, p in made[i : i + size])) for i in range(0, len(made), size)]
    results = {}
    for ended in isolation.run(mutants.work, batches, workers, LIMITS):
        assert ended.reason is None, f"{ended.reason}: {ended.detail} in {[p.name for p in ended.task.paths]}"
        results |= dict(zip(ended.task.paths, ended.result))
    out = []
    for name, damage, path in made:
        found = results[path]
        assert "exception" not in found, f"{path.name}: {found['exception']}"
        if "reason" in found:
            what = f"refused {found['reason']}"
        elif found["times"] != whole[name]["times"]:
            what = "misplaced"
        else:
            what = "same" if found["pixels"] == whole[name]["pixels"] else "pixels"
        out.append((name, damage, path, what))
    return out


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutants")
    made = make(folder, EACH, seed=1)
    made += special(folder)
    assert len(made) >= 300
    return judge(made, folder)


def test_a_damaged_file_is_refused_or_whole(judged):
    bad = [f"{path.name}" for _, _, path, what in judged if what == "misplaced"]
    assert len(bad) <= MISPLACED * len(judged), bad
    cuts = [
        path.name
        for _, damage, path, what in judged
        if damage in ("cut", "cut_tail", "insert", "remove") and what == "misplaced"
    ]
    assert not cuts, "never a part of what was there"


def test_damage_that_passes_unnoticed_is_rare(judged):
    silent = Counter(name for name, _, _, what in judged if what == "pixels")
    assert silent.total() <= SILENT * len(judged), silent


def test_most_of_what_is_cut_or_overwritten_is_refused(judged):
    for damage, least in {"cut": 0.9, "zeros": 0.5, "bits": 0.5}.items():
        mine = [what for _, d, _, what in judged if d == damage]
        assert sum(what.startswith("refused") for what in mine) >= least * len(mine), (damage, Counter(mine))


def test_a_wrong_ending_changes_nothing(judged):
    assert {what for _, damage, _, what in judged if damage == "ending"} == {"same"}


def test_an_mp4_without_its_tables_is_refused(judged):
    mine = {damage: what for name, damage, _, what in judged if damage.startswith("no ")}
    assert all(what.startswith("refused") for what in mine.values()), mine


def test_a_huge_declared_size_is_refused_before_memory_is_asked_for(tmp_path):
    path = render(
        tmp_path / "a.mp4",
        numbered(8, 64, 96),
        options={"profile": "baseline", "bf": "0", "x264-params": "no-scenecut=1"},
    )
    data = path.read_bytes()
    assert "times" in mutants.outcome(path)
    path.write_bytes(mutants.huge_sps(data, 6, 4))
    assert "times" in mutants.outcome(path), "the same size, written anew"
    path.write_bytes(mutants.huge_sps(data, 1000, 1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert mutants.outcome(path) == {"reason": "too_large"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000, (
        "kilobytes; one such picture takes 384,000"
    )


if __name__ == "__main__":  # the rates, over as many as wanted: test_mutations.py FOLDER EACH
    import sys

    folder = Path(sys.argv[1])
    found = judge(make(folder, int(sys.argv[2]), seed=2), folder, workers=1)
    for key in (0, 1):
        for group in dict.fromkeys(row[key] for row in found):
            mine = Counter(row[3].split()[0] for row in found if row[key] == group)
            print(group, {what: f"{100 * n / mine.total():.1f}%" for what, n in mine.items()}, mine.total())
    print("all", Counter(row[3].split()[0] for row in found), len(found))
    print([row[2].name for row in found if row[3] == "misplaced"])
