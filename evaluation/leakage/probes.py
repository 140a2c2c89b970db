"""Probes: how well a simple reader, trained on some people (or motions), tells a label of others from features.

A linear reader and a small network (Alain & Bengio 2016, https://arxiv.org/abs/1610.01644), on standardised features, in
grouped cross-validation; regularisation is chosen inside the training folds. A high score says that the information is
there and easy to read; a low one says that these readers, with this much data, do not find it.

Scores: accuracy for a class, R2 for numbers (the mean of its dimensions). R2's null is the training folds' mean, so that
features without content score exactly 0. What chance reaches comes from a permutation test (Ojala & Garriga 2010), the
interval from a bootstrap over groups with the predictions held fixed.

Shapes: n clips, D features, d dimensions of a label (of a class: 1 one-hot column a class), P permutations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.leakage.labels import Table
from imanim.errors import InputError

SHRINKAGE = np.logspace(3, -3, 7)
"""Ridge penalties, strongest first, in multiples of the training features' mean squared singular value (of the smaller side)."""
DECAY = (300.0, 30.0, 3.0)
"""Weight decays of the small network, strongest first."""
INNER_FOLDS = 3
LIMIT = 4.0
"""Standard deviations at which features are cut."""
CERTAIN = 0.01
"""The permutation test's p up to which something was found: one report asks dozens of questions, so 5 % would be too lax."""
MAX_COMPONENTS = 64
"""Principal components (of the training folds) that the small network sees."""
_COLUMNS = 4096
"""Targets solved at a time: permutations of many classes must not fill the memory."""


@dataclass(frozen=True)
class ProbeSettings:
    """``folds`` of the cross-validation; draws of ``permutations`` and ``bootstrap``; ``hidden`` units of the network."""

    folds: int = 5
    permutations: int = 200
    bootstrap: int = 1000
    hidden: int = 32
    seed: int = 0


@dataclass
class Score:
    """What one probe reads of one label from one representation.

    value: R2 or accuracy on held-out folds; low, high: 95 % over groups. level: what 95 % of the permutations stay below
    (an id's, exchanged within a motion, keep what tells the motion's people as a set, so it may lie above the floor); p: share
    of permutations that reach the value. floor: what knowing nothing gives (R2: 0; accuracy: always naming the
    training folds' commonest class); uniform: 1 over the number of classes. per_dim: R2 of each dimension. draws: the value
    under each bootstrap sample; probes of one table and seed have paired draws.
    """

    value: float
    low: float
    high: float
    level: float
    p: float
    floor: float
    n: int
    groups: int
    permuted: str
    uniform: float | None = None
    per_dim: list[float] | None = None
    draws: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def found(self) -> bool:
        """Surely more than chance: by the permutations (CERTAIN), and with the whole interval above the floor."""
        return self.p <= CERTAIN and self.low > self.floor

    @property
    def told(self) -> float:
        """The value, not below the floor: a probe that reads worse than nobody has read nothing."""
        return max(self.value, self.floor)

    def to_json(self) -> dict[str, Any]:
        """Without the draws."""
        return {k: v for k, v in vars(self).items() if k != "draws"} | {"found": self.found}


# ----------------------------------------------------------------------------------------------------------- folds


@dataclass(frozen=True)
class Fold:
    """Rows to train on and to test; ``inner``: the training rows split again, to choose regularisation with."""

    train: np.ndarray
    test: np.ndarray
    inner: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


def plan_folds(groups: np.ndarray, folds: int, seed: int, *, what: str = "probe", by: str = "group") -> list[Fold]:
    """Folds in which no group is both learned and tested, nor in the inner ones.

    Raises:
        InputError: fewer than two groups a fold.
    """
    from sklearn.model_selection import GroupKFold

    count = len(np.unique(groups))
    if count < 2 * folds:
        raise InputError(
            f"{what}: {count} {by}{'' if count == 1 else 's'}; {folds} folds need {2 * folds} or more; "
            "give more clips or fewer folds"
        )
    out = []
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(groups, groups=groups):
        splits = GroupKFold(INNER_FOLDS, shuffle=True, random_state=seed).split(train, groups=groups[train])
        out.append(Fold(train, test, tuple((train[a], train[b]) for a, b in splits)))
    return out


