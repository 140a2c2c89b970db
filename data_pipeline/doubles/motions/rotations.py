"""Rotations over time: every function takes arrays whose leading axis is time [T] and returns matrices [T,3,3].

World axes everywhere: x points to the body's left, -y to its front, z up. Angles are radians.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray
_TINY = 1e-9


def unit(v: Array) -> Array:
    """Vectors [...,3] scaled to length 1."""
    return v / (np.linalg.norm(v, axis=-1, keepdims=True) + _TINY)


def apply(rotation: Array, v: ArrayLike) -> Array:
    """Rotate vectors: [...,3,3] by [...,3] (or one vector [3]) -> [...,3]."""
    return np.einsum("...ij,...j->...i", rotation, np.asarray(v))


def _axis_rotation(angle: Array, axis: int) -> Array:
    angle = np.asarray(angle, float)
    c, s = np.cos(angle), np.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros((*angle.shape, 3, 3))
    out[..., axis, axis] = 1.0
    out[..., i, i] = out[..., j, j] = c
    out[..., i, j], out[..., j, i] = -s, s
    return out


def rot_x(angle: Array) -> Array:
    """About x: positive leans the upper end to the front (-y)."""
    return _axis_rotation(angle, 0)


def rot_y(angle: Array) -> Array:
    """About y: positive tips the upper end to the body's left (+x)."""
    return _axis_rotation(angle, 1)


def rot_z(angle: Array) -> Array:
    """About the vertical: positive turns to the body's left."""
    return _axis_rotation(angle, 2)


def about(axis: Array, angle: Array) -> Array:
    """Rodrigues: unit axis [...,3] and angle [...] -> [...,3,3]."""
    axis, angle = np.broadcast_arrays(axis, np.asarray(angle, float)[..., None])
    angle = angle[..., 0]
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    k = np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)
    s, c = np.sin(angle)[..., None, None], np.cos(angle)[..., None, None]
    return np.eye(3) + s * k + (1 - c) * (k @ k)


def from_vector(w: Array) -> Array:
    """Rotation vectors [...,3] (axis times angle) -> [...,3,3]."""
    angle = np.linalg.norm(w, axis=-1)
    return about(w / (angle[..., None] + _TINY), angle)


def to_vector(rotation: Array) -> Array:
    """Inverse of from_vector for angles below pi: [...,3,3] -> [...,3]."""
    r = rotation
    w = np.stack([r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1)
    s = np.linalg.norm(w, axis=-1) / 2
    c = (np.trace(r, axis1=-2, axis2=-1) - 1) / 2
    return w * (np.arctan2(s, c) / (2 * s + _TINY))[..., None]


def shortest(a: Array, b: Array) -> Array:
    """The smallest rotation taking direction a to direction b: [...,3] x2 -> [...,3,3]."""
    a, b = np.broadcast_arrays(unit(a), unit(b))
    cross = np.cross(a, b)
    sine = np.linalg.norm(cross, axis=-1)
    return about(cross / (sine[..., None] + _TINY), np.arctan2(sine, (a * b).sum(-1)))


def between(a: Array, b: Array, amount: Array) -> Array:
    """Direction part of the way (amount 0..1, [T]) along the great circle from a to b -> [T,3]."""
    a, b = unit(np.asarray(a, float)), unit(np.asarray(b, float))
    amount = np.asarray(amount, float)
    w = to_vector(shortest(a, b))
    return apply(from_vector(w * amount[..., None]), np.broadcast_to(a, (*amount.shape, 3)))


def basis(u: Array, n: Array) -> Array:
    """Orthonormal columns (u, n made orthogonal to u, u x n): [...,3] x2 -> [...,3,3]."""
    u, n = np.broadcast_arrays(unit(u), n)
    n = unit(n - (n * u).sum(-1, keepdims=True) * u)
    return np.stack([u, n, np.cross(u, n)], -1)


def transpose(rotation: Array) -> Array:
    """Inverse of rotations [...,3,3]."""
    return np.swapaxes(rotation, -1, -2)


def blend(a: Array, b: Array, amount: Array) -> Array:
    """Rotation part of the way from a to b: [T,3,3] x2, amount [T] -> [T,3,3]."""
    return a @ from_vector(to_vector(transpose(a) @ b) * np.asarray(amount)[..., None])
