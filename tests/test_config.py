"""Configuration: every problem at once, the nearest known key, nothing guessed."""

from dataclasses import dataclass
from typing import Literal

import pytest

from imanim import config
from imanim.config import opt, req
from imanim.errors import ConfigError, InputError


@dataclass
class Inner:
    width: int = opt(8, "channels")
    rate: float = opt(0.1, "learning rate")

    def problems(self) -> list[str]:
        return [] if self.width > 0 else [f"width: {self.width}; must be positive"]


@dataclass
class Outer:
    data: str = req("the folder of shards")
    kind: Literal["a", "b"] = opt("a", "which")
    inner: Inner = opt(Inner(), "nested")
    parts: dict[str, Inner] = opt({}, "named")
    sizes: list[int] = opt([1, 2], "numbers")
    limit: int | None = opt(None, "optional")


def write(path, text: str):
    path.write_text(text)
    return path


def test_a_file_extends_another_and_overrides_win(tmp_path) -> None:
    write(tmp_path / "base.yaml", "data: base\ninner: {width: 4, rate: 1e-4}\n")
    top = write(tmp_path / "top.yaml", "extends: base.yaml\ninner: {width: 16}\nparts: {x: {rate: 2}}\n")
    cfg = config.load(Outer, top, ["kind=b", "inner.rate=3e-5", "sizes=[3]"])
    assert (cfg.data, cfg.kind, cfg.inner.width, cfg.inner.rate, cfg.sizes) == ("base", "b", 16, 3e-5, [3])
    assert cfg.parts["x"] == Inner(8, 2.0)


def test_every_problem_is_reported_at_once_with_the_nearest_key(tmp_path) -> None:
    bad = write(tmp_path / "bad.yaml", "kind: c\ninner: {widht: 3, rate: fast}\nsizes: 3\n")
    with pytest.raises(ConfigError) as caught:
        config.load(Outer, bad, ["limit=many"])
    text = str(caught.value)
    assert len(caught.value.problems) == 6
    for words in (
        "did you mean `width`?",
        "inner.rate",
        "kind: expected one of a, b",
        "sizes",
        "limit",
        "data: required",
    ):
        assert words in text


def test_values_are_checked_against_each_other_by_the_schema() -> None:
    with pytest.raises(ConfigError, match=r"inner\.width: 0; must be positive"):
        config.load(Outer, None, ["data=x", "inner.width=0"])


@pytest.mark.parametrize("override", ["inner.width=yes", "inner.width='8'", "inner.width=1.5", "=3", "data"])
def test_nothing_is_guessed(override: str) -> None:
    with pytest.raises(ConfigError):
        config.load(Outer, None, ["data=x", override])


def test_a_configuration_survives_being_saved() -> None:
    cfg = config.load(Outer, None, ["data=x", "parts.y.width=3", "limit=7"])
    assert config.from_dict(Outer, config.to_dict(cfg)) == cfg


def test_yaml_text_reads_back(tmp_path) -> None:
    cfg = config.load(Outer, None, ["data=x"])
    assert config.load(Outer, write(tmp_path / "c.yaml", config.to_yaml(cfg))) == cfg


def test_a_circle_and_a_missing_base_are_refused(tmp_path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(InputError, match="circle"):
        config.load(Outer, tmp_path / "a.yaml")
    with pytest.raises(InputError, match="no such configuration file"):
        config.load(Outer, tmp_path / "absent.yaml")


def test_broken_yaml_is_one_line(tmp_path) -> None:
    with pytest.raises(InputError) as caught:
        config.load(Outer, write(tmp_path / "x.yaml", "a: [1, 2\nb: }"))
    assert "\n" not in str(caught.value) and "x.yaml" in str(caught.value)


def test_the_help_names_every_key_with_its_default() -> None:
    text = config.help_text(Outer)
    for words in ("data (str, required)", "inner.width (int, 8)", "learning rate", "limit"):
        assert words in text
