"""Model sizes by name: found, laid over one another, counted; every file in configs/model is whole."""

from __future__ import annotations

import pytest

from imanim.errors import ConfigError
from imanim.models import sizes


@pytest.mark.parametrize("name", sizes.names())
def test_every_name_is_a_model_without_problems(name):
    cfg = sizes.load(name)
    height, width = cfg.latent_size
    assert (height * cfg.latent_stride, width * cfg.latent_stride) == (cfg.height, cfg.width)
    if name.startswith("wan"):
        assert cfg.tokenizer.encoder == "titok" and cfg.tokenizer.patch_head and cfg.frames == 81
        assert cfg.denoiser.text_tokens == 512 and cfg.denoiser.prediction == "velocity"


def test_later_names_and_settings_are_laid_over_earlier_ones(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("denoiser: {layers: 3}\nfps: 20\n")
    cfg = sizes.load(f"tiny, {mine}", {"denoiser": {"ffn_dim": 77}})
    assert (cfg.denoiser.layers, cfg.denoiser.ffn_dim, cfg.fps, cfg.denoiser.heads) == (3, 77, 20.0, 4)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"model: wan3: neither a file nor one of .*tiny.*wan2.1-14b"):
        sizes.load("tiny,wan3")


def test_the_two_halves_of_a14b_share_a_boundary():
    for kind in ("t2v", "i2v"):
        high, low = (sizes.load(f"wan2.2-{kind}-a14b-{half}").denoiser for half in ("high", "low"))
        assert high.sigma_range == (low.sigma_range[1], 1.0) and low.sigma_range[0] == 0.0
        assert (high.subfolder, low.subfolder) == ("transformer", "transformer_2")


def test_the_command_prints_parameters(capsys):
    assert sizes.main(["tiny"]) == 0
    assert "5,708,448" in capsys.readouterr().out.replace("  ", " ")
