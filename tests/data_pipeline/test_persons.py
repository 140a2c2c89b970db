"""Persons and splits: whatever the tracks are, nobody stands in two splits."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from data_pipeline.jobs import persons
from imanim.errors import InputError

FRACTIONS = {"val": 0.1, "test": 0.1}
# Few distinct coordinates, so that equal vectors and distances right at the threshold come up.
COORDINATES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.6, 1.0, float("nan")])


@st.composite
def tracks(draw, most=14):
    """Vectors [M,3], videos and ids of M tracks."""
    count = draw(st.integers(1, most))
    rows = draw(st.lists(st.tuples(*[COORDINATES] * 3), min_size=count, max_size=count))
    videos = draw(st.lists(st.sampled_from([f"{c}.mp4" for c in "abcdefgh"]), min_size=count, max_size=count))
    salt = draw(st.integers(0, 99))
    return np.array(rows, np.float32), videos, [f"{salt}-{v}-{n}" for n, v in enumerate(videos)]


def naive_partition(count, related):
    label = list(range(count))
    for _ in range(count):
        for i in range(count):
            for j in range(count):
                if related(i, j):
                    label[i] = label[j] = min(label[i], label[j])
    order = list(dict.fromkeys(label))
    return [order.index(x) for x in label]


@given(tracks(), st.sampled_from([0.2, 0.3, 0.5, 0.51]), st.integers(1, 5))
@settings(deadline=None)
def test_persons_are_the_chains_of_near_tracks_however_they_are_cut_into_blocks(made, threshold, tile):
    vectors, _, _ = made
    distance = np.sqrt(((vectors[:, None].astype(float) - vectors[None]) ** 2).sum(-1))
    expected = naive_partition(len(vectors), lambda i, j: i != j and distance[i, j] < threshold)
    old, persons.TILE = persons.TILE, tile
    try:
        assert persons.link(vectors, threshold).tolist() == expected
    finally:
        persons.TILE = old


def test_persons_agree_with_scipys_single_linkage():
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(40, 128)) / 16
    vectors = (middle[rng.integers(0, 40, 600)] + rng.normal(size=(600, 128)) / 40).astype(np.float32)
    person = persons.link(vectors, 0.4)
    reference = fcluster(linkage(vectors.astype(float), "single"), 0.4, "distance")
    pairs = set(zip(person.tolist(), reference.tolist()))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and 1 < len(pairs) < 600


def test_tracks_without_a_vector_are_persons_of_their_own_and_none_at_all_is_no_problem():
    vectors = np.full((3, 4), np.nan, np.float32)
    assert persons.link(vectors, 1.0).tolist() == [0, 1, 2]
    assert persons.link(np.empty((0, 4), np.float32), 1.0).tolist() == []


def test_memory_does_not_grow_with_the_number_of_near_pairs():
    vectors = np.zeros((6000, 8), np.float32)  # 18 million pairs, every one of them near
    tracemalloc.start()
    assert persons.link(vectors, 0.5).max() == 0
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 60 * persons.TILE**2  # a block's, not 6000 x 6000 x 16


@given(tracks(), st.data())
def test_groups_join_what_shares_a_person_or_a_video(made, data):
    _, videos, _ = made
    person = data.draw(st.lists(st.integers(0, 9), min_size=len(videos), max_size=len(videos)))
    related = naive_partition(len(videos), lambda i, j: person[i] == person[j] or videos[i] == videos[j])
    assert persons.groups(person, videos).tolist() == related


@given(tracks(), st.data())
@settings(deadline=None)
def test_no_person_and_no_video_stands_in_two_splits_and_the_report_says_so(made, data):
    vectors, videos, ids = made
    person = persons.link(vectors, 0.5)
    group = persons.groups(person, videos)
    pinned = {}
    for number in range(group.max() + 1):
        split = data.draw(st.sampled_from([None, *persons.SPLITS]))
        pinned |= {ids[int(np.flatnonzero(group == number)[-1])]: split} if split else {}
    splits = persons.assign(group, ids, videos, FRACTIONS, pinned)
    for track, split in pinned.items():
        assert splits[ids.index(track)] == split
    assert len(set(zip(group.tolist(), splits))) == group.max() + 1
    found = persons.leakage(vectors, person, splits, videos, 0.5)
    assert found["ok"] and found["persons_in_two"] == found["videos_in_two"] == []
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@given(tracks(), st.permutations(range(14)))
@settings(deadline=None)
def test_the_order_of_tracks_does_not_matter(made, order):
    vectors, videos, ids = made
    order = [i for i in order if i < len(ids)]
    group = persons.groups(persons.link(vectors, 0.5), videos)
    splits = persons.assign(group, ids, videos, FRACTIONS)
    shuffled = [videos[i] for i in order]
    again = persons.groups(persons.link(vectors[order], 0.5), shuffled)
    assert persons.assign(again, [ids[i] for i in order], shuffled, FRACTIONS) == [splits[i] for i in order]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(0, 99))
def test_every_wanted_split_gets_a_group_when_there_are_enough_and_training_always_does(sizes, salt):
    group = np.repeat(np.arange(len(sizes)), sizes)
    ids = [f"{salt}-{n}" for n in range(len(group))]
    splits = persons.assign(group, ids, ids, FRACTIONS)
    assert "train" in splits
    assert len({*splits}) >= min(len(sizes), 3) or len(sizes) == 2
    assert "val" in persons.assign(group, ids, ids, {"val": 0.1, "test": 0.0}) or len(sizes) == 1
    assert {*persons.assign(group, ids, ids, {})} == {"train"}
    biggest = int(np.argmax(sizes))
    if 2 * sizes[biggest] > len(group):
        assert splits[int(np.flatnonzero(group == biggest)[0])] == "train"


def test_many_groups_are_split_as_the_fractions_say_and_stay_when_others_come():
    ids = [f"track-{n}" for n in range(4000)]
    splits = persons.assign(np.arange(4000), ids, ids, {"val": 0.1, "test": 0.05})
    assert splits.count("val") / 4000 == pytest.approx(0.1, abs=0.015)
    assert splits.count("test") / 4000 == pytest.approx(0.05, abs=0.012)
    assert persons.assign(np.arange(500), ids[:500], ids[:500], {"val": 0.1, "test": 0.05}) == splits[:500]


def test_contradictory_pins_name_both_videos_and_splits():
    with pytest.raises(InputError) as caught:
        persons.assign(
            [0, 1, 0], "abc", ["a.mp4", "b.mp4", "c.mp4"], FRACTIONS, {"a": "val", "b": "test", "c": "train"}
        )
    for part in ("a.mp4", "c.mp4", "to val", "to train"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "a"], {"val": 0.1}, {}), "two tracks have one id"),
        ((["a", "b"], {"valid": 0.1}, {}), "`valid` is no split"),
        ((["a", "b"], {"train": 0.9}, {}), "`train` is no fraction"),
        ((["a", "b"], {"val": 0.1}, {"a": "dev"}), "`dev` is no split"),
        ((["a", "b"], {"val": 0.8, "test": 0.3}, {}), "sum of at most 1"),
        ((["a", "b"], {"val": float("nan")}, {}), "sum of at most 1"),
        ((["a", "b"], {"val": 0.1}, {"z": "val"}), "`z` is pinned to val, and there is no such track"),
    ],
)
def test_what_cannot_be_split_is_refused(arguments, message):
    ids, fractions, pinned = arguments
    with pytest.raises(InputError, match=message):
        persons.assign([0, 1], ids, ids, fractions, pinned)


def test_leaks_are_found_and_the_nearest_pairs_named():
    vectors = np.array([[0, 0], [3, 0], [0.4, 0], [3, 4], [np.nan, 0]], np.float32)
    splits, videos = ["train", "train", "val", "test", "val"], ["a", "b", "c", "d", "b"]
    found = persons.leakage(vectors, [7, 1, 2, 7, 3], splits, videos, 0.5, keep=2)
    assert not found["ok"] and found["persons_in_two"] == [7] and found["videos_in_two"] == ["b"]
    assert found["distances"] == {
        "train/val": pytest.approx(0.4),
        "train/test": pytest.approx(4.0),
        "val/test": pytest.approx(np.hypot(2.6, 4)),
    }
    assert [n["distance"] for n in found["nearest"]] == pytest.approx([0.4, 2.6])
    assert found["nearest"][0]["a"] == {"video": "a", "person": 7, "split": "train"}
    assert found["nearest"][0]["b"] == {"video": "c", "person": 2, "split": "val"}
    assert found["without_vector"] == 1
    near = persons.leakage(vectors[:3], [0, 1, 2], splits[:3], videos[:3], 0.5)
    assert not near["ok"] and not near["persons_in_two"]  # too near, though called two persons
    assert persons.leakage(vectors[:3], [0, 1, 2], splits[:3], videos[:3], 0.3)["ok"]


@given(tracks(most=12), st.integers(1, 4), st.integers(1, 6))
@settings(deadline=None)
def test_the_nearest_pairs_are_those_of_the_full_table_however_it_is_cut(made, tile, keep):
    vectors, videos, _ = made
    splits = [persons.SPLITS[n % 3] for n in range(len(videos))]
    table = []
    for i in range(len(videos)):
        for j in range(i):
            apart = float(np.sqrt(((vectors[i].astype(float) - vectors[j]) ** 2).sum()))
            table += [apart] if splits[i] != splits[j] and apart == apart else []
    old, persons.TILE = persons.TILE, tile
    try:
        found = persons.leakage(vectors, range(len(videos)), splits, videos, 0.5, keep)
    finally:
        persons.TILE = old
    assert [n["distance"] for n in found["nearest"]] == pytest.approx(sorted(table)[:keep])
