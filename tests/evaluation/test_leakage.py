"""The leakage report: what is read from clips, drivers swapped, the guard of cross protocols, and the whole on a random model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation.clip import Clip
from evaluation.leakage import run
from evaluation.leakage.features import REPRESENTATIONS, Features, extract
from evaluation.leakage.labels import Driver, table
from evaluation.leakage.planted import plant
from evaluation.leakage.probes import Score
from evaluation.leakage.run import LeakageConfig, judge, probe_leakage, sentences
from evaluation.leakage.swap import agreement, cosine, spread_motions, swap_tokens, swap_videos, trios
from evaluation.protocols.guard import require_cross
from imanim import config
from imanim.data.sample import JOINTS, Sample, encode
from imanim.data.shards import ShardSet, write_manifest, write_shard
from imanim.errors import ConfigError, InputError
from imanim.inference.pipeline import AnimationPipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inference"))

from small_model import save_model

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra `eval`)")

FRAMES, HEIGHT, WIDTH = 9, 64, 48
PEOPLE, MOTIONS = 10, 12
SHIRTS = np.random.default_rng(0).integers(40, 255, (PEOPLE, 3))


def film(person, motion, tone=90):
    """A figure in its own colour that moves as its motion says, before grey."""
    rng = np.random.default_rng(motion)
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), tone, np.uint8)
    parts = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for t, x in enumerate(np.linspace(*rng.integers(4, 30, 2), FRAMES).astype(int)):
        frames[t, 16:52, x : x + 12] = SHIRTS[person]
        parts[t, 16:52, x : x + 12] = 7
    joints = np.concatenate([rng.uniform(0.2, 0.8, (FRAMES, len(JOINTS), 2)), np.ones((FRAMES, len(JOINTS), 1))], -1)
    return frames, parts, joints.astype(np.float32)


def sample(motion, driver, target):
    frames, parts, joints = film(driver, motion)
    truth, truth_parts, truth_joints = film(target, motion, 140)
    looks = {"phenotype": dict.fromkeys("age gender height muscle proportions weight".split(), driver / PEOPLE)}
    looks |= {part: [float(c) / 255 for c in SHIRTS[driver]] for part in ("skin", "shirt", "pants", "shoes")}
    return Sample(
        key=f"m{motion}-d{driver}-t{target}",
        driving=frames,
        fps=12.0,
        identity=film(target, motion + 100, 140)[0][0],
        joints=truth_joints,
        faces=np.full((FRAMES, 4), np.nan, np.float32),
        meta={
            "person": f"p{target}",
            "driver_person": f"p{driver}",
            "motion": {"id": f"walk-{motion}"},
            "driver": {"height_m": 1.5 + driver / 50, "identity": looks},
        },
        target=truth,
        driving_joints=joints,
        identity_joints=truth_joints[0],
        parts=truth_parts,
        driving_parts=parts,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("data"), []
    for motion in range(MOTIONS):
        a, b, c = (int(p) for p in np.random.default_rng(motion).choice(PEOPLE, 3, replace=False))
        made += [sample(motion, *pair) for pair in ((a, c), (b, c), (c, a))]
    write_shard(folder, "test", 0, [(s.key, encode(s)) for s in made])
    write_manifest(folder, {})
    return ShardSet(folder, "test")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return AnimationPipeline.from_pretrained(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def result(pipeline, shards):
    cfg = LeakageConfig(readers=["linear"], permutations=100, bootstrap=100, video_motions=2, steps=1)
    return probe_leakage(pipeline, shards, settings=cfg, batch_size=5, progress=False)


def test_the_report_names_every_label_score_and_what_it_leans_on(result):
    assert (result["clips"], result["motions"]) == (3 * MOTIONS, MOTIONS)
    shirt = result["labels"]["shirt"]
    assert set(shirt["scores"]) == {"linear"} and shirt["by"] == "person"
    assert {v["representation"] for v in shirt["verdicts"]} == {"tokens", "codes", "retargeted"}
    assert set(shirt["scores"]["linear"]) == {*LeakageConfig().representations, "planted"}
    assert shirt["scores"]["linear"]["constant"]["value"] == pytest.approx(0, abs=1e-9)
    assert result["labels"]["person"]["by"] == "motion" and result["labels"]["person"]["measure"] == "accuracy"
    assert set(result["joints"]) == {"motion", "person"} and result["protocol"]["name"] == run.PROTOCOL
    json.dumps(result, allow_nan=False)


def test_clothes_are_read_from_pixels_and_not_from_joints_of_equal_motions(pipeline, shards):
    features = extract(pipeline, shards, names=["pixels", "joints"], progress=False)
    cfg = LeakageConfig(["pixels", "joints"], ["shirt"], ["linear"], permutations=100, planted=0, centred=False)
    scores = run.probe_features(features, settings=cfg, progress=False)["labels"]["shirt"]["scores"]["linear"]
    assert scores["pixels"]["found"] and not scores["joints"]["found"]


def test_sentences_say_every_verdict_and_what_is_missing(result):
    said = sentences(result)
    assert sum(s.startswith("Motion tokens ") for s in said) == len(result["labels"])
    assert any(s.startswith("Swap, equal codes") for s in said) and any("grey levels" in s for s in said)
    assert any("people are few" in s for s in said)


def test_videos_under_two_drivers_stand_beside_two_seeds(result):
    videos = result["videos"]
    assert videos["motions"] == 2 and videos["seed_change"]["value"] > 0
    assert videos["colour_pull"]["low"] <= videos["colour_pull"]["value"] <= videos["colour_pull"]["high"]


def test_the_size_of_a_batch_changes_nothing(pipeline, shards):
    one, other = (extract(pipeline, shards, 9, batch_size=b, progress=False) for b in (1, 4))
    assert [d.key for d in one.drivers] == [d.key for d in other.drivers]
    assert set(one.vectors) == set(REPRESENTATIONS) and (one.codes == other.codes).all()
    for name, rows in one.vectors.items():
        np.testing.assert_allclose(rows, other.vectors[name], atol=1e-5, err_msg=name)


def test_a_limit_keeps_motions_whole(pipeline, shards):
    found = extract(pipeline, shards, 9, names=["constant"], progress=False)
    motions = [d.motion for d in found.drivers]
    assert len(motions) == 9 and all(motions.count(m) == 3 for m in motions)


def test_exact_joints_that_nobody_knows_do_not_spoil_features(pipeline, tmp_path):
    clip = sample(0, 1, 2)
    clip.driving_joints[:, 4, :] = (np.nan, np.nan, 0)
    write_shard(tmp_path, "test", 0, [(clip.key, encode(clip))])
    write_manifest(tmp_path, {})
    found = extract(pipeline, ShardSet(tmp_path, "test"), progress=False)
    assert all(np.isfinite(rows).all() for rows in found.vectors.values())
    assert np.isnan(found.frame_joints[0, :, 4]).all()


def test_clips_without_labels_give_reasons_and_none_at_all_is_refused(pipeline, shards):
    cfg = LeakageConfig(labels=["person"], permutations=100, bootstrap=100)
    with pytest.raises(InputError, match="no label can be probed: person: "):
        probe_leakage(pipeline, shards, limit=3, settings=cfg, progress=False)


def test_settings_that_cannot_be_are_refused_together():
    with pytest.raises(ConfigError) as error:
        config.from_dict(LeakageConfig, {"labels": ["shoe"], "folds": 1, "steps": 0})
    assert len(error.value.problems) == 3


# ---------------------------------------------------------------------------------------------------------- verdicts


def score(value, spread=0.02, p=0.005, seed=0):
    draws = value + spread * np.random.default_rng(seed).normal(size=400)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Score(value, low, high, 0.01, p, 0.0, 100, 20, "among persons", draws=draws)


@pytest.mark.parametrize(
    ("tokens", "joints", "pixels", "outcome"),
    [
        (score(0.5), score(0.1), score(0.8), "leaks"),
        (score(0.3), score(0.3, seed=1), score(0.8), "motion"),
        (score(0.0, p=0.6), score(0.3), score(0.8), "none"),
        (score(0.0, p=0.6), score(0.0, p=0.6), score(0.0, p=0.5), "blind"),
        (score(0.015, spread=0.002), score(0.3), score(0.8), "trace"),
        (score(0.0, p=0.6), score(0.3), score(0.0, p=0.5), "none"),
        (score(-0.02, p=0.6), score(-3.0, p=0.6), score(0.8), "none"),
    ],
)
def test_verdicts(tokens, joints, pixels, outcome):
    found = judge("linear", "tokens", {"tokens": tokens, "joints": joints, "pixels": pixels})
    assert found.outcome == outcome
    assert found.leakage == pytest.approx(max(tokens.value, 0) - max(joints.value, 0))


# -------------------------------------------------------------------------------------------------------------- swap


def swapped(person_share, motion_share=1.0):
    """Tokens [n,T,K,D] of three people a motion: a part the motion's, a part the person's, a part nobody's."""
    rng = np.random.default_rng(1)
    persons = np.concatenate([rng.choice(8, 3, replace=False) for _ in range(16)])
    motions = np.repeat(np.arange(16), 3)
    shape = (5, 4, 6)
    z = motion_share * rng.normal(size=(16, *shape))[motions] + person_share * rng.normal(size=(8, *shape))[persons]
    return z + 0.5 * rng.normal(size=z.shape), [f"m{m}" for m in motions], [f"p{p}" for p in persons]


