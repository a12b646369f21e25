"""Where the scale of a residual comes from: fixed, learned, or a function of the code.

Each module is called with z and gives a positive tensor that broadcasts against x, so that a model reads
``Normal(mu, self.scale(z))`` whatever the scale is.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vaes.errors import InputError, number
from pyro_vaes.nn.mlp import Activation, mlp


class FixedScale(nn.Module):
    """A scale that is an assumption: sigma = value everywhere.

    >>> FixedScale(1.0)(torch.zeros(3, 2))
    tensor([1.])
    """

    value: Tensor

    def __init__(self, value: float):
        super().__init__()
        number("scale or floor", value, 1e-12)
        self.register_buffer("value", torch.tensor([float(value)]))

    def forward(self, z: Tensor | None = None) -> Tensor:
        return self.value


class LearnedScale(nn.Module):
    r"""A scale that is a parameter: one number, or one per entry.

    .. math:: \sigma_j = \sigma_{\min} + e^{\lambda_j}

    Args:
        entries: 1 for one shared number, d for one per entry.
        start: the value before training, in the units of x.
        minimum: the scale never falls below it. A Gaussian likelihood is unbounded as sigma -> 0 on data that
            the decoder fits exactly, so some resolution must be named.

    >>> LearnedScale(2, start=0.1)().round(decimals=3)
    tensor([0.1000, 0.1000], grad_fn=<RoundBackward1>)
    """

    def __init__(self, entries: int = 1, start: float = 0.1, minimum: float = 1e-3):
        super().__init__()
        if not start > minimum > 0:
            raise InputError(f"start {start} and minimum {minimum}: need start > minimum > 0")
        self.minimum = minimum
        self.log_excess = nn.Parameter(torch.full((entries,), math.log(start - minimum)))

    def forward(self, z: Tensor | None = None) -> Tensor:
        return self.minimum + self.log_excess.exp()


class NetworkScale(nn.Module):
    """A scale that the code decides: (..., k) -> (..., d), sigma(z) = softplus(net(z)) + minimum.

    >>> NetworkScale(2, [5], 8)(torch.zeros(3, 2)).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        data_dim: int,
        minimum: float = 1e-2,
        activation: Activation = nn.ReLU,
    ):
        super().__init__()
        widths = [latent_dim, *reversed(hidden)]
        self.minimum = number("minimum", minimum, 1e-6)
        self.net = nn.Sequential(*mlp(widths, activation), nn.Linear(widths[-1], data_dim))

    def forward(self, z: Tensor) -> Tensor:
        return softplus(self.net(z)) + self.minimum


class TanhLogVariance(nn.Module):
    r"""A scale whose log-variance is squashed: (..., k) -> (..., d).

    .. math:: \log \sigma(z)^2 = \tanh(\mathrm{net}(z)), \qquad \sigma^2 \in (1/e,\, e)

    So no entry costs less than (ln 2 pi - 1) / 2 nats, however well it is fitted; values between 0 and 1 spread less
    than the smallest such sigma, 0.61.

    Source: S4 4.1, which says "a tanh activation for the variance"; tanh itself can be negative.

    >>> TanhLogVariance(2, [5], 8)(torch.zeros(3, 2)).shape
    torch.Size([3, 8])
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int], data_dim: int, activation: Activation = nn.ReLU):
        super().__init__()
        widths = [latent_dim, *reversed(hidden)]
        self.net = nn.Sequential(*mlp(widths, activation), nn.Linear(widths[-1], data_dim))

    def forward(self, z: Tensor) -> Tensor:
        return (self.net(z).tanh() / 2).exp()


def floor_of(floor: float | None, width: float, data_dim: int) -> nn.Module:
    """Give the floor of an outlier's prior: fixed, or learned, one per entry.

    >>> floor_of(0.1, float("inf"), 4)
    FixedScale()
    """
    if not isinstance(width, float) or width != float("inf"):
        number("width", width, open_low=True)
    if floor is not None:
        return FixedScale(floor)
    if width == float("inf"):
        raise InputError("floor=None learns the floor, which needs a finite width: give a floor or a width")
    return LearnedScale(data_dim)
