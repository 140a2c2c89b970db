"""Which shards hold what, and how a new layout takes the place of an old one."""

from data_pipeline.jobs.ledger import Entry, Ledger, arrange, commit, finish, stage
from imanim.data.shards import MANIFEST, index_path


def entry(key, split="train", person="a", made="m"):
    return Entry(key, split, person, f"sha-{key}", made)


def ledger_of(layout, old=None):
    kept = {name: old.shards[name] for name in layout.keep} if old else {}
    return Ledger({**kept, **{name: [[e.key, e.stamp] for e in some] for name, some in layout.new.items()}})


ENTRIES = [entry(f"k{i}", "val" if i % 5 == 0 else "train") for i in range(12)]


def test_every_sample_has_one_place_in_its_split():
    layout = arrange(ENTRIES, Ledger(), 4)
    assert {name: len(some) for name, some in layout.new.items()} == {
        "train-00000.tar": 4,
        "train-00001.tar": 4,
        "train-00002.tar": 1,
        "val-00000.tar": 3,
    }
    assert sorted(e.key for some in layout.new.values() for e in some) == sorted(e.key for e in ENTRIES)
    assert arrange(ENTRIES[::-1], Ledger(), 4) == layout


def test_the_same_set_again_changes_nothing():
    old = ledger_of(arrange(ENTRIES, Ledger(), 4))
    again = arrange(ENTRIES, old, 4)
    assert not again.new and not again.remove and again.keep == sorted(old.shards)


def test_new_samples_go_behind_those_that_are_there():
    old = ledger_of(arrange(ENTRIES, Ledger(), 4))
    layout = arrange([*ENTRIES, entry("new")], old, 4)
    assert {name: [e.key for e in some] for name, some in layout.new.items()} == {"train-00003.tar": ["new"]}
    assert layout.keep == sorted(old.shards) and not layout.remove


def test_a_sample_that_changed_or_moved_lays_all_out_anew():
    old = ledger_of(arrange(ENTRIES, Ledger(), 4))
    for changed in (entry("k3", made="n"), entry("k3", person="b"), entry("k3", "val")):
        some = [changed if e.key == "k3" else e for e in ENTRIES]
        layout = arrange(some, old, 4)
        assert layout == arrange(some, Ledger(), 4) or layout.remove
        assert not layout.keep and sorted(layout.new) == sorted(arrange(some, Ledger(), 4).new)
    fewer = arrange(ENTRIES[:5], old, 4)
    assert sorted(fewer.remove) == ["train-00001.tar", "train-00002.tar"]


def test_a_move_that_was_cut_short_is_ended_by_whoever_comes_next(tmp_path, monkeypatch):
    import os

    first = arrange(ENTRIES, Ledger(), 4)
    for name, some in first.new.items():
        stage(tmp_path, name, [(e.key, {"txt": b"one"}) for e in some])
    commit(tmp_path, first, ledger_of(first))
    (tmp_path / MANIFEST).write_text("{}")
    second = arrange(ENTRIES[:5], ledger_of(first), 4)
    for name, some in second.new.items():
        stage(tmp_path, name, [(e.key, {"txt": b"two"}) for e in some])
    real, calls = os.replace, []

    def dying(a, b):
        calls.append(a)
        if "merge" in str(a) and "commit" not in str(a) and sum("merge" in str(c) for c in calls) > 3:
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(os, "replace", dying)
    try:
        commit(tmp_path, second, ledger_of(second))
        killed = False
    except KeyboardInterrupt:
        killed = True
    monkeypatch.undo()
    assert killed and not (tmp_path / MANIFEST).exists(), "half a layout has no manifest"
    assert finish(tmp_path) and not finish(tmp_path)
    tars = sorted(p.name for p in tmp_path.glob("*.tar"))
    assert tars == sorted(second.new) and all(index_path(tmp_path / n).is_file() for n in tars)
    assert all(b"two" in (tmp_path / n).read_bytes() for n in tars)
    assert Ledger.read(tmp_path) == ledger_of(second)
