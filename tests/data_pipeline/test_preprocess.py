"""Which source a configuration chooses, and the settings' own checks."""

import re

import pytest

from data_pipeline import preprocess
from data_pipeline.config import VideosConfig
from imanim.errors import ConfigError, InputError

CONFIG = "configs/data/videos.yaml"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def write(folder, text, name="c.yaml"):
    (folder / name).write_text(text)
    return folder / name


def test_the_shipped_configuration_is_the_tiny_size():
    name, config = preprocess.load(CONFIG, ["input=in", "output=out"])
    assert name == "videos" and isinstance(config, VideosConfig)
    assert (config.clip.height, config.clip.width, config.clip.frames, config.clip.fps) == (128, 80, 17, 12.0)


def test_the_source_comes_from_the_base_or_an_override_too(tmp_path):
    write(tmp_path, "source: videos\n", "base.yaml")
    child = write(tmp_path, "extends: base.yaml\nlicence: mine\n")
    assert preprocess.source_of(child) == "videos"
    assert preprocess.source_of(child, ["source=doubles"]) == "doubles"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("licence: mine\n", "has no `source`"),
        ("source: video\n", "did you mean `videos`"),
        ("extends: c.yaml\n", "circle"),
        ("source: [a\n", "not readable as YAML"),
    ],
)
def test_an_unknown_or_missing_source_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        preprocess.source_of(write(tmp_path, text))


def test_every_problem_of_the_settings_is_reported_at_once():
    wrong = [
        "clip.frames=16",
        "clip.height=127",
        "pose.backend=rtm_onnx",
        "split.val_fraction=1.5",
        "framing.margin=-1",
    ]
    with pytest.raises(ConfigError) as caught:
        preprocess.load(CONFIG, ["input=in", "output=out", *wrong])
    text = str(caught.value)
    for key in ("clip.frames", "clip.height", "pose.detector", "split.val_fraction", "framing.margin"):
        assert key in text
    with pytest.raises(ConfigError, match="did you mean `frames`"):
        preprocess.load(CONFIG, ["input=in", "output=out", "clip.frame=17"])


@pytest.mark.parametrize("name", ["videos", "videos_256", "videos_wan"])
def test_every_shipped_size_loads(name):
    _, config = preprocess.load(f"configs/data/{name}.yaml", ["input=in", "output=out"])
    assert config.clip.frames % 4 == 1 and config.clip.height % 32 == 0 and config.clip.width % 16 == 0


def test_every_setting_that_a_reason_names_exists():
    """The report tells people which setting to change."""
    from data_pipeline.reporting.reasons import REASONS
    from imanim.config import to_dict

    settings = to_dict(VideosConfig(input="in", output="out"))
    for reason in REASONS.values():
        for name in re.findall(rf"\b(?:{'|'.join(settings)})\.[a-z_]+", reason.setting):
            place = settings
            for part in name.split("."):
                assert part in place, f"{reason.setting}: no setting {name}"
                place = place[part]


def test_every_rule_s_reason_is_explained():
    from data_pipeline.quality.clip import RULES
    from data_pipeline.reporting.reasons import REASONS

    for reason, _, threshold, _ in RULES:
        assert threshold in REASONS[reason].setting, f"{reason}: names {REASONS[reason].setting}, not {threshold}"
