"""The launcher of the reader: trains, measures, continues, and refuses what does not fit."""

import pytest
from test_reader import portrait

from imanim.data.files import read_json
from imanim.data.sample import encode
from imanim.data.shards import write_manifest, write_shard
from imanim.errors import InputError
from launchers.train_reader import main


@pytest.fixture
def command(tmp_path):
    write_shard(tmp_path / "data", "train", 0, [("s0", encode(portrait()))])
    write_manifest(tmp_path / "data", {})
    few = [f"{name}.{key}" for name in ("frame", "face") for key in ("steps=2", "decay_steps=1", "batch_frames=2")]
    return [f"data.train={tmp_path / 'data'}", "data.test_splits=[train]", f"output={tmp_path / 'out'}", *few]


def test_it_trains_measures_and_keeps_to_its_settings(command, tmp_path, capsys):
    assert main(command) == 0
    record = read_json(tmp_path / "out" / "record.json")
    assert record["trained_on"]["portraits"]["clips"] == 2 and record["parameters"] > 1e6
    assert set(record["errors"]["train"]) == {"true", "blur", "coarse", "noise", "blocks", "pale", "tinted", "ghost"}
    assert 0 <= record["errors"]["train"]["true"]["mask_iou"] <= 1 and "train, ghost: " in capsys.readouterr().out
    again = [*command, f"measure_only={tmp_path / 'out' / 'reader.safetensors'}"]
    assert main(again) == 0
    assert read_json(tmp_path / "out" / "record.json")["reader_sha256"] == record["reader_sha256"]
    with pytest.raises(InputError, match="other settings"):
        main([*command, "frame.seed=3"])


def test_words_alone(command, tmp_path, capsys):
    assert main([*command, "--dry-run"]) == 0 and main(["--settings"]) == 0
    assert "would train 2 + 2 steps" in capsys.readouterr().out and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="strongest"):
        main([*command, "face.strongest=2"])
