"""KID beside torchmetrics' and torch-fidelity's, and its interval."""

import numpy as np
import pytest
import reference_distances
import torch
from feature_sets import cut, rows, single

from evaluation.metrics import kid
from evaluation.metrics.intervals import draw_units
from imanim.errors import InputError


def pair(count=60, dim=24, shift=0.02):
    return rows(count, dim, 1, shift), rows(count, dim, 2)


@pytest.mark.parametrize("name", reference_distances.SETS)
def test_agrees_with_torchmetrics_and_torch_fidelity(name):
    x, y = reference_distances.pair(name)
    found = reference_distances.references()[name]
    ours = kid.distance(single(x), single(y), **reference_distances.KID)
    assert [ours["mean"].value, ours["std"].value] == pytest.approx(found["torchmetrics"][1:], rel=1e-5)
    whole = kid.distance(single(x), single(y), subsets=1, subset_size=len(x))
    assert whole["mean"].value == pytest.approx(found["fidelity"][1], rel=1e-5)
    assert whole["std"].value == found["fidelity"][2] == 0


def test_the_definition_on_few_numbers():
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [2.0, 0.0]])

    def k(a, b):
        return (a @ b / 2 + 1) ** 3

    expected = k(*x) + k(*y) - 2 * np.mean([k(a, b) for a in x for b in y])
    found = kid.distance(single(x), single(y), subsets=1, subset_size=2)["mean"].value
    assert found == pytest.approx(expected, rel=1e-12)
    linear = kid.distance(single(x), single(y), subsets=1, subset_size=2, degree=1, gamma=1.0, coef0=0)["mean"].value
    assert linear == pytest.approx(x[0] @ x[1] + y[0] @ y[1] - 2 * x.mean(0) @ y.mean(0), rel=1e-12)


def test_equal_distributions_lie_around_zero():
    x, y = rows(400, 8, 2), rows(400, 8, 4)
    near, far = (
        kid.distance(single(a), single(y), subset_size=200, subsets=20, bootstrap=50)["mean"] for a in (x, x + 0.3)
    )
    assert near.low < 0 < near.high
    assert far.low > 0


def test_subsets_follow_the_seed_and_a_generator_goes_on():
    x, y = (single(s) for s in pair())
    first = kid.distance(x, y, subsets=5, subset_size=20, seed=1)
    assert first == kid.distance(x, y, subsets=5, subset_size=20, seed=1)
    assert first != kid.distance(x, y, subsets=5, subset_size=20, seed=2)
    generator = torch.Generator().manual_seed(1)
    assert first == kid.distance(x, y, subsets=5, subset_size=20, seed=generator)
    assert first != kid.distance(x, y, subsets=5, subset_size=20, seed=generator)


def test_the_cuts_do_not_change_it():
    x, y = pair()
    base = kid.distance(single(x), single(y), subsets=5, subset_size=20)
    assert kid.distance(cut(x, [1, 39, 20]), cut(y, [20, 20, 20]), subsets=5, subset_size=20) == base


def test_a_draw_weighs_pairs_of_different_rows(monkeypatch):
    # Tiles smaller than the sets: rows of different tiles must meet.
    monkeypatch.setattr(kid, "TILE_ROWS", 7)
    x, y = pair(count=20, dim=5)
    units = [f"u{i // 2}" for i in range(20)]
    found = kid.distance(single(x, units), single(y, units), subset_size=10, bootstrap=4, seed=3)
    x, y = x.astype(np.float64), y.astype(np.float64)
    assert len(found["mean"].draws) == 4
    for value, times in zip(found["mean"].draws, draw_units(units, 4, 3)):
        within = 0.0
        for s in (x, y):
            weights = np.outer(times, times) * (1 - np.eye(20))
            within += (weights * (s @ s.T / 5 + 1) ** 3).sum() / weights.sum()
        across = np.outer(times, times)
        expected = within - 2 * (across * (x @ y.T / 5 + 1) ** 3).sum() / across.sum()
        assert value == pytest.approx(expected, rel=1e-10)


def test_the_interval_is_as_wide_as_repeated_experiments_scatter():
    def experiment(seed, bootstrap):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(0.3, 1.2, (150, 4)), rng.normal(size=(150, 4))
        found = kid.distance(single(x), single(y), subsets=1, subset_size=150, bootstrap=bootstrap, seed=seed)
        return found["mean"]

    values = [experiment(seed, 0).value for seed in range(400)]
    widths = [(s.high - s.low) / (2 * 1.96) for s in (experiment(1000 + seed, 200) for seed in range(20))]
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.15)


def test_what_cannot_be_measured_is_refused():
    x, y = pair(20, 8)
    for made, truth, settings, words in (
        (single(x), single(y), {}, "subset size: 1000, with 20 rows"),
        (single(x), single(y), {"subset_size": 1}, "between 2 and 20"),
        (single(x), single(y), {"subset_size": 9, "subsets": 0}, "0 subsets"),
        (single(x), single(y[:, :7]), {"subset_size": 9}, "8 dimensions made, 7 true"),
        (single(x), single(y[:19]), {"subset_size": 9}, "20 made clips, 19 true"),
        (single(np.full_like(x, np.nan)), single(y), {"subset_size": 9}, r"made: clip 0 \(u0\)"),
        (single(x[:0], []), single(y[:0], []), {}, "no clips"),
    ):
        with pytest.raises(InputError, match=words):
            kid.distance(made, truth, **settings)


def test_subsets_as_large_as_the_sets_are_doubted():
    x, y = (single(s) for s in pair(20, 8))
    assert "all are alike" in kid.distance(x, y, subset_size=20, subsets=3)["std"].warnings[0]
    assert kid.distance(x, y, subset_size=19, subsets=3)["std"].warnings == []


def test_too_much_work_and_too_few_units_are_said_in_words(monkeypatch):
    x, y = pair(20, 8)
    alone = kid.distance(cut(x, [20]), cut(y, [20]), subset_size=9, bootstrap=5)["mean"]
    assert np.isnan(alone.low) and "one unit alone" in alone.warnings[0]
    monkeypatch.setattr(kid, "BUDGET_SEC", 0.0)
    found = kid.distance(single(x), single(y), subset_size=9, bootstrap=5)["mean"]
    assert np.isnan(found.low) and "no interval" in found.warnings[0]