def test_a_driver_in_the_tokens_pulls_and_none_does_not():
    z, motions, persons = swapped(0.8)
    found = swap_tokens(cosine(z), motions, persons, bootstrap=200)
    assert found["driver_pull"]["found"] and found["motion_pull"] > 0.3
    assert found["same_driver"] > found["neither"] + 0.1
    clean = swap_tokens(cosine(swapped(0.0)[0]), motions, persons, bootstrap=200)
    assert not clean["driver_pull"]["found"] and abs(clean["driver_pull"]["value"]) < 0.02 < clean["motion_pull"]


def test_a_probe_that_misses_a_planted_leak_says_nothing():
    scores = {"tokens": score(0.0, p=0.6), "joints": score(0.3), "pixels": score(0.8)}
    assert judge("linear", "tokens", scores | {"planted": score(0.2)}).outcome == "none"
    assert judge("linear", "tokens", scores | {"planted": score(0.0, p=0.6)}).outcome == "blind"


def test_planting_takes_what_it_is_told_and_keeps_codes(pipeline, shards):
    features = extract(pipeline, shards, names=["tokens"], progress=False)
    label = table("shirt", features.drivers)
    np.testing.assert_allclose(plant(features, label, 0.0, 0), features.vectors["tokens"], atol=1e-6)
    whole = plant(features, label, 1.0, 0)
    k, d = features.tokens.shape[2:]
    tokens, spread = whole[:, : k * d].reshape(-1, k, d), whole[:, k * d :]
    assert (spread == 0).all()  # nothing but the person is left, the same in every frame
    assert all((np.abs(features.codebook - t).sum(1) < 1e-5).any() for t in tokens.reshape(-1, d))
    same = [i for i, x in enumerate(features.drivers) if x.person == features.drivers[0].person]
    np.testing.assert_allclose(whole[same], np.tile(whole[0], (len(same), 1)))