# ---------------------------------------------------------------------------------------------------------- readers


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both [n,D] by the training rows' mean and deviation, cut at LIMIT: a joint far outside the frame must not rule a probe."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    return scaler.transform(train).clip(-LIMIT, LIMIT), scaler.transform(test).clip(-LIMIT, LIMIT)


class RidgePath:
    """Ridge regression for every penalty and any number of targets from one eigendecomposition.

    scikit-learn's Ridge decomposes again for each penalty, and a permutation test asks thousands of times; results are the
    same (the tests compare them).
    """

    def __init__(self, train: np.ndarray, test: np.ndarray):
        """Features [n,D] and [m,D]; both are standardised by the training rows."""
        from scipy.linalg import eigh

        a, b = standardised(train, test)
        wide = a.shape[1] > len(a)
        self.powers, vectors = eigh(a @ a.T if wide else a.T @ a, driver="evd")
        self.left = vectors.T if wide else vectors.T @ a.T
        self.projected = (b @ a.T if wide else b) @ vectors
        self.penalties = SHRINKAGE * max(float(self.powers.mean()), 1e-12)

    def predict(self, y: np.ndarray) -> Iterator[np.ndarray]:
        """Targets [n,k] to predictions [m,k], one array a penalty."""
        mean = y.mean(0)
        loads = self.left @ (y - mean)
        for penalty in self.penalties:
            yield (self.projected / (np.maximum(self.powers, 0) + penalty)) @ loads + mean


