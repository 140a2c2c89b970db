"""Following people: who is who from frame to frame, and how many others there are."""

import numpy as np
import pytest
from moving_disc import DiscNetwork, disc_frames

from data_pipeline.config import PeopleConfig, PoseConfig
from data_pipeline.video.people import PeopleFinder, Remembered
from data_pipeline.video.tracks import clean, lanes


def pair(count):
    """Two discs that move alike, side by side."""
    return np.concatenate([disc_frames(count), disc_frames(count)], axis=2)


def followed(frames, **settings):
    finder = PeopleFinder(DiscNetwork(), PeopleConfig(**settings))
    for tick, image in enumerate(frames):
        finder.step(image, tick)
    return finder.artefact()


def test_one_person_keeps_one_number():
    found = followed(disc_frames(30))
    assert found["tick"].tolist() == list(range(30)) and set(found["person"]) == {1}
    assert (found["others"][found["others"] >= 0] == 0).all() and (found["others"] >= 0).sum() >= 5
    assert found["hands"].shape == (30, 2) and found["head"].shape == (30, 3, 2)


def test_somebody_who_comes_back_elsewhere_is_somebody_else_and_in_place_the_same():
    frames = disc_frames(40)
    frames[10:14] = disc_frames(4, discs=0)
    back = followed(frames)
    assert set(back["person"]) == {1} and not np.isin([10, 11, 12, 13], back["tick"]).any()
    frames[14:] = np.roll(frames[14:], 60, axis=2)
    assert sorted(set(followed(frames)["person"])) == [1, 2]


def test_a_cut_makes_everybody_new():
    finder = PeopleFinder(DiscNetwork(), PeopleConfig())
    for tick, image in enumerate(disc_frames(20)):
        if tick == 10:
            finder.new_shot()
        finder.step(image, tick)
    assert finder.artefact()["person"].tolist() == [1] * 10 + [2] * 10


def test_rejecting_counts_the_others_and_splitting_follows_them():
    frames = pair(30)
    one = followed(frames)
    assert len(one["tick"]) == 30 and (one["others"][one["others"] >= 0] == 1).all()
    both = followed(frames, multiple="split")
    assert len(both["tick"]) == 60 and sorted(set(both["person"])) == [1, 2]
    assert (both["others"][both["others"] >= 0] == 0).all()
    a, b = (both["joints"][both["person"] == p][:, 0, 0] for p in (1, 2))
    assert np.allclose(np.abs(a - b), 160, atol=2)


def test_at_most_as_many_are_followed_as_allowed():
    frames = pair(20)
    found = followed(frames, multiple="split", max_followed=1)
    assert len(found["tick"]) == 20 and (found["others"][found["others"] >= 0] == 1).all()


def test_what_is_remembered_is_what_was_seen():
    frames = pair(25)
    finder = PeopleFinder(DiscNetwork(), PeopleConfig(multiple="split"))
    live = [finder.step(image, tick) for tick, image in enumerate(frames)]
    again = Remembered(finder.artefact())
    for tick, image in enumerate(frames):
        for a, b in zip(live[tick], again.step(image, tick), strict=True):
            assert (a.index, a.person) == (b.index, b.person)
            assert np.array_equal(a.joints, b.joints) and np.array_equal(a.box, b.box)


@pytest.mark.parametrize("apart", [False, True])
def test_lanes_hold_each_person_s_own_joints(apart):
    frames = pair(25) if apart else disc_frames(25)
    people = followed(frames, multiple="split" if apart else "reject")
    pose = clean(people, PoseConfig(), 12.0)
    face = type(people)({}, {"box": np.full((len(people["tick"]), 4), np.nan, np.float32)})
    same = {p: p for p in set(people["person"].tolist())}
    found = lanes(25, people, pose, face, same, apart=apart, least_ticks=10)
    assert len(found) == (2 if apart else 1)
    for track in found:
        assert (track.known() == 20).all() and len(set(track.person)) == 1
        if apart:
            inside = track.intruders[:, 0]
            assert np.isfinite(inside).all() and (np.abs(inside[:, 0] - track.joints[:, :, 0].min(axis=1)) > 50).all()


def test_the_same_face_in_two_places_at_once_is_two_people():
    people = followed(pair(25), multiple="split")
    pose = clean(people, PoseConfig(), 12.0)
    face = type(people)({}, {"box": np.full((50, 4), np.nan, np.float32)})
    assert len(lanes(25, people, pose, face, {1: 9, 2: 9}, apart=True, least_ticks=10)) == 2