def test_motions_are_taken_out_of_features_and_drivers_stay():
    motion, driver = np.repeat([[5.0], [9.0], [-3.0]], 2, 0), np.tile([[1.0], [-1.0]], (3, 1))
    np.testing.assert_allclose(run.within_motions(motion + driver, ["a", "a", "b", "b", "c", "c"]), driver)


def test_a_slight_leak_is_found_only_when_motions_are_taken_out(features_with_a_slight_leak):
    for centred, found in ((True, True), (False, False)):
        cfg = LeakageConfig(
            ["tokens", "joints"], ["shirt"], ["linear"], permutations=100, bootstrap=100, centred=centred
        )
        made = run.probe_features(features_with_a_slight_leak, settings=cfg, progress=False)
        assert made["protocol"]["centred"] == centred
        assert made["labels"]["shirt"]["scores"]["linear"]["tokens"]["found"] == found
        assert made["labels"]["shirt"]["verdicts"][0]["outcome"] == ("leaks" if found else "blind")


@pytest.fixture
def features_with_a_slight_leak():
    """Moments that are a motion's, but for a tenth of the driver's shirt; tokens are of another model: they only are there."""
    rng = np.random.default_rng(2)
    people, motions = np.concatenate([rng.choice(20, 3, replace=False) for _ in range(60)]), np.repeat(np.arange(60), 3)
    shirts = rng.uniform(size=(20, 3))
    clips = enumerate(zip(people, motions))
    drivers = [Driver(f"k{i}", f"p{p}", f"m{m}", f"m{m}", {"shirt": tuple(shirts[p])}) for i, (p, m) in clips]
    moments = rng.normal(size=(60, 30))[motions] + 0.01 * rng.normal(size=(180, 30))
    moments[:, :3] += 0.1 * shirts[people]
    codes = rng.integers(16, size=(180, 5, 4))
    book = rng.normal(size=(16, 6))
    vectors = {"tokens": moments, "joints": rng.normal(size=(180, 9))}
    return Features(drivers, vectors, codes, book[codes], np.arange(2), rng.normal(size=(180, 2, 20, 2)), book, "k0")


def test_the_better_of_the_two_joint_controls_counts():
    scores = {"tokens": score(0.3), "joints": score(0.1), "joints_centred": score(0.4), "pixels": score(0.8)}
    found = judge("linear", "tokens", scores)
    assert (found.control_name, found.outcome) == ("joints_centred", "motion") and found.leakage < 0


def test_equal_codes_are_counted_frame_by_frame():
    codes = np.array([[[0, 1], [2, 3]], [[0, 1], [2, 9]], [[1, 0], [3, 2]]])
    assert agreement(codes).tolist() == [[1, 0.75, 0], [0.75, 1, 0], [0, 0, 1]]


