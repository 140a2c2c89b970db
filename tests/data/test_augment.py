"""Augmentation moves pictures, joints and boxes together."""

import torch

from imanim.data.augment import MIRRORED, augment_driving, mirror
from imanim.data.dice import Dice
from imanim.data.sample import JOINTS
from imanim.data.stream import OUTSIDE


def dice(seed: int, samples: int = 1) -> Dice:
    return Dice(seed, 0, range(samples))


def spot_clip(x: float, y: float, size: int = 64) -> torch.Tensor:
    """A bright round spot at (x, y) in [0,1] on black: [1,1,3,H,W]."""
    axis = (torch.arange(size) + 0.5) / size
    spot = torch.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * 0.03**2))
    return spot.expand(1, 1, 3, size, size).clone()


def centre(frames: torch.Tensor) -> tuple[float, float]:
    w = (frames[0, 0].mean(0) - frames[0, 0].mean(0).median()).clamp(min=0)
    axis = (torch.arange(w.shape[0]) + 0.5) / w.shape[0]
    return float((w.sum(0) * axis).sum() / w.sum()), float((w.sum(1) * axis).sum() / w.sum())


def test_a_joint_stays_on_its_spot_under_every_view() -> None:
    joints = torch.tensor([0.4, 0.6, 1.0]).expand(1, 1, 20, 3).clone()
    faces = torch.tensor([[[0.3, 0.5, 0.5, 0.7]]])
    for seed in range(20):
        g = dice(seed)
        moved, at, box = augment_driving(spot_clip(0.4, 0.6), joints, faces, g, colour=0.0)
        x, y = centre(moved)
        assert abs(x - at[0, 0, 0, 0]) < 0.01 and abs(y - at[0, 0, 0, 1]) < 0.01
        assert torch.allclose((box[0, 0, :2] + box[0, 0, 2:]) / 2, at[0, 0, 0, :2], atol=1e-5)


def test_unknown_joints_and_missing_faces_stay_so() -> None:
    joints = torch.full((1, 1, 20, 3), OUTSIDE)
    joints[..., 2] = 0
    _, at, box = augment_driving(spot_clip(0.5, 0.5), joints, torch.full((1, 1, 4), torch.nan), dice(0))
    assert torch.equal(at, joints) and box.isnan().all()


def test_the_same_dice_give_the_same_view_and_colours_stay_in_range() -> None:
    args = (spot_clip(0.5, 0.5), torch.rand(1, 1, 20, 3), torch.rand(1, 1, 4))
    a = augment_driving(*args, dice(5))
    b = augment_driving(*args, dice(5))
    assert all(torch.equal(p, q) for p, q in zip(a, b)) and a[0].min() >= 0 and a[0].max() <= 1
    assert not torch.equal(a[0], augment_driving(*args, dice(6))[0])


def test_mirroring_twice_changes_nothing_and_swaps_left_and_right() -> None:
    batch = {
        "driving": spot_clip(0.3, 0.5),
        "target": spot_clip(0.2, 0.5),
        "identity": spot_clip(0.1, 0.5)[:, 0],
        "joints": torch.rand(1, 1, 20, 3),
        "driving_joints": torch.rand(1, 1, 20, 3),
        "identity_joints": torch.rand(1, 20, 3),
        "faces": torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]),
        "keys": ["a"],
    }
    batch["joints"][0, 0, 2] = torch.tensor([OUTSIDE, OUTSIDE, 0.0])
    seed = next(s for s in range(99) if float(dice(s).rand()) < 0.5)
    once = mirror(batch, dice(seed))
    left, right = JOINTS.index("l_wrist"), JOINTS.index("r_wrist")
    assert torch.allclose(once["joints"][0, 0, left, 0], 1 - batch["joints"][0, 0, right, 0])
    assert (
        torch.allclose(once["faces"][0, 0], torch.tensor([0.7, 0.2, 0.9, 0.4]))
        and abs(centre(once["driving"])[0] - 0.7) < 0.01
    )
    assert tuple(once["joints"][0, 0, JOINTS.index("l_shoulder")].tolist()) == (OUTSIDE, OUTSIDE, 0.0)
    twice = mirror(once, dice(seed))
    for name in batch:
        if name != "keys":
            assert torch.allclose(twice[name], batch[name], atol=1e-6), name
    assert [MIRRORED[i] for i in MIRRORED] == list(range(20))
