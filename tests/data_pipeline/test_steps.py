"""Keys of steps: what depends on a setting changes with it, and nothing else does."""

import pytest

from data_pipeline.config import VideosConfig
from data_pipeline.video.steps import STEPS, keys

MODELS = {"people": {"pose.tflite": "aa"}, "face": {"face.tflite": "bb"}, "identity": {"id.dat": "cc"}}


def changed(models=MODELS, **settings):
    """The steps whose keys differ from the default's."""
    config = VideosConfig(input="in", output="out")
    for name, value in settings.items():
        *path, last = name.split("__")
        place = config
        for part in path:
            place = getattr(place, part)
        assert getattr(place, last) != value
        setattr(place, last, value)
    before, after = keys(VideosConfig(input="in", output="out"), MODELS), keys(config, models)
    return [step for step in STEPS if before[step] != after[step]]


FROM_PEOPLE = ["people", "pose", "face", "quality", "identity", "clips", "samples"]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"input": "elsewhere", "output": "too", "workers": 7, "samples_per_shard": 9, "extensions": ["mp4"]}, []),
        ({"split__val_fraction": 0.5}, []),
        ({"limits__memory_gb": 1.0}, []),
        ({"clip__crf": 30}, ["clips", "samples"]),
        ({"licence": "mine"}, ["samples"]),
        ({"clip__frames": 33}, ["clips", "samples"]),
        ({"framing__margin": 0.2}, ["clips", "samples"]),
        ({"pose__smoothing": 0.02}, ["pose", "clips", "samples"]),
        ({"face__min_score": 0.6}, ["face", "identity", "clips", "samples"]),
        ({"identity__faces_per_track": 9}, ["identity", "clips", "samples"]),
        ({"pose__min_person_score": 0.6}, FROM_PEOPLE),
        ({"clip__fps": 10.0}, ["shots", *FROM_PEOPLE]),
        ({"max_side": 640}, ["shots", *FROM_PEOPLE]),
    ],
)
def test_a_setting_changes_the_steps_that_depend_on_it(settings, steps):
    assert changed(**settings) == steps


def test_another_network_changes_its_step_and_those_behind_it():
    assert changed({**MODELS, "face": {"face.tflite": "dd"}}) == ["face", "identity", "clips", "samples"]


def test_where_a_network_lies_does_not_matter():
    assert changed(pose__detector="elsewhere/pose.tflite") == []
