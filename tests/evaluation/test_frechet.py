"""The Frechet distance beside independent references, and what must hold for any sets."""

import tracemalloc

import numpy as np
import pytest
import scipy.linalg
from feature_sets import Features, cut, rows, single
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_distances import SETS, references

from evaluation.metrics import frechet, moments
from evaluation.metrics.intervals import draw_units
from imanim.errors import InputError


def pair(count, dim):
    return rows(count, dim, 1, shift=0.02), rows(count, dim, 2)


def halves(all_rows):
    """Two clips, so that sets of different sizes have equal units."""
    middle = len(all_rows) // 2
    return cut(all_rows, [middle, len(all_rows) - middle])


def by_sqrtm(x, y, ddof=1):
    """pytorch-fid's formula."""
    cov1, cov2 = (np.cov(s.astype(np.float64), rowvar=False, ddof=ddof) for s in (x, y))
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    shift = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    return shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(root).real


def from_moments(x, y, ddof=1):
    one, other = moments.of_source(single(x)), moments.of_source(single(y))
    return frechet.frechet(one.mean, one.covariance(ddof), other.mean, other.covariance(ddof))


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
def test_agrees_with_a_matrix_square_root(sizes, ddof):
    x, y = pair(*sizes)
    expected = pytest.approx(by_sqrtm(x, y, ddof), rel=1e-5)
    assert frechet.distance(single(x), single(y), ddof=ddof).value == expected
    assert from_moments(x, y, ddof) == expected


@pytest.mark.parametrize("name", SETS)
def test_agrees_with_torch_fidelity_and_torchmetrics(name):
    x, y = pair(*SETS[name])
    ours = frechet.distance(single(x), single(y)).value
    found = {package: values[0] for package, values in references()[name].items()}
    assert found == {"fidelity": pytest.approx(ours, rel=1e-5), "torchmetrics": pytest.approx(ours, rel=1e-5)}


@pytest.mark.parametrize("ddof", [0, 1])
def test_products_and_covariances_give_one_number(ddof):
    for x, y in (pair(60, 128), pair(127, 128), (rows(30, 128, 1), rows(90, 128, 2))):
        by_products = frechet.distance(halves(x), halves(y), ddof=ddof).value
        assert by_products == pytest.approx(from_moments(x, y, ddof), rel=1e-8)


def test_a_known_case_by_hand():
    # Equal directions: (sqrt(a) - sqrt(b))^2 for each, beside the squared distance of the means.
    mean, zero = np.array([1.0, 2.0]), np.zeros(2)
    assert frechet.frechet(mean, np.diag([4.0, 9.0]), zero, np.diag([1.0, 1.0])) == pytest.approx(5 + 1 + 4, rel=1e-14)
    assert frechet.frechet(mean, np.diag([4.0, 0.0]), zero, np.diag([0.0, 9.0])) == pytest.approx(5 + 4 + 9, rel=1e-14)
    assert frechet.frechet(mean, np.zeros((2, 2)), zero, np.zeros((2, 2))) == 5


def test_ddof_scales_the_covariances():
    x, y = rows(24, 64, 1), rows(24, 64, 2)
    shift = ((x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)) ** 2).sum()
    unbiased, biased = (frechet.distance(single(x), single(y), ddof=d).value - shift for d in (1, 0))
    assert biased == pytest.approx(unbiased * 23 / 24, rel=1e-10)


shapes = st.tuples(st.integers(3, 40), st.integers(3, 40), st.integers(1, 30), st.integers(0, 10**6))


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_symmetric_and_zero_for_itself_and_no_less_than_the_shift(shape):
    n, m, dim, seed = shape
    x, y = rows(n, dim, seed, 0.1), rows(m, dim, seed + 1)
    scale = float(np.var(x, axis=0).sum() + np.var(y, axis=0).sum())
    one, other = halves(x), halves(y)
    there, back = frechet.distance(one, other).value, frechet.distance(other, one).value
    assert there == pytest.approx(back, abs=1e-12 * scale)
    assert frechet.distance(one, one).value == pytest.approx(0, abs=1e-12 * scale)
    shift = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    assert there >= shift @ shift * (1 - 1e-12)