def test_a_swap_without_a_second_driver_is_refused():
    with pytest.raises(InputError, match="no motion is performed by two drivers"):
        swap_tokens(np.eye(3), ["a", "b", "c"], ["p", "p", "q"])
    with pytest.raises(InputError, match="0 drivers perform two motions"):
        swap_tokens(np.eye(2), ["a", "a"], ["p", "q"])


def test_many_clips_are_thinned_by_whole_motions():
    motions = [f"m{i // 3}" for i in range(30)]
    kept = [motions[i] for i in spread_motions(motions, 12)]
    assert len(kept) == 12 and all(kept.count(m) == 3 for m in kept)


def test_videos_are_made_for_one_character_under_two_drivers(shards):
    found = trios(shards, 100)
    assert len(found) == MOTIONS
    one, two = (json.loads(shards.read(i)[1]["meta.json"]) for i in (found[0].first, found[0].second))
    assert one["person"] == two["person"] and one["driver_person"] != two["driver_person"]


class Copier:
    """Stands for a model that shows the driver in the character's place: the worst that there is."""

    default_steps = 1


def test_a_video_that_copies_the_driver_is_pulled_all_the_way(shards, monkeypatch):
    from evaluation.leakage import swap

    pipeline = Copier()
    pipeline.canvas_size = (HEIGHT, WIDTH)
    pipeline.animator = type("A", (), {"config": type("C", (), {"frames": FRAMES})})
    monkeypatch.setattr(swap, "person_mask", lambda parts: parts > 0)
    monkeypatch.setattr(swap, "_make", lambda pipeline, sample, steps, seed: sample.driving)
    copied = swap_videos(pipeline, shards, motions=6, progress=False)
    assert copied["colour_pull"]["value"] == pytest.approx(1, abs=0.03)
    assert copied["seed_change"]["value"] == 0 < copied["driver_change"]["value"]
    monkeypatch.setattr(swap, "_make", lambda pipeline, sample, steps, seed: film(3, 1)[0] + np.uint8(seed))
    kept = swap_videos(pipeline, shards, motions=6, progress=False)
    assert kept["colour_pull"]["value"] == 0 == kept["driver_change"]["value"] and kept["seed_change"]["value"] == 1


# ------------------------------------------------------------------------------------------------------------- guard


def test_cross_pairs_pass_the_guard():
    assert require_cross([sample(0, 1, 2), sample(1, 3, 4)], protocol="cross-1") == []


def test_a_driver_who_is_the_character_is_named():
    with pytest.raises(InputError, match=r"protocol cross-1 .* 1 of its samples .* m1-d3-t3: the driver is the char"):
        require_cross([sample(0, 1, 2), sample(1, 3, 3)], protocol="cross-1")


@pytest.mark.parametrize("noise", [0, 1])
def test_the_target_as_driving_video_is_refused_whatever_the_ids_say(noise):
    clip = sample(0, 1, 2)
    clip.driving = clip.truth.copy()
    clip.driving[:, ::5, ::5] ^= np.uint8(noise)
    with pytest.raises(InputError, match="m0-d1-t2: the driving frames are the target's"):
        require_cross([clip], protocol="cross-1")
    clip.target = None
    with pytest.raises(InputError, match="are the target's"):
        require_cross([clip], protocol="cross-1")


def test_one_frame_in_common_is_no_self_pair():
    clip = sample(0, 1, 2)
    clip.driving = clip.driving.copy()
    clip.driving[0] = clip.truth[0]
    assert require_cross([clip], protocol="cross-1") == []


def test_many_self_pairs_are_counted_and_few_named():
    with pytest.raises(InputError) as error:
        require_cross([sample(m, 1, 1) for m in range(9)], protocol="cross-1")
    assert "9 of its samples" in str(error.value) and "and 4 more" in str(error.value)


def test_a_truth_that_stands_still_is_warned_of():
    clip = sample(0, 1, 2)
    clip.target = np.broadcast_to(clip.identity, clip.truth.shape).copy()
    (warning,) = require_cross([clip, sample(1, 3, 4)], protocol="cross-1")
    assert warning.startswith("1 samples hardly move") and "m0-d1-t2" in warning


def test_clips_are_guarded_too_and_need_no_truth():
    s = sample(0, 1, 2)
    given = {"key": "c", "made": s.truth, "driving": s.driving, "character": s.identity, "fps": 12.0}
    assert require_cross([Clip(**given)], protocol="real-1") == []
    with pytest.raises(InputError, match=r"c: the driver is the character's person \(p1\)"):
        require_cross([Clip(**given, labels={"person": "p1", "driver_person": "p1"})], protocol="real-1")
    with pytest.raises(InputError, match="are the target's"):
        require_cross([Clip(**given | {"truth": s.driving})], protocol="real-1")
