"""The authors' layout: read bit-faithfully against PyTorch's own transformer layers and against numbers of the original code."""

from __future__ import annotations

import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sizes import mini, mini_batch
from torch import Tensor, nn
from torch.nn import functional as F

from imanim.errors import InputError
from imanim.models import released
from imanim.models.animator import Animator
from imanim.models.config import TokenizerConfig
from imanim.models.joints import frame_to_square
from imanim.models.quantizer import Codebook
from imanim.models.titok import TiTokEncoder

WIDTH, LAYERS, PATCH, GRID, K, D, N = 128, 2, 16, 4, 32, 12, 64
SIDE = PATCH * GRID


def layout(width: int, layers: int, grid: int, codes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the release's tensors, spelled out."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.patch_embed.weight": (width, 3, PATCH, PATCH),
        "encoder.patch_embed.bias": (width,),
        "encoder.class_embedding": (1, width),
        "encoder.positional_embedding": (grid * grid + 1, width),
        "encoder.latent_token_positional_embedding": (K, width),
        "encoder.conv_out.weight": (D, width, 1, 1),
        "encoder.conv_out.bias": (D,),
        "latent_tokens": (K, width),
        "quantize.embedding.weight": (codes, D),
    }
    for norm in ("encoder.ln_pre", "encoder.ln_post"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for i in range(layers):
        at = f"encoder.transformer.{i}."
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
        shapes |= {
            f"{at}attn.in_proj_weight": (3 * width, width),
            f"{at}attn.in_proj_bias": (3 * width,),
            f"{at}attn.out_proj.weight": (width, width),
            f"{at}attn.out_proj.bias": (width,),
            f"{at}mlp.c_fc.weight": (4 * width, width),
            f"{at}mlp.c_fc.bias": (4 * width,),
            f"{at}mlp.c_proj.weight": (width, 4 * width),
            f"{at}mlp.c_proj.bias": (width,),
        }
    return shapes


def random_release(seed: int = 0) -> dict[str, Tensor]:
    """Weights in the release's layout, from NumPy's frozen generator: the same on every platform and version."""
    rng, shapes = np.random.RandomState(seed), layout(WIDTH, LAYERS, GRID, N)
    weights = {name: rng.standard_normal(shapes[name]) * 0.15 for name in sorted(shapes)}
    scales = [name for name in weights if ".ln_" in name and name.endswith("weight")]
    weights |= {name: weights[name] + 1 for name in scales}
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}


