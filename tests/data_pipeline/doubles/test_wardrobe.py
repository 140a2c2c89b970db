"""Wardrobe: everyone is always fully clothed, whatever is asked for; people and places are drawn independently."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_pipeline.doubles.bodies import Body, load_asset
from data_pipeline.doubles.camera import View
from data_pipeline.doubles.outfit import BODY, GARMENT, SKIRT, drawn_field, vertices_of
from data_pipeline.doubles.render import Renderer
from data_pipeline.doubles.wardrobe import (
    CLOTH_COLOURS,
    HAIR_STYLES,
    LIMITS,
    PATTERNS,
    SKIN_DISTANCE,
    TROUSER_PATTERNS,
    Identity,
    Scene,
    random_identity,
    random_scene,
)
from imanim.data.sample import PARTS
from imanim.errors import InputError

POSES: dict[str, dict[str, tuple[float, float, float]]] = {
    "still": {},
    "arms_up": {"upperarm01.L": (0, -1.6, 0), "upperarm01.R": (0, 1.6, 0)},
    "kick": {"upperleg01.L": (-1.4, 0, 0), "upperarm01.R": (-1.2, 0, 0)},
    "squat": {"upperleg01.L": (-1.3, -0.3, 0), "upperleg01.R": (-1.3, 0.3, 0), "lowerleg01.L": (1.7, 0, 0),
              "lowerleg01.R": (1.7, 0, 0)},
    "split": {"upperleg01.L": (0, -0.7, 0), "upperleg01.R": (0, 0.7, 0), "spine03": (0, 0, 0.6)},
    "bend": {"spine05": (0.4, 0, 0), "spine03": (0.4, 0, 0), "spine01": (0.4, 0, 0), "root": (0.3, 0, 0)},
}  # fmt: skip


def posed_frames(body: Body) -> np.ndarray:
    """[6,V,3] the body in every pose of POSES."""
    deltas = np.tile(np.eye(3), (len(POSES), 104, 1, 1))
    for frame, pose in enumerate(POSES.values()):
        for bone, vector in pose.items():
            angle = np.linalg.norm(vector)
            x, y, z = np.array(vector) / angle
            k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            deltas[frame, body.bone_names.index(bone)] = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    return body.pose(deltas.astype(np.float32), np.tile(body.rest_heads[:1], (len(POSES), 1))).vertices


def changed(person: Identity, settings: dict[str, Any]) -> Identity:
    return Identity.from_dict(person.to_dict() | settings)


def extremes(base: Identity) -> list[Identity]:
    """Every setting of the wardrobe at its ends and far beyond, one at a time and all at once."""
    out = []
    barest: dict[str, Any] = {"sleeve": -9.0, "neck_z": -9.0, "neck_depth": 9.0, "hem_z": 9.0, "shoe_z": -9.0}
    for name in LIMITS:
        out += [changed(base, {name: value}) for value in (-9.0, 9.0)]
    out += [replace(base, hair_style=style, **barest) for style in HAIR_STYLES]
    out += [replace(base, shirt_pattern=pattern) for pattern in PATTERNS]
    out += [replace(base, pants_pattern=pattern, skirt_hem_z=None, **barest) for pattern in TROUSER_PATTERNS]
    out += [replace(base, skirt_hem_z=hem, waist_z=waist, looseness=loose, **barest)
            for hem in (9.0, -9.0) for waist in (9.0, -9.0) for loose in (0.0, 1.0)]  # fmt: skip
    return out


def people(count: int) -> list[Identity]:
    return [random_identity(np.random.default_rng(900 + i)) for i in range(count)]


def test_the_asset_has_no_skin_under_torso_pelvis_thighs_or_feet() -> None:
    asset = load_asset()
    skin = asset.triangles[asset.groups == BODY]
    x, z, arm = (asset.attribute(n)[skin] for n in ("x", "z", "arm"))
    on_trunk = (np.abs(x) < 0.20) & (z > -0.28) & (z < 0.40)
    on_feet = z < -0.83
    on_upper_arm = (arm > -0.5) & (arm < 0.22)
    upper_chest = (np.abs(x) > 0.10) & (z < 0.46) & (arm < -0.5) & (z > -0.28)
    for region in (on_trunk, on_feet, on_upper_arm, upper_chest):
        assert not region.any()
    assert len(skin) > 10_000  # head, hands, arms and lower legs are there


def test_cloth_covers_trunk_and_thighs_for_every_extreme_of_every_setting() -> None:
    asset = load_asset()
    garment, skin = vertices_of(asset, GARMENT), vertices_of(asset, BODY)
    y, z, arm = (asset.attribute(n) for n in ("y", "z", "arm"))
    trunk = garment[((z > -0.32) & (z < 0.42) & (arm < -0.5) & (y < 0.2))[garment]]
    thick_arm = garment[((arm > -0.5) & (arm < 0.26))[garment]]
    for person in (*people(20), *extremes(people(1)[0])):
        field = drawn_field(asset, person)
        assert field[trunk].min() > 0, person
        assert field[thick_arm].min() > 0, person
        # wherever the body could end (its cut edges), cloth lies over it
        assert np.isfinite(field[skin]).all()


@pytest.mark.parametrize("seed", range(4))
def test_no_rendered_skin_lies_on_trunk_or_thighs_in_any_outfit_and_pose(seed: int) -> None:
    asset = load_asset()
    base = people(4)[seed]
    body = Body(base.phenotype)
    vertices = posed_frames(body)
    scene = random_scene(np.random.default_rng(seed))
    view = View((0.0, 0.8, -0.8, 3.0)[seed], (0.1, 0.5, -0.05, 0.1)[seed], 3.0, 0.6, 0, 0, "full_body")
    x, z = asset.attribute("x"), asset.attribute("z")
    for person in extremes(base)[seed % 2 :: 2]:  # half of them a body; every setting meets two bodies
        renderer = Renderer(body, person, 56, 84, supersample=1, shadow_resolution=16)
        out = renderer.frames(vertices, scene, view.camera(body.height_m))
        corners, groups = renderer.seen()
        bare = corners[np.isin(out.parts, [PARTS.index("skin"), PARTS.index("lips")]) & (groups == BODY)]
        assert len(bare)
        trunk = (np.abs(x[bare]) < 0.20) & (z[bare] > -0.28) & (z[bare] < 0.40)
        assert not trunk.any(), person
        assert (groups[out.parts == PARTS.index("skin")] == BODY).all()
        assert (out.parts == PARTS.index("shirt")).any((1, 2)).all()


def test_one_sees_no_hole_into_the_clothes_at_the_trunk() -> None:
    asset = load_asset()
    z, arm = asset.attribute("z"), asset.attribute("arm")
    for person in people(8):
        person = replace(person, sleeve=0.0, hem_z=0.0, neck_z=0.0, neck_depth=1.0)
        body = Body(person.phenotype)
        vertices = posed_frames(body)[[0, 1, 4]]
        camera = View(0.2, 0.1, 3.0, 0.6, 0, 0, "full_body").camera(body.height_m)
        renderer = Renderer(body, person, 80, 128, supersample=1, shadow_resolution=16)
        renderer.frames(vertices, random_scene(np.random.default_rng(1)), camera)
        corners, groups = renderer.seen()
        for frame in range(3):
            trunk = np.isin(groups[frame], [GARMENT, SKIRT])
            triangles = corners[frame][trunk]
            inner = (np.abs(z[triangles] - 0.12) < 0.28).all(1) & (arm[triangles] < -0.5).all(1)
            a, b, c = np.moveaxis(vertices[frame][triangles[inner]], 1, 0)
            facing = (np.cross(b - a, c - a) * (np.array(camera.eye) - a)).sum(1)
            assert (facing < 0).mean() < 0.01  # only fronts are seen: nobody looks in at the cloth's inside


def test_cloth_colours_keep_away_from_the_wearers_skin() -> None:
    base = people(1)[0]
    for skin in ((0.97, 0.82, 0.72), (0.66, 0.46, 0.33), (0.36, 0.24, 0.18), (0.5, 0.5, 0.5)):
        person = changed(base, {"skin": skin} | dict.fromkeys(CLOTH_COLOURS, skin))
        for name in CLOTH_COLOURS:
            distance = np.linalg.norm(np.array(getattr(person, name)) - skin)
            assert distance >= min(SKIN_DISTANCE, 0.25), (skin, name, getattr(person, name))


def test_an_identity_and_a_scene_survive_json() -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        person, scene = random_identity(rng), random_scene(rng)
        assert Identity.from_dict(json.loads(json.dumps(person.to_dict()))) == person
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_random_people_span_ages_builds_heights_and_clothes() -> None:
    crowd = people(200)
    heights = [Body(p.phenotype).height_m for p in crowd[:60]]
    assert min(heights) < 1.35
    assert max(heights) > 1.8
    assert {p.hair_style for p in crowd} == set(HAIR_STYLES)
    assert {p.shirt_pattern for p in crowd} == set(PATTERNS)
    assert 0.05 < np.mean([p.skirt_hem_z is not None for p in crowd]) < 0.5
    assert all(p.beard == 0 for p in crowd if p.phenotype["age"] < 0.5)


def test_the_same_generator_gives_the_same_person_and_scenes_do_not_depend_on_people() -> None:
    assert random_identity(np.random.default_rng(5)) == random_identity(np.random.default_rng(5))
    crowd = people(300)
    scenes = [random_scene(np.random.default_rng(50_000 + i)) for i in range(300)]
    for colour in ("shirt", "skin"):
        for place in ("wall", "floor"):
            r = np.corrcoef([np.mean(getattr(p, colour)) for p in crowd], [np.mean(getattr(s, place)) for s in scenes])
            assert abs(r[0, 1]) < 0.2


def test_unknown_styles_and_fields_are_refused() -> None:
    base = people(1)[0]
    with pytest.raises(InputError, match="hair_style: 'dreads' is unknown"):
        replace(base, hair_style="dreads")
    with pytest.raises(InputError, match="missing or unknown"):
        Identity.from_dict({"phenotype": {}})
    with pytest.raises(InputError, match="sleeve: nan"):
        replace(base, sleeve=float("nan"))
