"""What the tracer sees, against cases small enough to be counted by hand."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import toy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from imanim import config
from imanim.models import sizes
from imanim.models.config import AnimatorConfig, DenoiserConfig
from imanim.training import trace
from imanim.training.config import TrainConfig
from imanim.training.trace import Recorder, Trace

ROWS, WIDTH = 8, 64
ACTIVATION, WEIGHT = ROWS * WIDTH * 4, WIDTH * WIDTH * 4
LAYER_FLOPS = 2 * ROWS * WIDTH * WIDTH


def chain(checkpointed: bool) -> tuple[Recorder, int]:
    """Four linear layers without bias, forward and backward, checkpointed in pairs. Returns the forward operations' number too."""
    recorder = Recorder(("model", "losses"))
    with FakeTensorMode():
        layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)]
        for i, layer in enumerate(layers):
            recorder.own(layer.weight, "model", i)
            layer.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        with recorder:
            x = torch.ones(ROWS, WIDTH)
            if checkpointed:
                for a, b in zip(layers[::2], layers[1::2]):
                    x = checkpoint(nn.Sequential(a, b), x, use_reentrant=False)
            else:
                for layer in layers:
                    x = layer(x)
            loss = x.sum()
            del x
            forward_end = recorder.ops
            recorder.backward = True
            loss.backward()
    return recorder, forward_end


def test_a_chain_of_layers_keeps_the_input_of_each():
    recorder, forward_end = chain(checkpointed=False)
    live = recorder.live.sum(1)
    assert live[forward_end - 1] == 5 * ACTIVATION + 4  # the last output goes once the loss is there
    # The last layer's turn: four inputs, loss and its gradient, the weight's gradient, the input's.
    assert live.max() == 4 * ACTIVATION + 8 + WEIGHT + ACTIVATION


def test_a_checkpointed_chain_keeps_one_input_a_pair_and_peaks_lower():
    recorder, forward_end = chain(checkpointed=True)
    live = recorder.live.sum(1)
    assert live[forward_end - 1] == 3 * ACTIVATION + 4
    assert live.max() == 3 * ACTIVATION + 8 + WEIGHT + ACTIVATION
    assert live.max() < chain(checkpointed=False)[0].live.sum(1).max()


@pytest.mark.parametrize(("checkpointed", "recomputed"), [(False, 0), (True, 2)])
def test_operations_are_told_apart(checkpointed: bool, recomputed: int):
    """Recomputing stops at what is needed: the second layer of a pair need not run again. The first input wants no gradient."""
    flops = {kind: sum(by.values()) for kind, by in chain(checkpointed)[0].flops.items()}
    expected = {"forward": 4, "recomputed": recomputed, "backward": 7, "frozen": 0}
    assert flops == {kind: layers * LAYER_FLOPS for kind, layers in expected.items()}


def test_what_runs_without_gradients_is_counted_apart():
    recorder = Recorder(("losses",))
    with FakeTensorMode(), recorder, torch.no_grad():
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert {kind: sum(by.values()) for kind, by in recorder.flops.items() if sum(by.values())} == {
        "frozen": 2 * 3 * 5 * 7
    }


