"""The counterpart of the leakage probes: what the tokens must carry. "No identity" is empty where there is no motion either.

A linear reader goes from one frame's motion tokens to the driver's true joints around the neck, in statures, on motions (or
people) that it never saw.

Shapes: n clips, m frames of each, D numbers a frame, J joints.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from evaluation.leakage.probes import Fold, ProbeSettings, RidgePath, plan_folds
from imanim.data.sample import JOINTS
from imanim.errors import InputError

MIN_ROWS = 20
"""Frames that must show a joint in the training folds; a joint seen less often is left out."""


@dataclass
class Carried:
    """How well joints are read from tokens.

    error: mean distance in % of stature over counted joints; low, high: 95 % over groups. mean_pose: the error of always
    saying the training folds' mean pose. r2: share of the joints' variance that is told, all coordinates together.
    per_joint: errors by name (None: never counted). frames: pictures; by: what folds keep apart.
    """

    error: float
    low: float
    high: float
    mean_pose: float
    r2: float
    r2_low: float
    r2_high: float
    per_joint: dict[str, float | None]
    frames: int
    groups: int
    by: str

    def to_json(self) -> dict:
        """Plain values."""
        return asdict(self)


def read_joints(
    tokens: np.ndarray, joints: np.ndarray, groups: np.ndarray, settings: ProbeSettings, by: str
) -> Carried:
    """Reads joints from tokens in grouped cross-validation.

    Args:
        tokens: float [n,m,D]; joints: float [n,m,J,2] in statures around the neck, NaN where none counts.
        groups: [n], what may not be learned and tested both; ``by``: what a group is, for people.

    Raises:
        InputError: too few groups, or no joint is known.
    """
    folds = plan_folds(np.repeat(groups, tokens.shape[1]), settings.folds, settings.seed, what="joint probe", by=by)
    x = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    y = joints.reshape(len(x), -1, 2)
    known = ~np.isnan(y).any(-1)
    known[:, JOINTS.index("neck")] = False  # it is the origin: knowing it is no merit
    if not known.any():
        raise InputError("joint probe: no joint is known in these clips; give shards with joints")
    predicted, mean = np.full_like(y, np.nan), np.full_like(y, np.nan)
    # Joints that are known in the same frames share a decomposition.
    for pattern in np.unique(known.T, axis=0):
        columns = np.flatnonzero((pattern == known.T).all(1))
        for fold in folds:
            _fill(x, y, pattern, columns, fold, predicted, mean)
    return _summary(y, predicted, mean, np.repeat(groups, tokens.shape[1]), settings, by)


def _fill(
    x: np.ndarray,
    y: np.ndarray,
    pattern: np.ndarray,
    columns: np.ndarray,
    fold: Fold,
    predicted: np.ndarray,
    mean: np.ndarray,
) -> None:
    """One fold's predictions and mean poses for the joints ``columns``, which are known in the rows of ``pattern``."""
    train, test = (rows[pattern[rows]] for rows in (fold.train, fold.test))
    if len(train) < MIN_ROWS or not len(test):
        return
    flat = y[:, columns].reshape(len(y), -1)
    losses = []
    for a, b in fold.inner:
        a, b = a[pattern[a]], b[pattern[b]]
        if len(a) >= MIN_ROWS and len(b):
            losses.append([((p - flat[b]) ** 2).sum() for p in RidgePath(x[a], x[b]).predict(flat[a])])
    best = int(np.sum(losses, 0).argmin()) if losses else 0
    told = list(RidgePath(x[train], x[test]).predict(flat[train]))[best]
    predicted[test[:, None], columns] = told.reshape(len(test), -1, 2)
    mean[test[:, None], columns] = y[train[:, None], columns].mean(0)


def _summary(
    y: np.ndarray, predicted: np.ndarray, mean: np.ndarray, groups: np.ndarray, settings: ProbeSettings, by: str
) -> Carried:
    counted = ~np.isnan(predicted).any(-1)
    if not counted.any():
        raise InputError(f"joint probe: no joint is known in {MIN_ROWS} training frames; give more clips")
    off = np.where(counted, 100 * np.linalg.norm(predicted - y, axis=-1), 0)
    lost = np.where(counted, 100 * np.linalg.norm(mean - y, axis=-1), 0)
    columns = [off, (off / 100) ** 2, (lost / 100) ** 2, lost, counted]
    names, which = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), len(columns)))
    np.add.at(sums, which, np.stack([c.sum(1) for c in columns], 1))
    rng = np.random.default_rng([settings.seed, 2])
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), settings.bootstrap) @ sums
    error, r2 = drawn[:, 0] / drawn[:, 4], 1 - drawn[:, 1] / drawn[:, 2]
    total = sums.sum(0)
    seen = counted.sum(0)
    return Carried(
        error=float(total[0] / total[4]),
        low=float(np.percentile(error, 2.5)),
        high=float(np.percentile(error, 97.5)),
        mean_pose=float(total[3] / total[4]),
        r2=float(1 - total[1] / total[2]),
        r2_low=float(np.percentile(r2, 2.5)),
        r2_high=float(np.percentile(r2, 97.5)),
        per_joint={n: float(off[:, j].sum() / seen[j]) if seen[j] else None for j, n in enumerate(JOINTS)},
        frames=int(counted.any(1).sum()),
        groups=len(names),
        by=by,
    )
