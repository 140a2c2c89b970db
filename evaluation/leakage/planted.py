"""The probes' own test: tokens in which a label was hidden on purpose. Where a probe misses that, its silence means nothing.

Why: whole-frame colours pushed through a codebook are practically unreadable to these probes at hundreds of clips, though the
same colours are read well along the true bones. What a probe finds in pixels does not say what it would find in tokens.
"""

from __future__ import annotations

import numpy as np

from evaluation.leakage.features import Features, moments
from evaluation.leakage.labels import Table

PLANTED = "planted"
"""What these features are called beside the representations."""
ID_DIMS = 8
"""Random numbers that stand for a person when the label is their id."""


def plant(features: Features, label: Table, share: float, seed: int) -> np.ndarray:
    """Moments of tokens that a leaking encoder would give: every token turned towards a direction that the label sets.

    Args:
        share: of the token's squared length that the label takes, in (0,1]. Then the codebook, if there is one, quantises again.

    Returns:
        float64 [n,2*K*D] for all clips of the set; rows that the label lacks are 0.
    """
    rng = np.random.default_rng([seed, 5])
    y = rng.normal(size=(int(label.y.max()) + 1, ID_DIMS))[label.y] if label.is_class else label.y
    y = (y - y.mean(0)) / np.maximum(y.std(0), 1e-9)
    tokens = features.tokens[label.rows]
    _, _, k, d = tokens.shape
    turned = (y @ rng.normal(size=(y.shape[1], k * d))).reshape(-1, k, d)
    turned /= np.maximum(np.linalg.norm(turned, axis=-1, keepdims=True), 1e-9)
    out = np.zeros((len(features.tokens), 2 * k * d))
    for row, clip, towards in zip(label.rows, tokens, turned):
        leaking = np.sqrt(1 - share) * clip + np.sqrt(share) * towards
        codebook = features.codebook
        out[row] = moments(leaking if codebook is None else codebook[(leaking @ codebook.T).argmax(-1)])
    return out
