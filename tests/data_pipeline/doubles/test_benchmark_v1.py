"""The fixed benchmark: levels and people in turn, permitted sharing, facial actions stored, and older sets unchanged."""

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.doubles import generate
from data_pipeline.doubles.config import DoublesConfig, SplitConfig
from data_pipeline.doubles.motions import FACE_ACTIONS, Motion
from data_pipeline.doubles.splits import Group, group_indices, leaks, level_order, permissions, plan_group
from data_pipeline.doubles.verify import RECORD_PATH, read_record
from imanim.config import load
from imanim.data.sample import FACIAL_ACTIONS, decode
from imanim.data.shards import ShardSet
from imanim.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs" / "data"
V1 = CONFIGS / "doubles_v1.yaml"
CELLS = ("seen_body_seen_kind", "seen_body_unseen_kind", "unseen_body_seen_kind", "unseen_body_unseen_kind")


def groups(config: DoublesConfig, split: str) -> list[Group]:
    return [plan_group(config, split, i) for i in group_indices(config.splits[split])]


def test_older_sets_are_planned_and_named_as_before() -> None:
    config, found = load(DoublesConfig, CONFIGS / "doubles.yaml"), hashlib.sha256()
    for name in config.splits:
        for g in groups(config, name):
            plan = [g.split, g.index, g.kind, g.motion_seed, g.level, g.portrait, g.bodies, g.pairs]
            plan += [sorted((b, dataclasses.astuple(p)) for b, p in g.poses.items()), g.camera_seed]
            found.update(repr([*plan, sorted(g.scene_seeds.items())]).encode())
    assert found.hexdigest() == "ad783c55b871a3d6e94f3cba1684e6bcacbc2c4bdab51c28280118b665cb9e27"
    named = json.dumps(generate._identity_of(config), sort_keys=True).encode()
    assert hashlib.sha256(named).hexdigest() == "f768086741a4d902873bcfac32950bf83194451eb9369fa54d3ab4cd3664e2e1"


def test_the_benchmark_has_the_promised_clips() -> None:
    config = load(DoublesConfig, V1)
    per = {name: groups(config, name) for name in config.splits}
    assert {n: len(g) * config.samples_per_motion for n, g in per.items()} == dict.fromkeys(CELLS, 80) | {
        "portrait": 40
    }
    training = load(DoublesConfig, CONFIGS / "doubles.yaml")
    shown = training.splits["train"]
    for cell in CELLS:
        assert Counter(g.level for g in per[cell]) == {0: 2, 1: 2, 2: 2, 3: 4, 4: 4, 5: 2}
        assert not any(g.portrait for g in per[cell])
        bodies = [b for g in per[cell] for b in g.bodies]
        assert len(set(bodies)) == len(bodies) == 80  # everybody once
        seen_body, seen_kind = ("unseen_body" not in cell), ("unseen_kind" not in cell)
        assert all((shown.bodies[0] <= b < shown.bodies[1]) == seen_body for b in bodies)
        assert {g.kind in shown.kinds for g in per[cell]} == {seen_kind}
    assert all(g.portrait and g.level == 3 and g.strong_faces for g in per["portrait"])
    used = {range(*s.motions)[0] for s in training.splits.values()}
    assert not used & {g.motion_seed for gs in per.values() for g in gs}
    assert min(s.motions[0] for s in config.splits.values()) > max(s.motions[1] for s in training.splits.values())


def test_the_quick_benchmark_is_a_part_of_it() -> None:
    whole, quick = load(DoublesConfig, V1), load(DoublesConfig, CONFIGS / "doubles_v1_quick.yaml")
    for name in whole.splits:
        some, every = groups(quick, name), groups(whole, name)
        assert 0 < len(some) < len(every) and all(g in every for g in some)
        if name != "portrait":
            assert {g.level for g in some} == {3, 4, 5}


def test_the_committed_record_is_of_these_samples() -> None:
    config = load(DoublesConfig, V1)
    planned = {g.key(*pair) for name in config.splits for g in groups(config, name) for pair in g.pairs}
    assert set(read_record(RECORD_PATH)) == planned


def test_many_people_drive_four_clips_each() -> None:
    config = load(DoublesConfig, CONFIGS / "doubles_v1_people.yaml")
    drivers = Counter(d for g in groups(config, "people") for d, _ in g.pairs)
    assert len(drivers) == 200 and set(drivers.values()) == {4}


def test_levels_are_spread_and_counted() -> None:
    assert level_order({"L0": 1, "L3": 2}) == [3, 0, 3]
    with pytest.raises(ConfigError, match="15 motions in all"):
        load(DoublesConfig, V1, ["splits.seen_body_seen_kind.level_counts.L0=1"])
    with pytest.raises(ConfigError, match="only"):
        load(DoublesConfig, V1, ["splits.portrait.only=[3,8]"])