def random_frames(seed: int = 1) -> Tensor:
    """Blocks of colour: unlike noise, they make different tokens."""
    blocks = np.random.RandomState(seed).rand(2, 3, 4, 4) ** 3
    return torch.from_numpy(np.kron(blocks, np.ones((SIDE // 4, SIDE // 4))).astype(np.float32))


def reference(w: dict[str, Tensor], frames: Tensor) -> tuple[Tensor, Tensor]:
    """docs/method.md's description of the release, with PyTorch's own encoder layers."""
    x = F.conv2d(frames, w["encoder.patch_embed.weight"], w["encoder.patch_embed.bias"], PATCH, padding=(4, 2))
    assert x.shape[-2:] == (GRID, GRID)
    x = torch.cat([w["encoder.class_embedding"].expand(len(frames), 1, -1), x.flatten(2).mT], 1)
    latent = (w["latent_tokens"] + w["encoder.latent_token_positional_embedding"]).expand(len(frames), -1, -1)
    x = torch.cat([x + w["encoder.positional_embedding"], latent], 1)
    x = F.layer_norm(x, (WIDTH,), w["encoder.ln_pre.weight"], w["encoder.ln_pre.bias"])
    for i in range(LAYERS):
        layer = nn.TransformerEncoderLayer(
            WIDTH, WIDTH // 64, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        names = {"attn": "self_attn", "mlp.c_fc": "linear1", "mlp.c_proj": "linear2", "ln_1": "norm1", "ln_2": "norm2"}
        state = {}
        for name, value in w.items():
            if name.startswith(f"encoder.transformer.{i}."):
                inner = name.removeprefix(f"encoder.transformer.{i}.")
                ours = next(k for k in names if inner.startswith(k + "."))
                state[names[ours] + inner.removeprefix(ours)] = value
        layer.load_state_dict(state)
        x = layer(x)
    x = F.layer_norm(x[:, -K:], (WIDTH,), w["encoder.ln_post.weight"], w["encoder.ln_post.bias"])
    x = F.conv2d(x.reshape(len(frames), WIDTH, K, 1), w["encoder.conv_out.weight"], w["encoder.conv_out.bias"])
    z, codes = F.normalize(x[..., 0], dim=1), F.normalize(w["quantize.embedding.weight"], dim=1)
    indices = torch.cdist(z.mT.double(), codes.double()).argmin(-1)
    return codes[indices].mT.unsqueeze(2), indices.unsqueeze(1)


@pytest.fixture
def release(tmp_path):
    path = tmp_path / "motion_encoder_latest.safetensors"
    save_file(random_release(), path)
    return path


def test_the_release_has_301_tensors_and_so_has_our_encoder_of_its_size():
    wanted = layout(1024, 24, 16, 4096)
    cfg = TokenizerConfig(
        encoder="titok", image_size=256, stem_patch=16, stem_convs=0, stem_padding=(4, 2), patch_head=False, width=1024,
        layers=24, heads=16, tokens=32, codes=4096, heatmap=64, decoder_grid=16,
    )  # fmt: skip
    assert cfg.problems() == [] and len(wanted) == 301
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in TiTokEncoder(cfg, 20).state_dict().items()}
    assert ours | {released.CODES: (4096, 12)} == wanted
    values = sum(int(np.prod(shape)) for shape in wanted.values())
    assert 0 < 607_017_208 - 2 * values < 100_000  # bytes of the release in bfloat16, less its header


def test_tokens_and_indices_equal_an_independent_reference(release):
    model, frames = released.load_motion_encoder(release), random_frames()
    tokens, indices = model.encode(frames)
    wanted, wanted_indices = reference(random_release(), frames)
    assert tokens.shape == (2, D, 1, K) and indices.shape == (2, 1, K)
    assert torch.equal(indices, wanted_indices) and len(indices.unique()) > 15
    torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=0)


def test_tokens_equal_what_the_original_code_said(release):
    """Recorded from TiTok's own TiTokEncoder and VectorQuantizer (bytedance/1d-tokenizer), its patch convolution padded (4, 2)."""
    tokens, indices = released.load_motion_encoder(release).encode(random_frames())
    assert indices[:, 0].tolist() == ORIGINAL_INDICES
    torch.testing.assert_close(tokens[0, :, 0, 0], torch.tensor(ORIGINAL_FIRST_TOKEN), atol=1e-5, rtol=0)


# fmt: off
ORIGINAL_INDICES = [
    [41, 50, 60, 1, 53, 37, 4, 1, 6, 39, 23, 44, 59, 38, 19, 41, 46, 36, 30, 40, 14, 50, 49, 20, 7, 41, 22, 1, 40, 3, 28, 10],
    [41, 50, 60, 1, 8, 37, 4, 1, 6, 39, 23, 15, 28, 38, 19, 41, 46, 60, 30, 40, 14, 50, 49, 20, 7, 41, 50, 53, 22, 3, 28, 10],
]
ORIGINAL_FIRST_TOKEN = [
    0.011815, -0.036961, 0.417922, -0.569436, 0.24207, -0.36911, 0.297977, 0.093817, 0.436903, 0.016733, -0.126406, 0.001829,
]
# fmt: on


def test_every_trap_matters(release, monkeypatch):
    """Without the padding, or with a transpose in place of the reshape, other codes come out: the tests above would see it."""
    frames, right = random_frames(), released.load_motion_encoder(release).encode(random_frames()).indices
    monkeypatch.setattr(released, "PADDING", (0, 0))
    assert (released.load_motion_encoder(release).encode(frames).indices != right).any()
    monkeypatch.undo()
    model = released.load_motion_encoder(release)

    def transposed(_: nn.Module, given: tuple[Tensor]) -> Tensor:
        return given[0].reshape(-1, K, WIDTH).mT.unsqueeze(-1)

    model.encoder.encoder.conv_out.register_forward_pre_hook(transposed)
    assert (model.encode(frames).indices != right).any()


def test_a_wrong_or_partial_file_is_refused_with_the_list(release, tmp_path):
    tensors = load_file(release)
    for name in ("latent_tokens", "encoder.transformer.1.mlp.c_fc.bias"):
        del tensors[name]
    tensors["encoder.extra"] = torch.zeros(3)
    save_file(tensors, tmp_path / "partial.safetensors")
    with pytest.raises(InputError) as error:
        released.load_motion_encoder(tmp_path / "partial.safetensors")
    assert "missing latent_tokens" in str(error.value) and "unknown encoder.extra [3]" in str(error.value)
    tensors = load_file(release)
    del tensors["encoder.transformer.1.mlp.c_fc.bias"]
    tensors["encoder.ln_post.weight"] = torch.zeros(7)
    save_file(tensors, tmp_path / "partial.safetensors")
    with pytest.raises(
        InputError, match=r"2 of 37 .*missing .*1.mlp.c_fc.bias \[512\]; .*ln_post.weight is \[7\], not"
    ):
        released.load_motion_encoder(tmp_path / "partial.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(release.read_bytes()[:1000])
    with pytest.raises(InputError, match="not readable as safetensors"):
        released.load_motion_encoder(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="no such file"):
        released.load_motion_encoder(tmp_path / "none.safetensors")


def test_frames_of_another_size_are_refused(release):
    with pytest.raises(InputError, match=r"\[2, 3, 32, 64\] instead of \[M, 3, 64, 64\]"):
        released.load_motion_encoder(release).encode(torch.rand(2, 3, 32, 64))


def test_writing_ours_gives_the_file_back(release, tmp_path):
    model = released.load_motion_encoder(release)
    released.save_motion_encoder(model.encoder, model.codebook, tmp_path / "again.safetensors", torch.float32)
    first, again = load_file(release), load_file(tmp_path / "again.safetensors")
    assert first.keys() == again.keys()
    for name in first.keys() - {released.CODES}:
        assert torch.equal(first[name], again[name]), name
    frames, read = random_frames(), released.load_motion_encoder(tmp_path / "again.safetensors")
    torch.testing.assert_close(read.encode(frames).tokens, model.encode(frames).tokens, atol=1e-6, rtol=0)


def test_an_encoder_trained_here_is_read_by_the_release(tmp_path):
    """A patch head stays at home; what is left is the release's layout, in bfloat16."""
    cfg = TokenizerConfig(
        encoder="titok", image_size=64, stem_patch=16, stem_convs=0, stem_padding=(4, 2), width=128, layers=1, heads=2,
        tokens=32, codes=16, heatmap=16, decoder_grid=4,
    )  # fmt: skip
    encoder, codebook = TiTokEncoder(cfg, 20), Codebook(16, 12)
    released.save_motion_encoder(encoder, codebook, tmp_path / "ours.safetensors")
    mode = stat.S_IMODE((tmp_path / "ours.safetensors").stat().st_mode)
    (tmp_path / "plain").touch()
    assert mode == stat.S_IMODE((tmp_path / "plain").stat().st_mode)  # not private, as safetensors leaves it
    tensors = load_file(tmp_path / "ours.safetensors")
    assert {name: tuple(v.shape) for name, v in tensors.items()} == layout(128, 1, 4, 16)
    assert {v.dtype for v in tensors.values()} == {torch.bfloat16}
    read = released.load_motion_encoder(tmp_path / "ours.safetensors").encoder
    torch.testing.assert_close(read.latent_tokens, encoder.latent_tokens, atol=1e-2, rtol=1e-2)


def test_the_release_becomes_the_first_parts_of_an_animator(release, tmp_path):
    model = released.load_motion_encoder(release)
    animator = released.to_animator(model, mini())
    animator.save_pretrained(tmp_path / "model")
    loaded = Animator.from_pretrained(tmp_path / "model")
    frames = mini_batch()["driving"]
    motion = loaded.motion_tokens(frames)
    wanted = model.encode(released.preprocess(frames.flatten(0, 1), SIDE))
    assert torch.equal(motion.indices.flatten(0, 1), wanted.indices[:, 0])
    with pytest.raises(InputError, match="patch_joints=0"):
        loaded.read_patch_joints(motion)


@pytest.mark.parametrize(("height", "width"), [(104, 60), (60, 104), (64, 64)])
def test_preprocessing_pads_whichever_side_is_short(height, width):
    """Portrait as the release does it; landscape the same, turned; points keep their places."""
    frames = torch.rand(1, 3, height, width)
    square = released.preprocess(frames, 32)
    side, pad = max(height, width), abs(height - width) // 2
    padded = F.pad(frames, (pad, pad, 0, 0) if height > width else (0, 0, pad, pad))
    assert padded.shape[-2:] == (side, side)
    torch.testing.assert_close(square, F.interpolate(padded, (32, 32), mode="bilinear", align_corners=False))
    torch.testing.assert_close(square, released.preprocess(frames.mT, 32).mT)
    corners = frame_to_square(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), height, width)
    assert corners.min() >= 0 and corners.max() <= 1


def test_it_trains_with_recomputed_blocks_too():
    cfg = TokenizerConfig(
        encoder="titok", image_size=32, stem_patch=8, stem_convs=0, width=32, layers=2, heads=2, tokens=4, heatmap=8,
        decoder_grid=4, gradient_checkpointing=True,
    )  # fmt: skip
    assert cfg.problems() == []
    encoder, frames = TiTokEncoder(cfg, 20), torch.rand(2, 3, 32, 32)
    z, features = encoder(frames)
    assert z.shape == (2, 4, 12) and features.shape == (2, 16, 32)
    z[..., 0].sum().backward()
    gradients = [p.grad for name, p in encoder.named_parameters() if not name.startswith("patch_head")]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)
    encoder.encoder.checkpointing = False
    torch.testing.assert_close(encoder(frames)[0], z)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem_padding": (8, 2)}, "half a patch"),
        ({"stem_convs": 1}, "stem_convs"),
        ({"encoder": "conv", "stem_convs": 0}, "only the encoder titok"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    cfg = TokenizerConfig(**{
        "encoder": "titok", "image_size": 64, "stem_patch": 16, "stem_convs": 0, "stem_padding": (4, 2),
        "heatmap": 24, "decoder_grid": 2,
        **change,
    })  # fmt: skip
    assert any(message in problem for problem in cfg.problems())
