"""The reader's network, its training material and its training; how well the shipped weights read."""

import numpy as np
import pytest
import torch
from reader_films import films
from torch.nn import functional as F

from data_pipeline.doubles.motions import FACE_ACTIONS, Motion
from evaluation.instruments import degrade, fit
from evaluation.instruments.frames import FrameSet, load
from evaluation.instruments.network import FACE_PX, ReaderNetwork, cut_faces, folded, places
from evaluation.instruments.reader import Reader, resized, to_input
from evaluation.instruments.truth import ACTIONS, facial_actions, mean_colours
from evaluation.metrics.doubles import iou
from evaluation.metrics.joints import joint_error
from imanim.data.sample import JOINTS, PARTS, Sample, encode
from imanim.data.shards import write_manifest, write_shard
from imanim.errors import InputError


def picture_set(clips: int = 2, frames: int = 3) -> FrameSet:
    rng = np.random.default_rng(0)
    shape = (clips, frames)
    return FrameSet(
        rng.integers(0, 255, (*shape, 32, 32, 3), np.uint8),
        rng.integers(0, len(PARTS), (*shape, 32, 32), np.uint8),
        rng.uniform(0, 1, (*shape, len(JOINTS), 3)).astype(np.float32),
        rng.uniform(0, 1, (*shape, len(ACTIONS))).astype(np.float32),
    )


def test_a_place_between_cells_is_read_where_it_is():
    wanted = torch.tensor([0.40, 0.63])
    x, y = torch.arange(40) + 0.5 - wanted[0] * 40, torch.arange(64) + 0.5 - wanted[1] * 64
    heat = -(y[:, None] ** 2 + x[None] ** 2) / 2
    torch.testing.assert_close(places(heat[None, None])[0, 0], wanted, atol=2e-3, rtol=0)


def test_a_face_is_cut_where_its_joints_are_and_evened_out():
    frame = torch.zeros(1, 3, 128, 80)
    joints = torch.zeros(1, len(JOINTS), 2)
    joints[0, :, 0], joints[0, :, 1] = 30 / 80, 60 / 128
    joints[0, JOINTS.index("neck"), 1] = (60 + 24 / 0.45) / 128  # the square is 48 px wide, a pixel a pixel
    frame[0, :, 66, 30] = 1.0  # its middle is 0.25 * 24 px below the joints
    faces = cut_faces(frame, joints)
    assert faces.shape == (1, 3, FACE_PX, FACE_PX)
    assert divmod(int(faces[0, 0].argmax()), FACE_PX) in [(24, 24), (24, 23)]
    torch.testing.assert_close(faces.mean((2, 3)), torch.zeros(1, 3), atol=1e-4, rtol=0)
    textured = torch.rand(1, 3, 128, 80) * 2 - 1
    one, paler = cut_faces(textured, joints), cut_faces(textured * 0.5 + 0.3, joints)
    assert (one - paler).abs().max() < 0.2 * one.abs().max()


def test_folding_the_normalisations_changes_nothing():
    torch.manual_seed(0)
    network = ReaderNetwork()
    x = torch.rand(2, 3, 128, 80) * 2 - 1
    network.train()(x)  # moves the running statistics away from 0 and 1
    before = network.eval()(x)
    after = folded(network)(x)
    assert before.parts.shape == (2, len(PARTS), 128, 80) and before.heat.shape == (2, 20, 64, 40)
    for one, other in zip(before, after):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("way", degrade.WAYS)
def test_ways_grow_with_their_strength(way):
    first, second = films()[0].truth.frames[:2].copy(), films()[0].truth.frames[-1].copy()
    made = [degrade.WAYS[way](first[0], second, s, np.random.default_rng(3)) for s in (0.1, 0.5, 1.0)]
    off = [np.abs(m.astype(float) - first[0]).mean() for m in made]
    assert all(m.dtype == np.uint8 and m.shape == first[0].shape for m in made)
    assert 0 < off[0] < off[1] < off[2]


def test_a_mirrored_picture_has_left_and_right_exchanged():
    joints = np.random.default_rng(0).uniform(0, 1, (len(JOINTS), 3))
    mirrored = fit.mirrored(joints)
    right, left = JOINTS.index("r_wrist"), JOINTS.index("l_wrist")
    np.testing.assert_allclose(mirrored[left], [1 - joints[right, 0], *joints[right, 1:]])
    np.testing.assert_allclose(mirrored[JOINTS.index("nose"), 0], 1 - joints[JOINTS.index("nose"), 0])
    np.testing.assert_allclose(fit.mirrored(mirrored), joints)


def test_losses_count_joints_inside_alone():
    batch = fit.make_batch(picture_set(), fit.Schedule(batch_frames=4), 0)
    batch.joints[:, 0, 0] = 1.4
    network = ReaderNetwork().eval()
    values = fit.losses(network, batch)
    assert values["parts"].item() == pytest.approx(3 * F.cross_entropy(network(batch.x).parts, batch.parts).item())
    batch.joints[:, 0, 0] = 3.0  # still outside: no difference
    assert {k: v.item() for k, v in fit.losses(network, batch).items()} == {k: v.item() for k, v in values.items()}
    batch.joints[:, 1, 0] = 0.0
    assert fit.losses(network, batch)["place"].item() != values["place"].item()


