"""The export command: half the size, the same model, what made it kept."""

import stat
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "models")]

from sizes import mini, mini_batch  # noqa: E402

from imanim.errors import InputError  # noqa: E402
from imanim.models import files  # noqa: E402
from imanim.models.animator import Animator  # noqa: E402
from launchers import export  # noqa: E402


def test_an_exported_model_is_half_as_large_and_nearly_the_same(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    animator = Animator(mini()).eval()
    animator.save_pretrained(tmp_path / "run" / "model", record={"steps": 7})
    export.main(["--model", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    assert "bfloat16" in capsys.readouterr().out
    before, after = files.read_index(tmp_path / "run" / "model"), files.read_index(tmp_path / "out")
    assert after.record == {"steps": 7} and after.config == before.config
    assert after.sizes_bytes["denoiser"] < 0.75 * before.sizes_bytes["denoiser"]
    assert after.sizes_bytes["codebook"] == before.sizes_bytes["codebook"]
    again = Animator.from_pretrained(tmp_path / "out").eval()
    batch = mini_batch()
    tokens = [a.motion_tokens(batch["driving"], vq=False).z for a in (animator, again)]
    assert tokens[1].dtype == torch.float32 and torch.allclose(tokens[0], tokens[1], atol=0.05)
    mode = stat.S_IMODE((tmp_path / "out" / "denoiser" / files.WEIGHTS).stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "out" / files.INDEX).stat().st_mode)


def test_the_steps_that_suit_the_weights_go_with_them(tmp_path) -> None:
    Animator(mini()).save_pretrained(tmp_path / "run" / "model")
    export.main(["--model", str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--sampling-steps", "3"])
    assert files.read_index(tmp_path / "out").config.denoiser.sampling_steps == 3
    with pytest.raises(InputError, match="at least 1"):
        export.main(["--model", str(tmp_path / "run"), "--output", str(tmp_path / "no"), "--sampling-steps", "0"])


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="--overwrite"):
        export.main(["--model", str(tmp_path), "--output", str(tmp_path / "out")])


def test_a_folder_without_a_model_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="holds no finished model"):
        export.main(["--model", str(tmp_path), "--output", str(tmp_path / "out")])