@settings(max_examples=30, deadline=None)
@given(shapes, st.floats(-5, 5), st.floats(0.1, 10))
def test_a_shift_adds_its_square_and_a_scale_multiplies_by_its_square(shape, shift, scale):
    n, m, dim, seed = shape
    rng = np.random.default_rng(seed)
    cov1, cov2 = (np.cov(rng.normal(size=(dim + 1, k)), bias=True)[:dim, :dim] for k in (n, m))
    zero = np.zeros(dim)
    base = frechet.frechet(zero, cov1, zero, cov2)
    moved = frechet.frechet(zero + shift, cov1, zero, cov2)
    size = np.trace(cov1) + np.trace(cov2) + dim * shift**2
    assert moved - base == pytest.approx(dim * shift**2, abs=1e-12 * size)
    scaled = frechet.frechet(scale * zero, scale**2 * cov1, zero, scale**2 * cov2)
    assert scaled == pytest.approx(scale**2 * base, abs=1e-7 * scale**2 * size)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sets(st.integers(1, 59), max_size=6), st.sampled_from([20, 90]))
def test_neither_the_cuts_nor_the_order_change_it(seed, cuts, dim):
    x, y = rows(60, dim, seed, 0.1), rows(60, dim, seed + 1)
    size = float(x.var(0).sum() + y.var(0).sum())
    base = frechet.distance(single(x), single(y)).value
    lengths = np.diff([0, *sorted(cuts), 60])
    assert frechet.distance(cut(x, lengths), cut(y, lengths)).value == base
    order = np.random.default_rng(seed).permutation(60)
    assert frechet.distance(single(x[order]), single(y[order])).value == pytest.approx(base, abs=1e-12 * size)


def test_moments_do_not_depend_on_blocks_or_ranks():
    x = rows(500, 16, 1, shift=3.0)
    whole = moments.of_source(single(x))
    assert np.allclose(whole.covariance(), np.cov(x.astype(np.float64), rowvar=False), rtol=0, atol=1e-14)
    source = cut(x, [100, 399, 1])
    in_blocks = moments.of_blocks(moments.blocks(source, rows=7))
    ranks = [moments.of_rows(x[i::3]) for i in range(3)]
    for other in (in_blocks, ranks[0].merged(ranks[1]).merged(ranks[2]), ranks[2].merged(ranks[0].merged(ranks[1]))):
        assert other.count == 500
        assert np.allclose(other.mean, whole.mean, rtol=1e-12)
        assert np.abs(other.scatter - whole.scatter).max() < 1e-12 * np.trace(whole.scatter)


def test_memory_does_not_grow_with_the_clips():
    class Endless(Features):
        def read(self, i):
            return rows(500, 32, i)

    def peak_bytes(clips):
        source = Endless([None] * clips)
        tracemalloc.start()
        frechet.distance(source, source)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(80) < 1.2 * peak_bytes(20)


def test_a_far_mean_costs_no_digits():
    x, y = pair(300, 16)
    near = frechet.distance(single(x.astype(np.float64)), single(y.astype(np.float64))).value
    far = frechet.distance(single(x.astype(np.float64) + 1e5), single(y.astype(np.float64) + 1e5)).value
    assert far == pytest.approx(near, rel=1e-8)


@pytest.mark.parametrize("sizes", [(40, 100), (150, 30), (60, 50)])
def test_a_draw_is_the_distance_of_the_repeated_clips(sizes):
    count, dim = sizes
    x, y = pair(count, dim)
    units = [f"motion {i % 10}" for i in range(count)]
    found = frechet.distance(single(x, units), single(y, units), bootstrap=3, seed=5)
    assert len(found.draws) == 3
    for value, times in zip(found.draws, draw_units(units, 3, 5)):
        again = [np.repeat(s, times, axis=0) for s in (x, y)]
        assert value == pytest.approx(from_moments(*again), rel=1e-5)


def test_features_too_large_to_hold_are_read_again(monkeypatch):
    x, y = pair(150, 30)
    expected = frechet.distance(single(x), single(y), bootstrap=3)
    monkeypatch.setattr(frechet, "HELD_BYTES", 1000)
    assert frechet.distance(single(x), single(y), bootstrap=3).draws == expected.draws