def seen(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Recorder:
    recorder = Recorder(("losses",))
    with FakeTensorMode():
        inputs = [torch.zeros(shape, requires_grad=True) for shape in shapes]
        with recorder:
            out = function(*inputs).sum()
            recorder.backward = True
            out.backward()
    return recorder


def test_a_convolution_is_counted_by_hand():
    flops = seen(lambda x, w: F.conv2d(x, w, padding=1), (2, 3, 10, 12), (5, 3, 3, 3)).flops
    forward = 2 * (2 * 5 * 10 * 12) * (3 * 3 * 3)
    assert flops["forward"]["losses"] == forward and flops["backward"]["losses"] == 2 * forward


@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_a_long_sequence_is_counted_and_never_holds_its_square(masked: bool):
    heads, length, width = 2, 4096, 32

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ones(1, 1, 1, length, dtype=torch.bool) if masked else None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    recorder = seen(attend, *[(1, heads, length, width)] * 3)
    two_products = 2 * (2 * heads * length * length * width)
    assert recorder.flops["forward"]["losses"] == two_products
    assert recorder.flops["backward"]["losses"] == 2.5 * two_products  # three gradients, and the scores once more
    assert recorder.live.sum(1).max() < heads * length * length  # bytes: not even one bit a score would do otherwise


# ----------------------------------------------------------------------------------------------------- whole stages

TINY = sizes.load(
    "tiny",
    {
        "tokenizer": {"stem_blocks": 0, "tokens": 16},
        "retargeter": {"reference_tokens": False},
        "denoiser": {"outlet_blocks": 0},
    },
)


def settings(stage: int, *overrides: str) -> TrainConfig:
    words = ["model=tiny", "data.train=x", "init_from=y", "batch.global_size=1", *overrides]
    return config.load(TrainConfig, f"configs/stage{stage}.yaml", words)


def small(**denoiser: Any) -> AnimatorConfig:
    changed = {"heads": 2, "head_dim": 16, "layers": 2, "ffn_dim": 64, **denoiser}
    return dataclasses.replace(TINY, height=32, width=16, frames=5, denoiser=DenoiserConfig(**changed))


@pytest.fixture(scope="module", autouse=True)
def in_the_repository(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        yield


@functools.cache
def traced_stage3(*overrides: str, **denoiser: Any) -> Trace:
    return trace.run(settings(3, *overrides), small(**denoiser), 1)


def peak(traced: Trace) -> int:
    return int(traced.live.sum(1).max())


@pytest.mark.parametrize("precision", ["fp32", "autocast_bf16", "bf16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_is_traced_and_leaves_nothing_but_its_batch(stage: int, precision: str):
    traced = trace.run(settings(stage, f"deepspeed.precision={precision}"), small(), 1)
    left = dict(zip(traced.owners, traced.live[-1].tolist()))
    frames = 2 * 5 * 3 * 32 * 16 * 4
    assert frames <= left.pop("batch") < 1.2 * frames
    assert sum(left.values()) < 1000
    trained = {i for i, w in enumerate(traced.weights) if w.trained}
    finished = [number for _, number in traced.ready]
    assert len(finished) == len(set(finished)) and set(finished) <= trained
    assert len(finished) > 0.9 * len(trained)  # a head that no loss reads has no gradient


def test_a_traced_gradient_is_a_real_gradient():
    """What the trace says finishes a gradient are the parameters that have one after a real pass."""
    cfg, model, traced = settings(3), small(), traced_stage3()
    from imanim.data.dice import Dice
    from imanim.training import hollow
    from imanim.training.objective import TrainingModule
    from imanim.training.transfer import build_empty

    animator = build_empty(cfg, model)
    module = TrainingModule(animator, 3, cfg.objective, total_steps=1, vae=hollow.autoencoder(model))
    module(hollow.batch(model, 1), Dice(0, 0, range(1)), 1).total.backward()
    real = {name for name, p in animator.named_parameters() if p.grad is not None}
    assert {traced.weights[number].name for _, number in traced.ready} == real


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_frozen_weights_are_those_that_the_stage_freezes(lora_rank: int):
    traced = traced_stage3(**({"lora_rank": lora_rank} if lora_rank else {}))
    trained = {part: {w.trained for w in traced.weights if w.part == part} for part in traced.owners}
    assert trained["motion_decoder"] == {False} and trained["retargeter"] == {True}
    assert trained["denoiser"] == ({True, False} if lora_rank else {True})


def test_memory_and_operations_grow_by_the_same_with_every_block():
    """Blocks are alike, so what is traced is linear in their number, exactly: a check of the trace as a whole."""
    two, four, six = (traced_stage3("parts.expression.mode=absent", layers=n) for n in (2, 4, 6))

    def at_turn(t: Trace) -> int:
        return int(t.live[t.forward_end - 1].sum())

    assert at_turn(six) - at_turn(four) == at_turn(four) - at_turn(two) > 0
    assert six.total_flops() - four.total_flops() == four.total_flops() - two.total_flops() > 0


def test_gradient_checkpointing_lowers_the_peak_and_costs_a_forward_pass():
    cfg = settings(3, "parts.expression.mode=absent", "parts.motion_decoder.mode=absent")
    models = [
        dataclasses.replace(
            TINY, denoiser=dataclasses.replace(TINY.denoiser, layers=4, gradient_checkpointing=checkpointing)
        )
        for checkpointing in (False, True)
    ]
    plain, checkpointed = (trace.run(cfg, model, 1) for model in models)
    assert peak(checkpointed) < 0.85 * peak(plain)
    assert plain.total_flops("recomputed") == 0
    blocks = plain.flops["forward"]["denoiser"]
    assert 0.7 * blocks < checkpointed.total_flops("recomputed") < blocks
    for kind in ("forward", "backward", "frozen"):
        assert checkpointed.total_flops(kind) == plain.total_flops(kind)


def test_twice_the_samples_take_twice_the_operations_and_nearly_twice_the_memory():
    one, two = (trace.run(settings(2), small(), n) for n in (1, 2))
    assert two.total_flops() == 2 * one.total_flops()
    assert 1.8 * peak(one) < peak(two) <= 2 * peak(one)


def test_bfloat16_halves_most_activations():
    full, half = (trace.run(settings(2, f"deepspeed.precision={p}"), small(), 1) for p in ("fp32", "bf16"))
    index = full.owners.index("retargeter")
    assert half.live[:, index].max() < 0.65 * full.live[:, index].max()


def test_autograd_holds_views_of_weights_from_their_use_to_their_backward_use():
    """Linear layers save a transposed view: their weights stay in memory whatever ZeRO-3 does. Recomputed ones only in between."""
    plain = traced_stage3()
    spans = {plain.weights[number].name: (start, stop) for start, stop, number in plain.held}
    start, stop = spans["denoiser.transformer.blocks.0.ffn.net.2.weight"]
    assert start < plain.forward_end < stop
    again = traced_stage3(gradient_checkpointing=True)
    spans = {again.weights[number].name: (start, stop) for start, stop, number in again.held}
    start, stop = spans["denoiser.transformer.blocks.0.ffn.net.2.weight"]
    assert again.forward_end <= start < stop


def image_to_video() -> AnimatorConfig:
    """A small DiT with the whole encoders of Wan 2.1's image-to-video."""
    base = sizes.load("wan2.1-i2v-14b", {"base": "/nowhere"})
    changed = {"heads": 2, "head_dim": 16, "layers": 2, "ffn_dim": 64, "text_dim": 16, "freq_dim": 16}
    return dataclasses.replace(
        TINY,
        height=32,
        width=32,
        frames=5,
        latent_channels=16,
        base=base.base,
        autoencoder=base.autoencoder,
        denoiser=dataclasses.replace(base.denoiser, **changed),
    )


def test_a_base_that_is_not_on_disk_is_built_from_published_sizes():
    traced = trace.run(settings(3), image_to_video(), 1)
    assert traced.frozen == {"autoencoder": 126_892_531, "image_encoder": 630_766_080}
    assert traced.flops["frozen"]["image_encoder"] > 0 and traced.flops["frozen"]["autoencoder"] > 0


@pytest.mark.parametrize("stage", [2, 3])
def test_cached_latents_leave_every_other_operation_as_it_is_and_no_encoder(stage: int):
    model = image_to_video()
    plain, cached = (trace.run(settings(stage, f"data.latents={how}"), model, 1) for how in ("auto", "use"))
    assert len(plain.frozen) == stage - 1 and cached.frozen == {}
    for name in plain.frozen:
        assert plain.flops["frozen"].pop(name) > 0 and cached.flops["frozen"].pop(name) == 0
    assert plain.flops == cached.flops


def test_the_toy_of_the_training_tests_is_traced_from_its_own_autoencoder(tmp_path: Any):
    path = toy.write_model(tmp_path)
    model = sizes.load(str(path))
    traced = trace.run(settings(2, f"model={path}"), model, 1)
    assert set(traced.frozen) == {"autoencoder"} and traced.frozen["autoencoder"] > 0
