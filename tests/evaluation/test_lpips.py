"""LPIPS beside the package `lpips` and beside published numbers, and as a metric of clips."""

import numpy as np
import pytest
import torch
from picture_references import lpips_of
from pictures import clip_of, noisy, picture, spoilt_more_and_more
from weights_here import need

from evaluation.features import lpips
from evaluation.metrics.base import ClipMetric, Machine, NoSettings
from evaluation.metrics.lpips import METRICS
from imanim.errors import InputError

NETS = ("alex", "vgg")


def network(net):
    need(f"lpips-{net}")
    return lpips.load(net)


def metric(net, batch_size=16):
    need(f"lpips-{net}")
    return METRICS[f"lpips-{net}"].build(NoSettings(), Machine(batch_size=batch_size))


def frames(count=3, height=64, width=56):
    return np.stack([picture(height, width, seed) for seed in range(count)])


@pytest.mark.parametrize(("net", "distance", "spatial"), [("alex", 0.813954, 0.814043), ("vgg", 0.453837, 0.453837)])
def test_black_and_white_are_as_far_apart_as_published(net, distance, spatial):
    model, white = network(net), torch.ones(1, 3, 64, 64)
    assert model(-white, white).item() == pytest.approx(distance, abs=1e-6)
    assert model.spatial(-white, white).mean().item() == pytest.approx(spatial, abs=1e-6)


