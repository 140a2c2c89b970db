"""The pipeline with random weights: shapes, alignment, seeds and refusals."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from small_model import moving_square, save_model, small_animator, small_vae

from imanim.errors import InputError
from imanim.inference.pipeline import AnimationPipeline
from imanim.models.animator import Animator, Conditions


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    made = AnimationPipeline(small_animator(), small_vae(), FlowMatchEulerDiscreteScheduler(shift=1.0))
    made.set_progress_bar_config(disable=True)
    return made


def animate(pipeline, frames=12, size=(96, 64), **options):
    character = moving_square(1, 70, 50)[0]
    return pipeline(character, moving_square(frames, *size), steps=2, **options).frames


@pytest.mark.parametrize("frames", [5, 8, 9, 10, 21])
def test_there_is_one_frame_for_every_driving_frame(pipeline, frames):
    out = animate(pipeline, frames)
    assert out.shape == (frames, 64, 46, 3) and out.dtype == np.uint8


def test_the_output_has_the_characters_aspect_and_even_sides(pipeline):
    out = pipeline(moving_square(1, 50, 200)[0], moving_square(6), steps=1).frames
    assert out.shape[1:3] == (12, 48)


def test_the_seed_decides(pipeline):
    assert np.array_equal(animate(pipeline, seed=3), animate(pipeline, seed=3))
    assert not np.array_equal(animate(pipeline, seed=3), animate(pipeline, seed=4))


def test_the_driver_and_the_character_matter(pipeline):
    character, driving = moving_square(1)[0], moving_square(9)
    out = pipeline(character, driving, steps=2).frames
    assert not np.array_equal(out, pipeline(character, driving[::-1].copy(), steps=2).frames)
    assert not np.array_equal(out, pipeline(255 - character, driving, steps=2).frames)


def test_streaming_gives_the_same_frames_and_takes_a_window_at_a_time(pipeline):
    character, driving = moving_square(1, 64, 48)[0], moving_square(21, 64, 48)
    taken = []

    class Watched:
        def __len__(self):
            return len(driving)

        def __getitem__(self, where):
            taken.append(where.stop - where.start)
            return driving[where]

    streamed = np.stack(list(pipeline.stream(character, Watched(), steps=2)))
    assert np.array_equal(streamed, pipeline(character, driving, steps=2).frames)
    assert max(taken) == 9


def test_given_face_boxes_replace_the_ones_found(pipeline):
    character, driving = moving_square(1, 64, 48)[0], moving_square(9, 64, 48)
    boxes = np.tile(np.array([0.1, 0.1, 0.5, 0.4], np.float32), (9, 1))
    with torch.no_grad():
        for block in pipeline.animator.expression.blocks.values():
            block.gate.fill_(1.0)
    clip = torch.from_numpy(driving).movedim(-1, -3)[None].float() / 255
    identity = pipeline.encode_character(clip[:, 0])
    given = pipeline.read_motion(clip, identity, torch.from_numpy(boxes)[None])
    found = pipeline.read_motion(clip, identity)
    assert torch.equal(given.faces[0], torch.from_numpy(boxes)) and not torch.equal(given.faces, found.faces)
    with_boxes = pipeline(character, driving, faces=boxes, steps=1).frames
    assert not np.array_equal(with_boxes, pipeline(character, driving, steps=1).frames)


def test_without_a_number_the_model_takes_the_steps_that_suit_it(pipeline, monkeypatch):
    character, driving = moving_square(1)[0], moving_square(6)
    monkeypatch.setattr(pipeline.animator.config.denoiser, "sampling_steps", 3)
    assert np.array_equal(pipeline(character, driving).frames, pipeline(character, driving, steps=3).frames)
    assert not np.array_equal(pipeline(character, driving).frames, pipeline(character, driving, steps=1).frames)


def test_euler_steps_solve_a_known_flow_exactly(pipeline, monkeypatch):
    # A straight flow (velocity eps - x0 for a fixed x0) is solved by any number of Euler steps.
    clean, noise = torch.randn(1, 6, 3, 8, 6), torch.randn(1, 6, 3, 8, 6)
    sigmas = []

    def velocity(x, sigma, _):
        sigmas.append(float(sigma))
        return (x - clean) / sigma.view(-1, 1, 1, 1, 1)

    monkeypatch.setattr(pipeline.animator, "velocity", velocity)
    out = pipeline.sample(Conditions(clean, clean, None), noise, 5)
    assert torch.allclose(out, clean, atol=1e-5)
    assert sigmas == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_the_retargeted_joints_are_read_for_every_pixel_frame(pipeline):
    clip = torch.rand(2, 9, 3, 64, 48)
    motion = pipeline.read_motion(clip, pipeline.encode_character(clip[:, 0]))
    assert motion.joints.shape == (2, 9, 20, 2) and motion.driving_joints.shape == (2, 9, 20, 2)
    assert motion.faces.shape == (2, 9, 4)


def test_too_few_frames_and_bad_settings_are_refused(pipeline):
    with pytest.raises(InputError, match="4 frames"):
        animate(pipeline, 4)
    with pytest.raises(InputError, match="overlap"):
        animate(pipeline, 20, overlap_frames=9)
    with pytest.raises(InputError, match="at least 1"):
        pipeline(moving_square(1)[0], moving_square(6), steps=0)


def test_a_saved_model_animates_as_the_one_in_memory(tmp_path):
    torch.manual_seed(0)
    pipeline = AnimationPipeline.from_pretrained(save_model(tmp_path))
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    in_memory = AnimationPipeline(pipeline.animator, small_vae(), FlowMatchEulerDiscreteScheduler(shift=1.0))
    in_memory.set_progress_bar_config(disable=True)
    assert np.array_equal(animate(pipeline), animate(in_memory))


def test_a_model_of_an_earlier_stage_is_refused(tmp_path):
    parts = ("tokenizer_encoder", "codebook", "motion_decoder")
    Animator(small_animator().config, parts).save_pretrained(tmp_path / "stage1")
    with pytest.raises(InputError, match=r"has no retargeter, denoiser.*stage 3"):
        AnimationPipeline.from_pretrained(tmp_path / "stage1")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        AnimationPipeline.from_pretrained(tmp_path / "nowhere")
