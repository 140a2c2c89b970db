"""Joints and codes of the tokens, against the animation pipeline's own reading and NumPy."""

import numpy as np
import pytest
import torch
from protocol_samples import sample, save_model, write_data

from evaluation.evidence import tokens
from imanim.data.sample import decode
from imanim.data.shards import ShardSet
from imanim.errors import InputError
from imanim.inference.pipeline import AnimationPipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = [sample(i) for i in range(4)]
    made[1].driving_joints[:, 0] = (1.5, 0.5, 1.0)  # outside the frame: it does not count
    return write_data(tmp_path_factory.mktemp("data"), made)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def test_errors_and_codes_are_those_of_the_pipeline(data, model):
    found = tokens.measure(model, data, {"deciding": ["test"]}, batch_size=3, progress=False)
    assert found["scopes"]["deciding"] == found["scopes"]["all"]
    facts = found["scopes"]["all"]
    assert (facts["clips"], facts["motions"], facts["frames"]) == (4, 2, 36)

    pipeline = AnimationPipeline.from_pretrained(model)
    shards = ShardSet(data, "test")
    samples = [decode(*shards.read(i)) for i in range(len(shards))]
    codes, errors, truths = [], [], []
    for one in samples:
        frames = torch.from_numpy(one.driving).movedim(-1, 1).float()[None] / 255
        identity = pipeline.encode_character(torch.from_numpy(one.identity).movedim(-1, 0).float()[None] / 255)
        read = pipeline.read_motion(frames, identity).driving_joints[0].numpy()
        truth = one.joints_of_driver
        errors.append(_error(read, truth))
        truths.append(truth)
        with torch.inference_mode():
            codes.append(pipeline.animator.motion_tokens(frames).indices.numpy().ravel())
    assert facts["error"] == pytest.approx(np.mean(errors), rel=1e-4)
    low, high = facts["error_interval"]
    assert low <= facts["error"] <= high
    _, counts = np.unique(np.concatenate(codes), return_counts=True)
    share = counts / counts.sum()
    assert facts["codes_used"] == pytest.approx(100 * len(counts) / found["codes"], rel=1e-5)
    assert facts["perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    every = np.concatenate(truths)
    known = np.where(_counts(every)[..., None], every[..., :2], np.nan)
    mean = np.nanmean(known, 0)
    assert facts["mean_pose"] == pytest.approx(np.mean([_error(mean[None], t) for t in truths]), rel=1e-4)


def _counts(joints):
    return ((joints[..., :2] >= 0) & (joints[..., :2] < 1)).all(-1)


def _error(xy, truth):
    """Mean distance in % of the height, of frames 64 x 48."""
    off = np.linalg.norm((xy - truth[..., :2]) * (48 / 64, 1.0), axis=-1)
    return 100 * off[_counts(truth)].mean()


def test_a_split_that_is_not_there_is_named(data, model):
    with pytest.raises(InputError, match="unseen"):
        tokens.measure(model, data, {"deciding": ["unseen"]}, progress=False)
