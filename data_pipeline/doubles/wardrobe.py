"""Who the person is and what they wear (Identity), and where they stand (Scene), drawn independently of each other.

Everyone is always fully clothed: ``Identity`` clamps sleeves, hems and necklines to coverage.py, the garment layer is
closed everywhere else, and the asset has no skin triangles under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from data_pipeline.doubles import coverage
from data_pipeline.doubles.asset import PHENOTYPE
from imanim.errors import InputError

Colour = tuple[float, float, float]

HAIR_STYLES = (
    "bald", "buzz", "short", "quiff", "afro", "curly", "mohawk", "bob", "shoulder", "long", "bun", "ponytail", "cap",
    "beanie",
)  # fmt: skip
PATTERNS = (
    "plain", "stripes", "pinstripes", "checks", "badge", "dots", "jacket", "raglan", "band", "yoke", "sash", "trim",
)  # fmt: skip
TROUSER_PATTERNS = ("plain", "pinstripes", "checks", "side_stripe", "cuffs")

SKINS = np.array(
    [[0.97, 0.82, 0.72], [0.92, 0.74, 0.60], [0.82, 0.62, 0.47], [0.66, 0.46, 0.33], [0.48, 0.33, 0.24],
     [0.36, 0.24, 0.18]]
)  # fmt: skip
HAIRS = np.array(
    [[0.09, 0.07, 0.06], [0.26, 0.16, 0.10], [0.45, 0.28, 0.14], [0.82, 0.64, 0.34], [0.62, 0.24, 0.10],
     [0.70, 0.70, 0.72], [0.90, 0.90, 0.91]]
)  # fmt: skip
CLOTHES = np.array(
    [[0.85, 0.15, 0.15], [0.15, 0.35, 0.80], [0.95, 0.78, 0.15], [0.15, 0.58, 0.30], [0.92, 0.92, 0.91],
     [0.13, 0.13, 0.16], [0.90, 0.45, 0.12], [0.52, 0.20, 0.60], [0.10, 0.60, 0.66], [0.95, 0.55, 0.70],
     [0.42, 0.29, 0.19], [0.50, 0.55, 0.60], [0.45, 0.10, 0.18], [0.12, 0.20, 0.38], [0.66, 0.72, 0.40],
     [0.78, 0.70, 0.55]]
)  # fmt: skip
IRISES = np.array([[0.24, 0.15, 0.09], [0.35, 0.24, 0.12], [0.25, 0.45, 0.65], [0.28, 0.50, 0.32], [0.40, 0.42, 0.45]])


@dataclass(frozen=True)
class Identity:
    """One person. Colours are RGB in [0,1]; heights are template coordinates (coverage.py), clamped on creation."""

    phenotype: Mapping[str, float]
    skin: Colour
    hair: Colour
    hair_style: str
    hairline: float  # metres the hairline moves: > 0 down the forehead, < 0 receding
    brow_weight: float  # 0 thin .. 1 bushy
    beard: float  # 0 none, 0.5 stubble, 1 full
    iris: Colour
    lips: Colour
    hat: Colour
    shirt: Colour
    shirt_accent: Colour
    shirt_pattern: str
    pants: Colour
    pants_accent: Colour
    pants_pattern: str
    shoes: Colour
    soles: Colour
    sleeve: float  # way down the arm: 0.27 cap sleeve, 0.5 elbow, 0.95 wrist
    neck_z: float
    neck_depth: float
    waist_z: float
    hem_z: float  # of the trousers
    shoe_z: float  # top of the shoes or boots
    skirt_hem_z: float | None  # None: no skirt; under a skirt the trousers are leggings or shorts
    looseness: float  # 0 tight .. 1 wide
    flare: float  # trouser legs, 0 straight .. 1 wide
    pattern_frequency: float

    def __post_init__(self) -> None:
        if set(self.phenotype) != set(PHENOTYPE):
            raise InputError(
                f"identity phenotype: {sorted(self.phenotype)} are not {sorted(PHENOTYPE)}; name each once"
            )
        for name, options in (
            ("hair_style", HAIR_STYLES), ("shirt_pattern", PATTERNS), ("pants_pattern", TROUSER_PATTERNS),
        ):  # fmt: skip
            if getattr(self, name) not in options:
                raise InputError(f"identity {name}: {getattr(self, name)!r} is unknown; choose one of {list(options)}")
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None:
                if not np.isfinite(value):
                    raise InputError(f"identity {name}: {value} is not a number; give one in [{low}, {high}]")
                object.__setattr__(self, name, float(np.clip(value, low, high)))
        for name in CLOTH_COLOURS:
            object.__setattr__(self, name, _apart_from(getattr(self, name), self.skin))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``from_dict`` brings it back."""
        return asdict(self) | {"phenotype": dict(self.phenotype)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Identity:
        """Raises InputError when a field is missing or unknown."""
        return Identity(**_fields_of(Identity, values))


CLOTH_COLOURS = ("shirt", "shirt_accent", "pants", "pants_accent", "shoes")
SKIN_DISTANCE = 0.32
"""Clothes are at least this far (RGB, Euclidean) from the wearer's skin, so that cloth never reads as bare skin."""

LIMITS: dict[str, tuple[float, float]] = {
    "sleeve": (coverage.SHORTEST_SLEEVE, 0.96),
    "neck_z": (coverage.LOWEST_NECK, coverage.HIGHEST_NECK),
    "neck_depth": (0.0, coverage.DEEPEST_NECK),
    "waist_z": (-0.06, 0.09),
    "hem_z": (-0.77, coverage.SHORTEST_HEM_Z),
    "shoe_z": (coverage.LOWEST_SHOE_Z, -0.55),
    "skirt_hem_z": (-0.70, -0.24),
    "hairline": (-0.02, 0.012),
    "brow_weight": (0.0, 1.0),
    "beard": (0.0, 1.0),
    "looseness": (0.0, 1.0),
    "flare": (0.0, 1.0),
    "pattern_frequency": (25.0, 110.0),
}
"""The range each number is clamped to; the first six keep torso, pelvis and thighs covered whatever is asked for."""


@dataclass(frozen=True)
class Scene:
    """Surroundings and light. ``background`` is one of BACKGROUNDS; ``light`` points from the person to the light."""

    background: str
    wall: Colour
    wall_accent: Colour
    floor: Colour
    floor_accent: Colour
    light: tuple[float, float, float]
    ambient: float
    key: float
    shadow: float
    tint: Colour
    seed: int

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise InputError(f"scene background: {self.background!r} is unknown; choose one of {list(BACKGROUNDS)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Scene:
        """Raises InputError when a field is missing or unknown."""
        return Scene(**_fields_of(Scene, values))


BACKGROUNDS = ("gradient", "clouds", "tiles", "checker_floor", "panels", "posters")


def random_identity(rng: np.random.Generator) -> Identity:
    """A person from child to elder, thin to heavy, short to tall, with clothes and hair that tell them apart."""
    kind = rng.choice(["adult", "child", "elder"], p=[0.6, 0.2, 0.2])
    phenotype = _random_phenotype(rng, str(kind))
    gender = phenotype["gender"]
    style = _random_hair_style(rng, gender, str(kind))
    hair = HAIRS[rng.choice([0, 0, 1, 1, 2, 3, 4]) if kind != "elder" else rng.integers(5, 7)] * rng.uniform(0.85, 1.1)
    skin = SKINS[rng.integers(len(SKINS))] * rng.uniform(0.93, 1.04)
    shirt, pants, accent, accent2, shoes, hat = (_cloth(rng) for _ in range(6))
    if np.abs(np.array(shirt) - pants).sum() < 0.25:  # tell the two apart
        pants = _colour(CLOTHES[5 if np.mean(shirt) > 0.4 else 4])
    skirt = float(rng.uniform(-0.68, -0.26)) if gender > 0.55 and rng.random() < 0.5 else None
    dress = skirt is not None and rng.random() < 0.4
    beard = rng.choice([0.5, 1.0]) if gender < 0.35 and kind != "child" and rng.random() < 0.45 else 0.0
    boots = rng.random() < 0.25
    return Identity(
        phenotype=phenotype,
        skin=_colour(skin),
        hair=_colour(hair),
        hair_style=style,
        hairline=float(rng.uniform(-0.008, 0.010) - (0.010 if kind == "elder" and gender < 0.5 else 0.0)),
        brow_weight=float(np.clip(0.75 - 0.6 * gender + rng.normal() * 0.2, 0, 1)),
        beard=float(beard),
        iris=_colour(IRISES[rng.integers(len(IRISES))]),
        lips=_colour(skin * ([0.86, 0.55, 0.53] if rng.random() < 0.3 + 0.4 * gender else [0.90, 0.68, 0.64])),
        hat=hat,
        shirt=shirt,
        shirt_accent=accent,
        shirt_pattern=str(rng.choice(PATTERNS, p=_pattern_odds())),
        pants=shirt if dress else pants,
        pants_accent=accent if dress else accent2,
        pants_pattern=str(rng.choice(TROUSER_PATTERNS, p=[0.6, 0.08, 0.08, 0.14, 0.10])),
        shoes=shoes,
        soles=_colour(CLOTHES[rng.choice([4, 4, 5, 10, 0])]),
        sleeve=float(rng.choice([0.28, 0.36, 0.36, 0.48, 0.62, 0.95, 0.95, 0.95]) + rng.normal() * 0.01),
        neck_z=float(rng.uniform(coverage.LOWEST_NECK, coverage.HIGHEST_NECK)),
        neck_depth=float(rng.choice([0.0, 0.0, 0.5, 1.0]) * coverage.DEEPEST_NECK),
        waist_z=float(rng.uniform(-0.05, 0.08) if skirt is None else 0.085),
        hem_z=float(
            rng.choice([-0.77, -0.77, -0.77, -0.60, -0.44, -0.36])
            if skirt is None
            else rng.choice([-0.77, -0.40, -0.34])
        ),
        shoe_z=float(rng.uniform(-0.70, -0.60) if boots else rng.uniform(-0.785, -0.76)),
        skirt_hem_z=skirt,
        looseness=float(rng.beta(1.2, 1.6)),
        flare=float(max(0.0, rng.uniform(-0.5, 1.0))),
        pattern_frequency=float(rng.uniform(32, 90)),
    )


def _random_phenotype(rng: np.random.Generator, kind: str) -> dict[str, float]:
    ages = {"adult": (0.55, 0.85), "child": (0.22, 0.45), "elder": (0.90, 1.0)}
    values = {
        "gender": rng.choice([rng.uniform(0, 0.25), rng.uniform(0.75, 1.0), rng.random()], p=[0.4, 0.4, 0.2]),
        "age": rng.uniform(*ages[kind]),
        "muscle": rng.beta(1.2, 1.5),
        "weight": rng.beta(1.1, 1.2),
        "height": rng.uniform(0.15, 0.62) if kind != "child" else rng.uniform(0.3, 0.6),
        "proportions": rng.uniform(0.1, 1.0),
    }
    return {name: float(values[name]) for name in PHENOTYPE}


def _random_hair_style(rng: np.random.Generator, gender: float, kind: str) -> str:
    #       bald buzz short quiff afro curly mohawk bob shoulder long bun ponytail cap beanie
    short = [2, 3, 6, 4, 2, 2, 1, 0.3, 0.4, 0.5, 0.3, 0.3, 2, 2]
    long = [0.1, 0.3, 1.5, 0.8, 2, 2, 0.3, 4, 4, 5, 4, 4, 1.2, 1.2]
    weights = np.array(short) * (1 - gender) + np.array(long) * gender
    if kind == "child":
        weights[0] = 0.0
    return str(rng.choice(HAIR_STYLES, p=weights / weights.sum()))


def _pattern_odds() -> np.ndarray:
    odds = np.array([3.0] + [1.0] * (len(PATTERNS) - 1))
    return odds / odds.sum()


def random_scene(rng: np.random.Generator) -> Scene:
    """Surroundings and light; takes nothing from the identity, so they say nothing about who is shown."""
    wall = np.clip(rng.uniform(0.35, 0.9) + rng.normal(size=3) * 0.10, 0.08, 1)
    floor = np.clip(rng.uniform(0.3, 0.8) + rng.normal(size=3) * 0.06, 0.08, 1)
    return Scene(
        background=str(rng.choice(BACKGROUNDS)),
        wall=_colour(wall),
        wall_accent=_colour(wall + rng.uniform(-0.22, 0.22) + rng.normal(size=3) * 0.07),
        floor=_colour(floor),
        floor_accent=_colour(floor + rng.choice([-1, 1]) * rng.uniform(0.08, 0.25)),
        light=(float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-1.0, -0.3)), float(rng.uniform(0.6, 1.3))),
        ambient=float(rng.uniform(0.48, 0.66)),
        key=float(rng.uniform(0.4, 0.65)),
        shadow=float(rng.uniform(0.25, 0.6)),
        tint=_colour(1.0 + rng.normal(size=3) * 0.03),
        seed=int(rng.integers(1 << 16)),
    )


def _cloth(rng: np.random.Generator) -> Colour:
    return _colour(CLOTHES[rng.integers(len(CLOTHES))] * rng.uniform(0.85, 1.08) + rng.normal(size=3) * 0.015)


def _colour(values: Any) -> Colour:
    r, g, b = (round(float(v), 4) for v in np.clip(values, 0.0, 1.0))
    return r, g, b


def _apart_from(colour: Colour, skin: Colour) -> Colour:
    """The colour itself, or, when it could be taken for the skin's, its complement (skin is never bluish)."""
    if np.linalg.norm(np.array(colour) - skin) >= SKIN_DISTANCE:
        return _colour(colour)
    r, g, b = (1 - c for c in colour)
    return _colour((0.5 * r, 0.8 * g, max(b, 0.45)))


def _fields_of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks names and turns JSON lists back into tuples."""
    known = {f.name for f in fields(kind)}
    if set(values) != known:
        odd = sorted(set(values) ^ known)
        raise InputError(f"{kind.__name__}: fields {odd} are missing or unknown; give exactly {sorted(known)}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
