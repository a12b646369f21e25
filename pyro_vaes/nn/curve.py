"""A decoder of one-dimensional codes that can go through any points. Plain torch: no Pyro here."""

import torch
from torch import Tensor, nn

from pyro_vaes.errors import InputError


class Curve(nn.Module):
    r"""Draw a piecewise linear curve through N points: (..., 1) -> (..., d).

    The standard normal code is cut into N cells of equal probability, one per point. The curve rests at v_i in the
    middle ``rest`` of cell i (by probability) and runs straight to the next point between the rests:

    .. math:: \mu(z) = (1 - w) v_i + w v_{i+1}, \qquad u = N \Phi(z) - \tfrac12, \quad i = \lfloor u \rfloor, \quad
              w = \mathrm{clip}\big((u - i - r/2) / (1 - r), 0, 1\big)

    A deep ReLU network of one input can draw it; here it is written down, and only the v_i are learned.

    Args:
        points: (N, d), the v_i to start from, N at least 2.
        rest: r, between 0 (no rests) and 1, exclusive.

    >>> curve = Curve(torch.tensor([[0.0], [1.0]]))
    >>> curve(torch.tensor([[-1.0], [0.0], [1.0]])).flatten().tolist()
    [0.0, 0.5, 1.0]
    """

    def __init__(self, points: Tensor, rest: float = 0.5):
        super().__init__()
        if points.dim() != 2 or len(points) < 2:
            raise InputError(f"points have shape {tuple(points.shape)}: it must be (N, d), N at least 2")
        if not 0 <= rest < 1:
            raise InputError(f"rest is {rest}: it must be at least 0 and below 1")
        self.values = nn.Parameter(points.detach().clone())
        self.rest = rest

    def forward(self, z: Tensor) -> Tensor:
        count = len(self.values)
        u = (count * torch.special.ndtr(z) - 0.5).clamp(0, count - 1)
        left = u.detach().floor().clamp(max=count - 2)
        w = ((u - left - self.rest / 2) / (1 - self.rest)).clamp(0, 1)
        i = left.squeeze(-1).long()
        return torch.lerp(self.values[i], self.values[i + 1], w)

    def cell(self, x: Tensor) -> Tensor:
        """Give the number of the point nearest to x: (..., d) -> (...)."""
        v = self.values.detach()
        # |x - v|^2 / 2 without |x|^2, which is the same for all points.
        return (v.square().sum(-1) / 2 - x @ v.T).argmin(-1)

    def knot(self, cell: Tensor) -> Tensor:
        """Give the code in the middle of a cell, by probability: (...) -> (...)."""
        return torch.special.ndtri((cell.to(self.values.dtype) + 0.5) / len(self.values))