def test_sharing_needs_a_permission_and_motions_are_never_shared() -> None:
    with pytest.raises(ConfigError, match="may_share_bodies"):
        load(DoublesConfig, V1, ["splits.unseen_body_unseen_kind.may_share_bodies=[]"])
    with pytest.raises(ConfigError, match="share kinds"):
        load(DoublesConfig, V1, ["splits.unseen_body_seen_kind.may_share_kinds=[]"])
    with pytest.raises(ConfigError, match=r"motions.*overlap"):
        load(DoublesConfig, V1, ["splits.portrait.motions=[430000,430008]"])
    with pytest.raises(ConfigError, match="not another split"):
        load(DoublesConfig, V1, ["splits.portrait.may_share_kinds=[nobody]"])


def test_leaks_beyond_the_permissions_are_found() -> None:
    def meta(body: int, kind: str, seed: int) -> dict:
        motion = {"kind": kind, "seed": seed}
        return {"driver": {"body": body}, "target": {"body": body}, "motion": motion, "identity": {"motion": motion}}

    allowed = permissions(load(DoublesConfig, V1))
    metas = {"unseen_body_seen_kind": [meta(650, "walk", 1)], "unseen_body_unseen_kind": [meta(650, "turn", 2)]}
    assert leaks(metas, permitted=allowed) == []
    assert leaks(metas) == ["unseen_body_seen_kind and unseen_body_unseen_kind share bodies: 650"]
    metas["unseen_body_unseen_kind"].append(meta(650, "walk", 1))
    assert {line.split("share ")[1] for line in leaks(metas, permitted=allowed)} == {"motion seeds: 1", "kinds: walk"}


def test_strong_faces_are_strong_varied_and_another_stream() -> None:
    strong = np.stack([Motion("talk", s, portrait=True, strong_faces=True).faces() for s in range(30)])
    plain = np.stack([Motion("talk", s, portrait=True).faces() for s in range(30)])
    eyes = [FACE_ACTIONS.index(n) for n in FACE_ACTIONS if n.startswith("eyeLook") or "Blink" in n]
    rest = np.setdiff1d(np.arange(len(FACE_ACTIONS)), eyes)
    assert strong.shape == (30, 17, 52) and strong.min() >= 0 and strong.max() <= 1
    assert strong[..., rest].sum(-1).mean() > 1.3 * plain[..., rest].sum(-1).mean()
    assert np.abs(np.diff(strong[..., rest], axis=1)).mean() > 1.3 * np.abs(np.diff(plain[..., rest], axis=1)).mean()
    assert (strong[..., rest].max((0, 1)) > 0.3).sum() > 25  # many different actions are seen


def test_exaggerated_characters_have_ordinary_drivers_and_facial_actions_are_stored(tmp_path: Path) -> None:
    split = SplitConfig([0, 6], [0, 1], ["talk", "wave"], level_counts={"L5": 1}, in_turn=True, strong_faces=True)
    config = DoublesConfig(
        output=str(tmp_path), height=64, width=40, frames=5, bodies_per_motion=3, workers=0, supersample=1,
        splits={"hard": split}, portrait_fraction=0.0, pairs="ring", details=True,
    )  # fmt: skip
    report = generate.run(config, progress=False)
    assert report.samples == {"hard": 3} and not report.failures
    shards = ShardSet(tmp_path, "hard")
    drivers = []
    for i in range(3):
        sample = decode(*shards.read(i))
        meta = sample.meta
        drivers.append(meta["driver"]["body"])
        assert meta["level"] == "L5" and meta["driver"]["body"] != meta["target"]["body"]
        assert "exaggeration" in meta["target"] and "exaggeration" not in meta["driver"]
        assert set(meta["target"]["measures"]) == set(meta["driver"]["measures"])
        assert sample.expression is not None and sample.expression.shape == (5, FACIAL_ACTIONS)
        faces = Motion(meta["motion"]["kind"], meta["motion"]["seed"], frames=5, strong_faces=True).faces()
        np.testing.assert_array_equal(sample.expression, faces.astype(np.float16))
    assert sorted(drivers) == sorted(set(drivers))  # a ring: everybody drives once
    by_body = {m["target"]["body"]: m["target"]["measures"] for m in (decode(*shards.read(i)).meta for i in range(3))}
    by_driver = {m["driver"]["body"]: m["driver"]["measures"] for m in (decode(*shards.read(i)).meta for i in range(3))}
    assert all(by_body[b] != by_driver[b] for b in by_body)  # the same people, with other proportions