def test_the_interval_is_as_wide_as_repeated_experiments_scatter():
    units = [f"u{i // 2}" for i in range(160)]

    def experiment(seed, bootstrap):
        # Both clips of a unit are shifted together: to draw clips one by one would give too narrow an interval.
        rng = np.random.default_rng(seed)
        x, y = (np.repeat(rng.normal(size=(80, 6)), 2, 0) + 0.3 * rng.normal(size=(160, 6)) for _ in range(2))
        return frechet.distance(single(x * 1.5 + 0.5, units), single(y, units), bootstrap=bootstrap, seed=seed)

    values = [experiment(seed, 0).value for seed in range(300)]
    widths = [(s.high - s.low) / (2 * 1.96) for s in (experiment(1000 + seed, 100) for seed in range(10))]
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.15)


def test_the_interval_surrounds_the_value_and_not_the_draws():
    x, y = pair(60, 30)
    found = frechet.distance(single(x), single(y), bootstrap=50)
    assert found.low + found.high == pytest.approx(2 * found.value)
    assert np.mean(found.draws) > found.value
    assert found == frechet.distance(single(x), single(y), bootstrap=50)
    assert found.draws[:20] == frechet.distance(single(x), single(y), bootstrap=20).draws


def test_few_rows_and_few_units_are_said_in_words():
    x, y = pair(20, 30)
    assert "20 rows of features in 30 dimensions" in frechet.distance(single(x), single(y)).warnings[0]
    alone = frechet.distance(cut(x, [20]), cut(y, [20]), bootstrap=10)
    assert np.isnan([alone.low, alone.high]).all() and not alone.draws
    assert "one unit alone" in alone.warnings[-1]
    x, y = pair(90, 30)
    assert frechet.distance(single(x), single(y), bootstrap=2).warnings == []


def test_too_much_work_makes_fewer_draws_and_says_so(monkeypatch):
    x, y = pair(90, 30)
    whole = frechet.distance(single(x), single(y), bootstrap=40)
    monkeypatch.setattr(frechet, "BUDGET_SEC", 0.0)
    found = frechet.distance(single(x), single(y), bootstrap=40)
    assert found.draws == whole.draws[: frechet.MIN_DRAWS]
    assert f"{frechet.MIN_DRAWS} draws instead of 40" in found.warnings[-1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_clip(bad):
    x, y = pair(20, 8)
    x[3, 2] = bad
    units = [f"walk-{i}" for i in range(20)]
    with pytest.raises(InputError, match=r"made: clip 3 \(walk-3\): 1 of 8 features are NaN or infinite"):
        frechet.distance(single(x, units), single(y, units))
    with pytest.raises(InputError, match=r"truth: clip 3"):
        frechet.distance(single(y, units), single(x, units))


def test_sets_that_do_not_belong_together_are_refused():
    x, y = pair(20, 8)
    for made, truth, words in (
        (single(x), single(y[:19]), "20 made clips, 19 true"),
        (single(x), single(y, [f"v{i}" for i in range(20)]), "unit `u0` as made, `v0` as true"),
        (single(x), single(y[:, :7]), "8 dimensions made, 7 true"),
        (single(x[:1]), single(y[:1]), "1 rows"),
        (Features([]), Features([]), "no clips"),
        (Features([x, x[:, :5]]), Features([y, y]), r"clip 1 \(u1\): features have 5 dimensions"),
        (Features([x[0]]), Features([y[0]]), r"features are \[8\]"),
        (Features([x, x[:0]]), Features([y, y]), r"clip 1 \(u1\): features are \[0, 8\]"),
    ):
        with pytest.raises(InputError, match=words):
            frechet.distance(made, truth)
    with pytest.raises(InputError, match="ddof: 2"):
        frechet.distance(single(x), single(y), ddof=2)


def test_moments_that_do_not_fit_are_refused():
    eye = np.eye(3)
    with pytest.raises(InputError, match=r"cov2 is \[2, 2\]"):
        frechet.frechet(np.zeros(3), eye, np.zeros(3), np.eye(2))
    with pytest.raises(InputError, match="eigenvalue -1"):
        frechet.frechet(np.zeros(3), eye, np.zeros(3), np.diag([1.0, -1.0, 2.0]))
    with pytest.raises(InputError, match="mean2 holds NaN"):
        frechet.frechet(np.zeros(3), eye, np.full(3, np.nan), eye)
