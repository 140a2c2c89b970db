"""Flow matching (Lipman et al. 2023, rectified flow): noise levels, noising, losses, and a plain Euler sampler.

``x_t = (1 - sigma) x0 + sigma eps``; the velocity ``dx/dsigma`` is ``eps - x0``. Everything is a pure function of its dice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from imanim.data.dice import Dice


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Noise levels moved towards 1 (shift > 1), as Wan's schedulers do: shift*s / (1 + (shift-1)*s)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def draw_sigma(
    dice: Dice,
    *,
    mean: float,
    std: float,
    shift: float,
    between: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """A logit-normal noise level a sample [B] in (0,1) (Esser et al. 2024, 3.1), shifted.

    ``between``: only levels in this range, distributed there as they are without it (one half of Wan 2.2 A14B).
    """
    if between == (0.0, 1.0):
        return shifted(torch.sigmoid(mean + std * dice.randn()), shift)
    normal = torch.distributions.Normal(0.0, 1.0)
    # The unshifted levels at the range's ends; shifting by 1/shift undoes shifting by shift.
    ends = (torch.logit(shifted(torch.tensor(between, dtype=torch.float64), 1 / shift)) - mean) / std
    low, high = normal.cdf(ends)
    place = low + (high - low) * dice.rand().double()
    level = shifted(torch.sigmoid(mean + std * normal.icdf(place)), shift)
    return level.clamp(*between).float()


def quantile_levels(
    number: int, *, mean: float, std: float, shift: float, between: tuple[float, float] = (0.0, 1.0)
) -> list[float]:
    """Noise levels at the middles of ``number`` equally likely parts of what :func:`draw_sigma` draws from."""
    normal = torch.distributions.Normal(0.0, 1.0)
    ends = (torch.logit(shifted(torch.tensor(between, dtype=torch.float64), 1 / shift)) - mean) / std
    low, high = normal.cdf(ends)
    places = low + (high - low) * (torch.arange(number, dtype=torch.float64) + 0.5) / number
    return shifted(torch.sigmoid(mean + std * normal.icdf(places)), shift).tolist()


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_t [B,...] at noise levels sigma [B]."""
    s = sigma.view(-1, *[1] * (x0.ndim - 1))
    return (1 - s) * x0 + s * noise


def channel_weights(std: Tensor, weighting: str) -> Tensor:
    """Weights [C], mean 1, of the squared errors of normalised latents whose channels had the standard deviations ``std`` [C].

    ``equal``: every channel the same. ``pixel``: by variance; were the decoder linear and kept lengths, the loss would be the
    squared error of the pixels, where equal weights make faint detail as dear as colour.
    """
    weights = std**2 if weighting == "pixel" else torch.ones_like(std)
    return weights / weights.mean()


def _velocity_loss(out: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor, floor: float, weights: Tensor) -> Tensor:
    return _weighted((out.float() - (noise - x0)).pow(2), weights)


def _x0_loss(out: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor, floor: float, weights: Tensor) -> Tensor:
    return _weighted((out.float() - x0).pow(2), weights) / sigma.clamp(min=floor)


def _weighted(squares: Tensor, weights: Tensor) -> Tensor:
    """Mean a sample [B] of [B,C,F,h,w], channels weighted by [C]."""
    return (squares.mean((2, 3, 4)) * weights).mean(1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, float, Tensor], Tensor]] = {
    "velocity": _velocity_loss,
    "x0": _x0_loss,
}
"""Loss a sample [B] by ``denoiser.prediction``, of (output, x0, noise, sigma [B], floor, channel weights [C]).

The exact velocity loss of a network that predicts x0 is its squared error over sigma^2, which a small network at small sigma
cannot bear: one sample near 0 outweighs the batch. Over max(sigma, floor) every noise level keeps a comparable say; this is what
the prototype measured to learn.
"""


@torch.no_grad()
def euler(
    velocity: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    steps: int,
    *,
    shift: float = 1.0,
    between: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Integrates from noise [B,...] (sigma 1) to data (sigma 0).

    Args:
        velocity: of (x, sigma [B]); for a clip ``lambda x, s: animator.velocity(x, s, conditions)``.
        start: at the upper noise level of ``between``.
        steps: Euler steps; shift: see :func:`shifted`.
        between: noise levels to ask for; below the lower one the last velocity is followed to the data.
    """
    low, high = between
    levels = [level for level in (high * shifted(torch.linspace(1, 0, steps + 1), shift)).tolist() if level >= low]
    if levels[-1] > 0:
        levels.append(0.0)
    x = start
    for now, after in zip(levels, levels[1:]):
        x = x + (after - now) * velocity(x, x.new_full((len(x),), now))
    return x