def test_a_stopped_training_goes_on_as_if_it_had_not(tmp_path):
    data = picture_set()
    long, short = (fit.Schedule(steps=n, decay_steps=1, batch_frames=2, checkpoint_steps=n // 2) for n in (4, 2))
    straight = fit.train_both(data, data, long, short, tmp_path / "whole", log=lambda line: None)
    told: list[str] = []

    def die(line: str) -> None:
        told.append(line)
        if line.startswith("frame, step 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.train_both(
            data, data, long, short, tmp_path / "cut", log=die
        )  # after the frame network's checkpoint at step 2
    resumed = fit.train_both(data, data, long, short, tmp_path / "cut", log=told.append)
    assert [line.split(":")[0] for line in told] == [
        f"{n}, step {s}" for n, s in zip("face face frame frame".split(), (1, 2, 2, 4))
    ]
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-6, rtol=1e-6)


def test_what_is_no_reader_is_refused(tmp_path):
    with pytest.raises(InputError, match="not there"):
        Reader(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not of this network"):
        Reader(tmp_path / "bad.safetensors")


def test_frames_of_another_size_are_averaged_and_of_another_shape_refused():
    double = np.repeat(np.repeat(films()[0].truth.frames[:1], 2, 1), 2, 2)
    torch.testing.assert_close(resized(to_input(double)), to_input(films()[0].truth.frames[:1]))
    with pytest.raises(InputError, match="128x80"):
        resized(torch.zeros(1, 3, 64, 64))


def portrait(kind: str = "talk", frames: int = 5, framing: str = "portrait") -> Sample:
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 255, (frames, 128, 80, 3), np.uint8)
    return Sample(
        key="s0",
        driving=clip,
        fps=12.0,
        identity=clip[0],
        joints=rng.uniform(0, 1, (frames, 20, 3)).astype(np.float32),
        faces=np.full((frames, 4), np.nan, np.float32),
        target=clip[::-1].copy(),
        driving_joints=rng.uniform(0, 1, (frames, 20, 3)).astype(np.float32),
        parts=rng.integers(0, 13, (frames, 128, 80), np.uint8),
        driving_parts=rng.integers(0, 13, (frames, 128, 80), np.uint8),
        meta={
            "source": "doubles",
            "framing": framing,
            "motion": {"kind": kind, "seed": 5, "id": f"doubles-{kind}-5"},
            "person": "p1",
            "driver_person": "p2",
        },
    )


def test_facial_actions_are_those_of_the_motion_and_of_portraits_alone():
    told = facial_actions(portrait())
    played = Motion("talk", 5, 12.0, 5, portrait=True).faces()
    np.testing.assert_allclose(told[:, list(ACTIONS).index("jaw_open")], played[:, FACE_ACTIONS.index("jawOpen")])
    both = [FACE_ACTIONS.index("mouthSmileLeft"), FACE_ACTIONS.index("mouthSmileRight")]
    np.testing.assert_allclose(told[:, list(ACTIONS).index("smile")], played[:, both].mean(1), rtol=1e-6)
    assert facial_actions(portrait(framing="full_body")) is None


def test_takes_of_a_motion_are_read_once(tmp_path):
    one, again = portrait(), portrait()
    again.key = "s1"
    write_shard(tmp_path, "train", 0, [(s.key, encode(s)) for s in (one, again)])
    write_manifest(tmp_path, {})
    data = load(str(tmp_path), "train", 2, 3, progress=False)
    assert data.frames.shape == (2, 3, 128, 80, 3) and data.actions.shape == (2, 3, len(ACTIONS))
    np.testing.assert_array_equal(data.parts[0], one.parts[[0, 2, 4]])
    np.testing.assert_array_equal(data.joints[1], one.driving_joints[[0, 2, 4]])
    with pytest.raises(InputError, match="no full_body"):
        load(str(tmp_path), "train", 2, 3, framing="full_body", progress=False)


def test_colours_are_means_over_the_part():
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    frames[0, 0] = [[10, 20, 30], [30, 40, 50]]
    parts = np.array([[[PARTS.index("pants"), PARTS.index("skirt")], [0, 0]]], np.uint8)
    colour, pixels = mean_colours(frames, parts)["trousers"]
    np.testing.assert_array_equal(colour, [20, 30, 40])
    assert pixels == 2 and np.isnan(mean_colours(frames, parts)["hair"][0]).all()


def test_the_shipped_reader_reads_people_it_never_saw():
    reader, errors, overlaps = Reader(), [], []
    for film in films():
        read = reader(film.truth.frames)
        errors.append(joint_error(read.joints, film.truth.joints, 128, 80))
        overlaps.append(iou(read.person, film.truth.parts > 0))
        again = reader(film.truth.frames[3:4])
        np.testing.assert_allclose(again.joints[0], read.joints[3], atol=1e-4)  # each frame alone
    assert np.mean(errors) < 2.2 and np.mean(overlaps) > 0.85
