"""L-BFGS with Armijo's rule, for many data at once, each with a line search of its own: no energy ever rises."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# z (..., k) -> the energy of every datum, (...).
Energy = Callable[[Tensor], Tensor]
SUFFICIENT, HALVINGS, MEMORY, PATIENCE = 1e-4, 20, 10, 3


class Descent(NamedTuple):
    """Where a descent ended, (..., k), and the energies on the way, (T + 1, ...), which never rise."""

    z: Tensor
    trace: Tensor


class _Pairs:
    """The last steps and changes of the gradient, of every datum."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def direction(self, g: Tensor) -> Tensor:
        """Two loops over the pairs; without any the negative gradient, no longer than 1."""
        q, shares = g, []
        size = 1 / g.norm(dim=-1).clamp(min=1.0)
        for s, y, rho in reversed(self.kept):
            share = rho * (s * q).sum(-1)
            q = q - share[..., None] * y
            shares.append(share)
        for _, y, rho in self.kept:  # the latest valid pair sets the length
            curvature = rho * y.square().sum(-1)
            size = torch.where(rho > 0, 1 / curvature.clamp(min=1e-30), size)
        q = q * size[..., None]
        for (s, y, rho), share in zip(self.kept, reversed(shares), strict=True):
            q = q + (share - rho * (y * q).sum(-1))[..., None] * s
        return -q

    def add(self, s: Tensor, y: Tensor) -> None:
        """Keep a pair where its curvature is positive; rho = 0 takes no part."""
        curvature = (s * y).sum(-1)
        small = 1e-10 * s.norm(dim=-1) * y.norm(dim=-1)
        rho = torch.where(curvature > small, 1 / curvature.clamp(min=1e-30), 0.0)
        self.kept = [*self.kept, (s, y, rho)][-MEMORY:]

    def forget(self, where: Tensor) -> None:
        self.kept = [(s, y, torch.where(where, 0.0, rho)) for s, y, rho in self.kept]


def descend(energy: Energy, z: Tensor, steps: int) -> Descent:
    r"""Follow the L-BFGS direction d of every datum, by the longest step that Armijo's rule takes.

    .. math:: E(z + t d) \le E(z) + 10^{-4}\, t\, d^\top \nabla E(z), \qquad t = 1, \tfrac12, \tfrac14, \dots

    Where no step down is found, the datum tries its gradient once more, and then stays.

    Args:
        energy: differentiable; the energy of a datum depends on its own z only. z: (..., k). steps: at most.

    Source: Nocedal & Wright (2006), Alg. 3.1 and 7.5.

    >>> curved = torch.tensor([1.0, 100.0], dtype=torch.float64)
    >>> found = descend(lambda z: (curved * (z - 1) ** 2).sum(-1), torch.zeros(3, 2, dtype=torch.float64), 30)
    >>> bool((found.z - 1).abs().max() < 1e-6), bool((found.trace.diff(dim=0) <= 0).all())
    (True, True)
    """
    z = z.detach()
    e, g = _slope(energy, z)
    pairs, trace = _Pairs(), [e]
    # A datum whose start has no energy cannot move.
    idle = torch.where(e.isfinite(), 0, PATIENCE)
    fresh = torch.ones_like(e, dtype=torch.bool)
    for _ in range(steps):
        if (idle >= PATIENCE).all():
            break
        d = pairs.direction(g)
        down = (d * g).sum(-1)
        d = torch.where((down < 0)[..., None], d, -g)
        new_z, new_e, new_g = _search(energy, z, e, g, d, idle < PATIENCE)
        moved = new_e < e
        pairs.add(new_z - z, new_g - g)
        pairs.forget(~moved)
        small = (e - new_e) <= 10 * torch.finfo(z.dtype).eps * e.abs().clamp(min=1.0)
        # The gradient alone found nothing either: that is the end of it.
        idle = torch.where(~moved & fresh, PATIENCE, torch.where(small, idle + 1, 0))
        fresh = ~moved
        z, e, g = new_z, new_e, new_g
        trace.append(e)
    return Descent(z, torch.stack(trace))


def _search(energy: Energy, z: Tensor, e: Tensor, g: Tensor, d: Tensor, open_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Halve the steps of those that have not come down far enough; who never does stays where it was."""
    slope = (d * g).sum(-1).to(e.dtype)
    t = torch.ones_like(e)
    new_z, new_e, new_g = z, e, g
    for _ in range(HALVINGS):
        at = torch.where(open_[..., None], z + t[..., None].to(z.dtype) * d, new_z)
        there, gradient = _slope(energy, at)
        taken = open_ & there.isfinite() & (there <= e + SUFFICIENT * t * slope) & gradient.isfinite().all(-1)
        new_z, new_g = (torch.where(taken[..., None], a, b) for a, b in ((at, new_z), (gradient, new_g)))
        new_e = torch.where(taken, there, new_e)
        open_ = open_ & ~taken
        if not open_.any():
            break
        t = t / 2
    return new_z, new_e, new_g


def _slope(energy: Energy, z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        e = energy(z)
        (g,) = torch.autograd.grad(e.sum(), z)
    return e.detach().double(), g