class Linear:
    """The linear reader on one representation; decompositions are shared by all labels with the same folds."""

    refits = True

    def __init__(self, x: np.ndarray, folds: Sequence[Fold], settings: ProbeSettings):
        self.folds = folds
        self.outer = [RidgePath(x[f.train], x[f.test]) for f in folds]
        self.inner = [[RidgePath(x[a], x[b]) for a, b in f.inner] for f in folds]

    def predict(self, y: np.ndarray, is_class: bool) -> np.ndarray:
        """Held-out predictions [n,k,d] of targets [n,k,d]: k labels; a class, and each number, has its own penalty a fold."""
        if not is_class and y.shape[2] > 1:
            return self.predict(y.reshape(len(y), -1, 1), False).reshape(y.shape)
        out = np.empty_like(y)
        step = max(1, _COLUMNS // y.shape[2])
        for start in range(0, y.shape[1], step):
            part = np.s_[:, start : start + step]
            out[part] = self._predict(y[part], is_class)
        return out

    def _predict(self, y: np.ndarray, is_class: bool) -> np.ndarray:
        flat, out = y.reshape(len(y), -1), np.empty_like(y)
        for fold, path, inner in zip(self.folds, self.outer, self.inner):
            losses = np.zeros((len(SHRINKAGE), y.shape[1]))
            for (a, b), inner_path in zip(fold.inner, inner):
                for i, predicted in enumerate(inner_path.predict(flat[a])):
                    losses[i] += loss(predicted.reshape(-1, *y.shape[1:]), y[b], y[a].mean(0), is_class)
            best = losses.argmin(0)
            for i, predicted in enumerate(path.predict(flat[fold.train])):
                chosen = np.flatnonzero(best == i)
                out[fold.test[:, None], chosen] = predicted.reshape(-1, *y.shape[1:])[:, chosen]
        return out


class Network:
    """A network with one hidden layer on whitened principal components (scikit-learn, L-BFGS: no batches, no learning rate)."""

    refits = False

    def __init__(self, x: np.ndarray, folds: Sequence[Fold], settings: ProbeSettings):
        self.x, self.folds, self.settings = x, folds, settings

    def predict(self, y: np.ndarray, is_class: bool) -> np.ndarray:
        """As :meth:`Linear.predict`."""
        out = np.empty_like(y)
        for k in range(y.shape[1]):
            for fold in self.folds:
                a, b = fold.inner[0]
                views = self._views(a, b)
                tries = [self._fit(views, y[a, k], decay, is_class)[:, None] for decay in DECAY]
                losses = [float(loss(t, y[b, k : k + 1], y[a, k : k + 1].mean(0), is_class)[0]) for t in tries]
                decay = DECAY[int(np.argmin(losses))]
                out[fold.test, k] = self._fit(self._views(fold.train, fold.test), y[fold.train, k], decay, is_class)
        return out

    def _views(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.decomposition import PCA

        a, b = standardised(self.x[train], self.x[test])
        with np.errstate(invalid="ignore"):  # shares of variance, which nobody needs, where nothing varies
            pca = PCA(min(MAX_COMPONENTS, *a.shape), svd_solver="full").fit(a)
        a, b = pca.transform(a), pca.transform(b)
        # Whitened: what is asked for need not be what varies most.
        scale = a.std(0)
        scale = np.maximum(scale, max(1e-6 * float(scale.max()), 1e-12))
        return a / scale, b / scale

    def _fit(self, views: tuple[np.ndarray, np.ndarray], y: np.ndarray, decay: float, is_class: bool) -> np.ndarray:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        kind = MLPClassifier if is_class else MLPRegressor
        shape, seed = (self.settings.hidden,), self.settings.seed
        net = kind(hidden_layer_sizes=shape, solver="lbfgs", alpha=decay, max_iter=200, random_state=seed)
        mean, scale = y.mean(0), np.maximum(y.std(0), 1e-9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net.fit(views[0], y.argmax(1) if is_class else np.squeeze((y - mean) / scale))
        if not is_class:
            return net.predict(views[1]).reshape(len(views[1]), -1) * scale + mean
        out = np.zeros((len(views[1]), y.shape[1]))
        out[:, net.classes_] = net.predict_proba(views[1])
        return out


READERS: dict[str, Callable[[np.ndarray, Sequence[Fold], ProbeSettings], Linear | Network]] = {
    "linear": Linear,
    "mlp": Network,
}
"""Linear: ridge regression, for a class on one-hot columns. (Logistic regression reads the same directions and cannot be
refitted for every permutation in reasonable time.)"""


def loss(predicted: np.ndarray, y: np.ndarray, mean: np.ndarray, is_class: bool) -> np.ndarray:
    """What regularisation is chosen by, [k], of [m,k,d] and the training mean [k,d]: share of errors, or 1 - R2."""
    if is_class:
        return (predicted.argmax(-1) != y.argmax(-1)).mean(0)
    null = np.maximum(((y - mean) ** 2).sum(0), 1e-12)
    return (((y - predicted) ** 2).sum(0) / null).mean(-1)


# ----------------------------------------------------------------------------------------------------------- probing


def probe(x: np.ndarray, label: Table, reader: str, settings: ProbeSettings, cache: dict | None = None) -> Score:
    """Reads a label from features.

    Args:
        x: float [n,D], a row a clip of the whole set (the table's ``rows`` are taken).
        reader: a name in READERS.
        cache: share one between the labels of one ``x``.

    Raises:
        InputError: too few groups, features that are not finite, or labels that differ inside a person.
    """
    if not np.isfinite(x).all():
        raise InputError(f"{label.name}: features hold NaN or infinity; look at the model that made them")
    x, is_class = np.asarray(x, np.float64)[label.rows], label.is_class
    folds = plan_folds(label.groups, settings.folds, settings.seed, what=label.name, by=label.by)
    known = cache if cache is not None else {}
    key = (reader, label.rows.tobytes(), label.groups.tobytes())
    if key not in known:
        known[key] = READERS[reader](x, folds, settings)
    machine = known[key]
    y = np.eye(int(label.y.max()) + 1)[label.y] if is_class else label.y
    orders, how = permutations(label, settings)
    shuffled = y[orders].swapaxes(0, 1)  # [n,P,d]
    if machine.refits:
        predicted = machine.predict(np.concatenate([y[:, None], shuffled], 1), is_class)
        own, others = predicted[:, 0], predicted[:, 1:]
    else:
        own = machine.predict(y[:, None], is_class)[:, 0]
        others = np.broadcast_to(own[:, None], shuffled.shape)
        how += ", of held-out labels against the same predictions"
    value, per_dim, draws = _score(own, y, label.groups, folds, is_class, settings)
    null = _permuted_scores(others, shuffled, _nulls(shuffled if machine.refits else y[:, None], folds), is_class)
    low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5]))
    return Score(
        value=value,
        low=low,
        high=high,
        level=float(np.percentile(null, 95)),
        p=float((1 + (null >= value).sum()) / (1 + len(null))),
        floor=_majority(label.y, folds) if is_class else 0.0,
        n=len(x),
        groups=len(np.unique(label.groups)),
        permuted=how,
        uniform=1 / y.shape[1] if is_class else None,
        per_dim=per_dim,
        draws=draws,
    )