def test_distances_and_maps_are_those_of_the_package(tmp_path):
    models = {net: network(net) for net in NETS}
    one, other = (torch.rand((2, 3, 70, 93), generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (0, 1))
    other[1] = one[1].roll(3, -1)
    theirs = lpips_of(tmp_path, one.numpy(), other.numpy())
    for net, model in models.items():
        distance, where = model.both(one, other)
        assert theirs[net].min() > 0.05 and np.abs(distance.numpy() - theirs[net]).max() < 1e-5
        assert where.shape == (2, 70, 93) and np.abs(where.numpy() - theirs[f"{net}_map"]).max() < 1e-5
        assert torch.equal(model(one, other), distance)


@pytest.mark.parametrize("net", NETS)
def test_the_batch_size_does_not_matter(net, monkeypatch):
    model, truth = network(net), frames(5, 48, 40)
    made = noisy(truth, 20)
    mask = np.zeros(truth.shape[:3], bool)
    mask[:, 10:30, 5:20] = True
    one_by_one = lpips.measured(model, made, truth, mask, 1)
    for batch_size in (2, 16):
        for a, b in zip(lpips.measured(model, made, truth, mask, batch_size), one_by_one):
            assert np.abs(a - b).max() < 1e-6
    whole = lpips.measured(model, made, truth, None, 16)
    assert np.abs(whole[0] - one_by_one[0]).max() < 1e-6 and np.isnan(whole[1]).all()


def test_large_pictures_go_through_a_few_at_a_time(monkeypatch):
    model, truth = network("alex"), frames(4, 40, 40)
    made, passes, run = noisy(truth, 20), [], model.forward
    at_once = lpips.measured(model, made, truth, None, 16)[0]
    monkeypatch.setattr(lpips, "PASS_PX", 2 * 40 * 40 + 1)
    monkeypatch.setattr(model, "forward", lambda a, b: passes.append(len(a)) or run(a, b))
    assert np.abs(lpips.measured(model, made, truth, None, 16)[0] - at_once).max() < 1e-6
    assert passes == [2, 2]


@pytest.mark.parametrize("net", NETS)
def test_a_copy_is_at_distance_zero_and_order_does_not_matter(net):
    model, truth = network(net), frames(2)
    assert np.array_equal(lpips.measured(model, truth, truth, None, 2)[0], [0, 0])
    made = truth[::-1].copy()
    one_way, other_way = (lpips.measured(model, *pair, None, 2)[0] for pair in ((made, truth), (truth, made)))
    assert one_way == pytest.approx(other_way, abs=1e-6) and (one_way > 0.1).all()


@pytest.mark.parametrize("net", NETS)
def test_more_blur_and_more_noise_are_farther(net):
    truth = frames(1, 96, 80)
    for row in spoilt_more_and_more(truth):
        values = [metric(net).measure(clip_of(made, truth))[f"lpips_{net}"] for made in row]
        assert values == sorted(values) and 0 < values[0] < values[-1] / 3


def test_the_clip_is_the_mean_over_its_frames():
    truth = frames(3)
    made = noisy(truth, 20)
    values = [metric("alex").measure(clip_of(made[t : t + 1], truth[t : t + 1]))["lpips_alex"] for t in range(3)]
    assert metric("alex").measure(clip_of(made, truth))["lpips_alex"] == pytest.approx(np.mean(values), abs=1e-6)


def test_inside_the_person_only_what_is_near_the_person_counts():
    truth = frames(2, 128, 128)
    mask = np.zeros(truth.shape[:3], bool)
    mask[:, :40, :40] = True
    made = truth.copy()
    made[:, 90:, 90:] = 255 - made[:, 90:, 90:]
    far = metric("alex").measure(clip_of(made, truth, mask))
    made = truth.copy()
    made[:, :40, :40] = 255 - made[:, :40, :40]
    near = metric("alex").measure(clip_of(made, truth, mask))
    assert far["lpips_alex"] > 0.01 and far["lpips_alex_person"] < 0.05 * near["lpips_alex_person"]
    assert near["lpips_alex_person"] > 2 * near["lpips_alex"]


def test_a_mask_over_the_whole_frame_is_the_mean_of_the_spatial_map():
    model, truth = network("alex"), frames(1)
    made = noisy(truth, 40)
    found = metric("alex").measure(clip_of(made, truth, np.ones(truth.shape[:3], bool)))
    pair = [lpips.to_input(torch.from_numpy(f).permute(0, 3, 1, 2)) for f in (made, truth)]
    assert found["lpips_alex_person"] == pytest.approx(model.spatial(*pair).mean().item(), abs=1e-6)
    assert found["lpips_alex_person"] == pytest.approx(found["lpips_alex"], rel=0.02)


def test_frames_without_a_person_do_not_count_and_without_any_or_without_a_truth_it_is_nan():
    truth = frames(2)
    made, mask = noisy(truth, 40), np.zeros(truth.shape[:3], bool)
    found = metric("alex").measure(clip_of(made, truth, mask))
    assert found["lpips_alex"] > 0 and np.isnan(found["lpips_alex_person"])
    mask[1, 5:30, 5:30] = True
    both = metric("alex").measure(clip_of(made, truth, mask))["lpips_alex_person"]
    second = metric("alex").measure(clip_of(made[1:], truth[1:], mask[1:]))["lpips_alex_person"]
    assert both == pytest.approx(second, abs=1e-6)
    assert np.isnan(list(metric("alex").measure(clip_of(made, None)).values())).all()


@pytest.mark.parametrize("net", NETS)
def test_the_smallest_picture_is_taken_and_a_smaller_one_refused_by_name(net):
    model, least = network(net), lpips.BACKBONES[net].min_px
    one = torch.zeros(1, 3, least, least)
    assert torch.isfinite(model(one, one + 1)).all()
    with pytest.raises(RuntimeError):
        torch.nn.Sequential(*model.stages)(one[..., 1:])
    with pytest.raises(InputError, match=rf"lpips-{net}: pictures of {least}x{least - 1} pixels; give .* {least}"):
        model(one[..., 1:], one[..., 1:])
    small = np.zeros((2, least - 1, least, 3), np.uint8)
    with pytest.raises(InputError, match=f"lpips-{net}: pictures of {least - 1}x{least}"):
        metric(net).measure(clip_of(small, small))


def test_what_is_not_a_picture_in_the_right_range_is_refused():
    model, fine = network("alex"), torch.zeros(1, 3, 40, 40)
    for bad, said in [
        (fine + 2, "values from 2 to 2"),
        (fine * float("nan"), "values from nan"),
        (fine + float("inf"), "values from inf"),
        (fine[:, :1], "shape"),
        (torch.zeros(1, 4, 40, 40), "shape"),
        (fine[..., :39], "shape"),
        (fine[0], "shape"),
    ]:
        with pytest.raises(InputError, match=said):
            model(bad, fine)
        with pytest.raises(InputError, match=said):
            model(fine, bad)


def test_a_mask_of_another_size_is_refused():
    truth = frames(2)
    with pytest.raises(InputError, match="mask: bool"):
        metric("alex").measure(clip_of(truth, truth, np.ones((2, 9, 9), bool)))


def test_missing_weights_are_named_with_what_brings_them(monkeypatch, tmp_path):
    monkeypatch.setenv("IMANIM_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match="imanim weights import lpips-alex"):
        lpips.load.__wrapped__("alex")
    with pytest.raises(InputError, match="`squeeze`: unknown; known: alex, vgg"):
        lpips.load("squeeze")


@pytest.mark.parametrize("net", NETS)
def test_the_protocol_names_the_weights_and_every_value_has_a_number(net):
    made = metric(net)
    assert isinstance(made, ClipMetric) and METRICS[f"lpips-{net}"].weights(NoSettings()) == (f"lpips-{net}",)
    assert len(made.protocol()["weights_sha256"]) == 64
    truth = frames(1)
    assert list(made.measure(clip_of(truth, truth))) == [v.name for v in made.values]
    assert all(v.better == "lower" for v in made.values)
