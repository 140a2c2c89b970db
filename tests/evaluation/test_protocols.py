"""Protocols: which samples they name, what they refuse, and that their hash is of everything that counts."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evaluation.benchmark import EvalConfig
from evaluation.choosing import spread
from evaluation.protocols import guard, sources
from evaluation.protocols.config import ProtocolConfig, SourceConfig
from evaluation.protocols.items import Item, at_rate, fingerprint
from evaluation.protocols.sizes import made_at, resized
from imanim import config
from imanim.data.video import write_png, write_video
from imanim.errors import ConfigError, InputError

FILES = sorted((Path(__file__).resolve().parents[2] / "configs/eval").glob("*.yaml"))


def frames(count: int = 6, height: int = 64, width: int = 48, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (count, 4, 3, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height))) for f in small])


def protocol(kind: str, **more) -> ProtocolConfig:
    source = more.pop("source", {})
    return ProtocolConfig("p", 1, SourceConfig(kind, **source), metrics=["psnr"], **more)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_shipped_protocol_is_readable(path):
    cfg = config.load(EvalConfig, path, ["data=x"])
    assert cfg.protocol.name.replace("-", "_") == path.stem
    assert cfg.protocol.metrics or cfg.protocol.leakage is not None


@given(
    st.integers(1, 200),
    st.sampled_from([12.0, 24.0, 25.0, 29.97, 30.0]),
    st.sampled_from([None, 8.0, 12.0, 16.0, 30.0, 60.0]),
)
def test_a_rate_is_reached_by_showing_what_is_on_screen(count, fps, wanted):
    chosen = at_rate(count, fps, wanted)
    assert chosen == sorted(chosen) and chosen[0] >= 0 and chosen[-1] < count
    rate = wanted or fps
    assert abs(len(chosen) - count * rate / fps) <= 1
    for k, i in enumerate(chosen):
        assert i / fps <= k / rate + 1e-6 < (i + 1) / fps + 1e-3


def test_clips_are_spread_evenly():
    assert spread(10, 3) == [1, 5, 8] and spread(4, None) == spread(4, 9) == [0, 1, 2, 3] and spread(5, 0) == []


def test_clips_are_their_own_truth_and_one_frame_shows_the_character(tmp_path):
    for i, name in enumerate(("000", "001", "other")):
        write_video(tmp_path / f"{name}.mp4", frames(seed=i), 12)
    chosen = protocol("clips", source={"clips": ["000", "001"], "character_frame": 2}, frames=4, size=[32, 24])
    items = sources.items(chosen, str(tmp_path))
    assert [item.key for item in items] == ["000", "001"]
    material = items[1].load()
    assert material.truth.shape == (4, 32, 24, 3) and material.fps == 12
    np.testing.assert_array_equal(material.character, material.truth[2])
    assert guard.check(chosen, items) is None


def test_a_clip_that_the_protocol_names_must_be_there(tmp_path):
    write_video(tmp_path / "000.mp4", frames(), 12)
    with pytest.raises(InputError, match="lacks 1 of the 2 clips that p measures: 001"):
        sources.items(protocol("clips", source={"clips": ["000", "001"]}), str(tmp_path))


def test_too_few_frames_and_a_character_behind_the_end_are_refused(tmp_path):
    write_video(tmp_path / "a.mp4", frames(), 12)
    (item,) = sources.items(protocol("clips", frames=9), str(tmp_path))
    with pytest.raises(InputError, match="6 frames, the protocol wants 9"):
        item.load()
    (item,) = sources.items(protocol("clips", source={"character_frame": 7}), str(tmp_path))
    with pytest.raises(InputError, match="the character is to be frame 7"):
        item.load()


def pairs_folder(folder, characters=("anna", "bob"), drivers=("dance", "walk")):
    for i, name in enumerate(characters):
        write_png(folder / "characters" / f"{name}.png", frames(1, seed=i)[0])
    for i, name in enumerate(drivers):
        write_video(folder / "drivers" / f"{name}.mp4", frames(8, 32, 32, seed=9 + i), 12)
    return folder


def test_pairs_go_one_by_one_or_each_with_each(tmp_path):
    pairs_folder(tmp_path)
    keys = [i.key for i in sources.items(protocol("pairs"), str(tmp_path))]
    assert keys == ["anna--dance", "bob--walk"]
    items = sources.items(protocol("pairs", source={"grid": True}, size=[32, 24], fps=6), str(tmp_path))
    assert len(items) == 4 and {i.unit for i in items} == {"dance", "walk"}
    material = items[0].load()
    assert material.truth is None and material.size == (32, 24) and len(material.driving) == 4 and material.fps == 6


def test_a_pairs_file_names_people_and_one_who_drives_himself_is_refused(tmp_path):
    import json

    pairs_folder(tmp_path)
    entry = {"character": "anna.png", "driver": "dance.mp4", "person": "anna", "driver_person": "bob", "key": "first"}
    (tmp_path / "pairs.json").write_text(json.dumps([entry, {**entry, "key": "second", "driver_person": "anna"}]))
    chosen = protocol("pairs")
    items = sources.items(chosen, str(tmp_path))
    assert [i.key for i in items] == ["first", "second"]
    with pytest.raises(InputError, match=r"1 of 2 samples drive themselves \(second\)"):
        guard.check(chosen, items)
    (tmp_path / "pairs.json").write_text(json.dumps([{**entry, "colour": 1}]))
    with pytest.raises(InputError, match="pair 0"):
        sources.items(chosen, str(tmp_path))
    (tmp_path / "pairs.json").write_text(json.dumps([{**entry, "character": "carl.png"}]))
    with pytest.raises(InputError, match=r"carl.png: no such file"):
        sources.items(chosen, str(tmp_path))


def test_characters_and_drivers_that_cannot_be_paired_are_refused(tmp_path):
    pairs_folder(tmp_path, characters=("anna",))
    with pytest.raises(InputError, match="1 characters and 2 drivers"):
        sources.items(protocol("pairs"), str(tmp_path))


def test_made_videos_of_another_size_follow_the_rule():
    made = frames(2, 128, 96)
    with pytest.raises(InputError, match="96x128 pixels, measured at 48x64; this protocol resizes nothing"):
        made_at("x", made, (64, 48), "refuse")
    assert made_at("x", made, (64, 48), "bicubic").shape == (2, 64, 48, 3)
    with pytest.raises(InputError, match="another aspect"):
        made_at("x", frames(2, 128, 128), (64, 48), "bicubic")
    np.testing.assert_array_equal(
        resized(made, [64, 48])[0], np.asarray(Image.fromarray(made[0]).resize((48, 64), Image.Resampling.BICUBIC))
    )


def test_the_samples_hash_is_of_keys_contents_and_order():
    def items(*keys, content="a"):
        return [Item(key, lambda: None, {"clip": content}) for key in keys]

    found = [fingerprint(items("a", "b")), fingerprint(items("b", "a")), fingerprint(items("a", "b", content="c"))]
    assert len(set(found)) == 3 and found[0] == fingerprint(items("a", "b"))


@pytest.mark.parametrize(
    "override, says",
    [
        ("protocol.metrics=[psnr,fidd]", "`fidd` is unknown"),
        ("protocol.metrics=[psnr,psnr]", "named twice"),
        ("protocol.metric_settings.fid={}", "no such metric"),
        ("protocol.baselines=[still]", "`still` is unknown"),
        ("protocol.size=[8,8]", "at least 16"),
        ("protocol.frames=1", "at least 2"),
        ("protocol.source.kind=folder", "one of shards, clips, pairs"),
        ("predictions=x", "give one of them"),
    ],
)
def test_settings_that_make_no_sense_are_refused(override, says):
    with pytest.raises(ConfigError, match=says):
        config.load(EvalConfig, FILES[0].parent / "doubles_quick.yaml", [override, "model=y"])
