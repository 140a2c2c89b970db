"""The feature cache: what is equal is made once, what is damaged is made again, and writers do not disturb each other."""

import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.features.cache import CachedFeatures, FeatureCache, key_of
from evaluation.metrics import frechet
from evaluation.metrics.base import FeatureSource
from imanim.errors import InputError


class Means:
    """A network that counts how often it runs: the mean of each frame's channels."""

    dim = 3

    def __init__(self, key="means-1"):
        self.key = key
        self.runs = 0

    def __call__(self, frames):
        self.runs += 1
        return frames.mean((1, 2), dtype=np.float64).astype(np.float32)


def clip(seed=0, frames=4):
    return np.random.default_rng(seed).integers(0, 256, (frames, 6, 8, 3), np.uint8)


@pytest.fixture(params=["folder", "memory"])
def cache(request, tmp_path):
    return FeatureCache(tmp_path / "features" if request.param == "folder" else None)


def test_the_same_frames_are_measured_once(cache):
    network = Means()
    first, again = cache.features(network, clip()), cache.features(network, clip())
    assert network.runs == 1
    assert first.dtype == np.float32 and (first == again).all() and (first == Means()(clip())).all()
    assert not first.flags.writeable


def test_other_frames_and_other_networks_are_measured_anew(cache):
    network = Means()
    for frames in (clip(0), clip(1), clip(0)[:3], clip(0)[:, :3], clip(0).reshape(4, 8, 6, 3)):
        cache.features(network, frames)
    assert network.runs == 5
    other = Means("means-2")
    cache.features(other, clip())
    assert other.runs == 1
    assert cache.size()[0] == 6


@given(st.text(min_size=1), st.text(min_size=1))
def test_keys_of_different_networks_differ(one, other):
    assert (key_of(Means(one), clip()) == key_of(Means(other), clip())) == (one == other)


def test_a_view_has_the_key_of_its_copy():
    frames = clip()[::2, ::-1]
    assert key_of(Means(), frames) == key_of(Means(), frames.copy())


def test_a_network_that_uses_its_buffer_again_does_no_harm(cache):
    class Reusing(Means):
        buffer = np.zeros((4, 3), np.float32)

        def __call__(self, frames):
            self.buffer[:] = super().__call__(frames)
            return self.buffer

    network = Reusing()
    first = cache.features(network, clip(0))
    cache.features(network, clip(1))
    assert (first == Means()(clip(0))).all()
    assert (cache.features(network, clip(0)) == first).all()


def test_a_later_process_finds_them(tmp_path):
    FeatureCache(tmp_path).features(Means(), clip())
    network = Means()
    assert (FeatureCache(tmp_path).features(network, clip()) == Means()(clip())).all()
    assert network.runs == 0


def test_files_are_plain_npy(tmp_path):
    cache = FeatureCache(tmp_path)
    key = cache.ensure(Means(), clip())
    assert (np.load(cache.path_of(key), allow_pickle=False) == Means()(clip())).all()
    assert (np.load(cache.path_of(key), mmap_mode="r") == Means()(clip())).all()
    assert cache.size() == (1, cache.path_of(key).stat().st_size)


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "foreign"])
def test_damaged_files_are_made_again_after_a_warning(tmp_path, harm):
    cache, network = FeatureCache(tmp_path), Means()
    path = cache.path_of(cache.ensure(network, clip()))
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes({"cut": data[:-5], "empty": b"", "flipped": data, "foreign": b"hello" * 30}[harm])
    with pytest.warns(UserWarning, match="damaged features"):
        assert (cache.features(network, clip()) == Means()(clip())).all()
    assert network.runs == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.features(network, clip())
    assert network.runs == 2


def _fill(folder):
    cache = FeatureCache(folder)
    return [cache.features(Means(), clip(i)).tolist() for i in range(20)]


def test_several_processes_write_at_once(tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_fill, [tmp_path] * 3))
    assert found == [[Means()(clip(i)).tolist() for i in range(20)]] * 3
    assert FeatureCache(tmp_path).size()[0] == 20
    assert [name for _, _, names in os.walk(tmp_path) for name in names if not name.endswith(".npy")] == []


def test_cached_features_are_a_source(cache):
    network = Means()
    clips = [clip(i) for i in range(5)]
    keys = [cache.ensure(network, frames) for frames in clips]
    source: FeatureSource = CachedFeatures(cache, keys, list("aabbc"))
    assert len(source) == 5 and list(source.units) == list("aabbc")
    assert all((source.read(i) == Means()(frames)).all() for i, frames in enumerate(clips))
    assert frechet.distance(source, source).value == pytest.approx(0, abs=1e-9)


def test_features_removed_meanwhile_are_missed(tmp_path):
    cache = FeatureCache(tmp_path)
    key = cache.ensure(Means(), clip())
    cache.path_of(key).unlink()
    with pytest.raises(InputError, match=r"features of clip 0 \(walk\)"):
        CachedFeatures(cache, [key], ["walk"]).read(0)


def test_bad_frames_and_bad_features_are_refused_and_not_kept(cache):
    class Broken(Means):
        def __call__(self, frames):
            return np.full((1, 3), np.nan, np.float32)

    with pytest.raises(InputError, match="clip7: means-1 gave features that are NaN"):
        cache.features(Broken(), clip(), name="clip7")
    for frames in (clip().astype(np.float32), clip()[0], clip()[..., :1], np.zeros((4, 6, 8, 4), np.uint8), clip()[:0]):
        with pytest.raises(InputError, match="clip7: frames are"):
            cache.features(Means(), frames, name="clip7")
    assert cache.size() == (0, 0)


def test_a_network_that_breaks_its_promise_is_a_defect(cache):
    class Wrong(Means):
        dim = 4

    with pytest.raises(TypeError, match=r"promised float32 \[n,4\]"):
        cache.features(Wrong(), clip())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission denied"):
        FeatureCache(tmp_path / "features").features(Means(), clip())
    tmp_path.chmod(0o700)


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "features").write_text("")
    with pytest.raises(InputError, match="features"):
        FeatureCache(tmp_path / "features").features(Means(), clip())
