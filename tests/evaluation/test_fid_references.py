"""FID and KID against the four codes whose names they have, on pictures of odd sizes, end to end."""

import fid_references
import numpy as np
import pytest
from feature_sets import single
from PIL import Image
from weights_here import need

from evaluation.features.resize import resize
from evaluation.metrics.base import Machine
from evaluation.metrics.fid import CODES, METRICS

PICTURES = 24
SIZES_PX = ((97, 61), (299, 299), (64, 128), (402, 350), (33, 45), (310, 200), (299, 180), (150, 620))


def picture(seed, contrast):
    """uint8 [H,W,3]: blurred shapes under noise."""
    rng = np.random.default_rng(seed)
    height, width = SIZES_PX[seed % len(SIZES_PX)]
    coarse = Image.fromarray(rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(coarse) * contrast + rng.normal(0, 12, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with both sets, and their pictures by name."""
    folder, pictures = tmp_path_factory.mktemp("pictures"), {}
    for name, start, contrast in (("made", 0, 0.7), ("truth", 1000, 1.0)):
        (folder / name).mkdir()
        pictures[name] = [picture(start + i, contrast) for i in range(PICTURES)]
        for i, pixels in enumerate(pictures[name]):
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")
    return folder, pictures


def agree(code, dim, sets):
    need("inception-2015")
    folder, pictures = sets
    theirs = fid_references.of(code, dim, folder)
    metric = built(f"fid-{code}", dim=dim)
    rows = {name: np.concatenate([metric.extractor(p[None]) for p in some]) for name, some in pictures.items()}
    assert [len(f) for f in rows.values()] == [len(theirs[f"features_{name}"]) for name in rows]
    for name, features in rows.items():
        assert np.abs(features - theirs[f"features_{name}"]).max() < 1e-4
    pixels = np.concatenate([resize(p[None], code).numpy() for p in pictures["made"]])
    assert np.abs(pixels - theirs["pixels"]).max() < 1e-5
    source = {name: single(features) for name, features in rows.items()}
    fid = metric.distance(source["made"], source["truth"], bootstrap=0, seed=0)[f"fid_{code}"].value
    assert fid == pytest.approx(float(theirs["fid"]), rel=1e-3)
    if np.isnan(theirs["kid"]):
        return
    size = PICTURES // 2 if code == "torchmetrics" else PICTURES
    metric = built(f"kid-{code}", dim=dim, subsets=fid_references.SUBSETS, subset_size=size)
    kid = metric.distance(source["made"], source["truth"], bootstrap=0, seed=fid_references.SEED)
    assert kid[f"kid_{code}"].value == pytest.approx(float(theirs["kid"]), rel=1e-3, abs=1e-6)
    if np.isfinite(theirs["kid_std"]):
        # Against the mean: torch-fidelity's float32 gives the same subset different values.
        assert kid[f"kid_{code}_std"].value == pytest.approx(
            float(theirs["kid_std"]), abs=1e-3 * abs(float(theirs["kid"]))
        )


def built(name, **settings):
    spec = METRICS[name]
    return spec.build(spec.settings(**settings), Machine())


@pytest.mark.parametrize("code", CODES)
def test_narrow_features_and_distances_are_those_of_the_code(code, sets):
    agree(code, 64, sets)


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_features_and_distances_are_those_of_the_code(code, sets):
    agree(code, 2048, sets)