def permutations(label: Table, settings: ProbeSettings) -> tuple[np.ndarray, str]:
    """Row orders [P,n] under which a label would mean nothing, and how they were drawn.

    A person's label moves as one among people. An id moves among the clips of one motion where several people perform it, so
    that what motions tell about who tends to perform them stays; else whole groups, or clips, are exchanged.
    """
    rng = np.random.default_rng([settings.seed, 1])
    members = [np.flatnonzero(label.groups == g) for g in np.unique(label.groups)]
    constant = all((label.y[m] == label.y[m[0]]).all() for m in members)
    if not label.is_class and not constant:
        raise InputError(f"{label.name}: differs between clips of one person; give one value a person")
    out = np.tile(np.arange(len(label.y)), (settings.permutations, 1))
    if constant:
        firsts = np.array([m[0] for m in members])
        which = np.unique(label.groups, return_inverse=True)[1]
        for order in out:
            order[:] = rng.permutation(firsts)[which]
        return out, f"among {label.by}s"
    shared = sum(len(m) for m in members if len(np.unique(label.y[m])) > 1)
    if 2 * shared < len(label.y):
        for order in out:
            rng.shuffle(order)
        return out, "among clips"
    for order in out:
        for m in members:
            order[m] = rng.permutation(m)
    return out, f"within a {label.by}"


def _nulls(y: np.ndarray, folds: Sequence[Fold]) -> np.ndarray:
    """For every row the mean of the labels that its fold learned from: what a reader says that sees nothing."""
    out = np.empty_like(y)
    for fold in folds:
        out[fold.test] = y[fold.train].mean(0)
    return out


def _score(
    predicted: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: Sequence[Fold], is_class: bool, s: ProbeSettings
) -> tuple[float, list[float] | None, np.ndarray]:
    """The score of [n,d], its dimensions, and its value under bootstrap samples of groups [bootstrap]."""
    if is_class:
        good, total = (predicted.argmax(1) == y.argmax(1))[:, None].astype(float), np.ones((len(y), 1))
    else:
        good, total = (y - predicted) ** 2, (y - _nulls(y, folds)) ** 2
    names, which = np.unique(groups, return_inverse=True)
    sums = np.zeros((2, len(names), good.shape[1]))
    np.add.at(sums[0], which, good)
    np.add.at(sums[1], which, total)
    drawn = np.random.default_rng([s.seed, 2]).multinomial(len(names), np.full(len(names), 1 / len(names)), s.bootstrap)
    ratio = lambda g, t: g / np.maximum(t, 1e-12)  # noqa: E731
    whole, draws = ratio(*sums.sum(1)), ratio(drawn @ sums[0], drawn @ sums[1])
    if is_class:
        return float(whole[0]), None, draws[:, 0]
    return float((1 - whole).mean()), [float(v) for v in 1 - whole], (1 - draws).mean(1)


def _permuted_scores(predicted: np.ndarray, y: np.ndarray, nulls: np.ndarray, is_class: bool) -> np.ndarray:
    """Scores [P] of [n,P,d]; ``nulls`` [n,P or 1,d]: what knows nothing, by the labels that were learned from."""
    if is_class:
        return (predicted.argmax(-1) == y.argmax(-1)).mean(0)
    total = np.maximum(((y - nulls) ** 2).sum(0), 1e-12)
    return (1 - ((y - predicted) ** 2).sum(0) / total).mean(-1)


def _majority(y: np.ndarray, folds: Sequence[Fold]) -> float:
    """Accuracy of naming the training folds' commonest class."""
    return float(np.concatenate([y[f.test] == np.bincount(y[f.train]).argmax() for f in folds]).mean())
