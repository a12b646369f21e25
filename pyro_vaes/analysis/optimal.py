"""The best Gaussian for a datum: what an encoder could have said of it at most."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vaes.analysis.near import Near
from pyro_vaes.analysis.target import Target
from pyro_vaes.inference.completion.descent import descend
from pyro_vaes.inference.densities import seed_at

FAMILIES = ("diagonal", "full")
MOST_FULL = 64
SELECTION = 256


class Gaussian(NamedTuple):
    """N(loc, L L') of B data on the real line: ``loc`` (B, k), ``scale`` L (B, k, k), lower triangular, float64."""

    loc: Tensor
    scale: Tensor


class _Family(NamedTuple):
    """Gaussians around R bases for each of B data: z = m + L (u + T e), of parameters (u, log diag T, below T)."""

    loc: Tensor
    scale: Tensor
    full: bool

    @property
    def size(self) -> int:
        k = self.loc.shape[-1]
        return 2 * k + (k * (k - 1) // 2 if self.full else 0)

    def gaussian(self, parameters: Tensor) -> Gaussian:
        """(R, B, p) -> loc (R, B, k), scale (R, B, k, k)."""
        k = self.loc.shape[-1]
        u, log_diagonal = parameters[..., :k], parameters[..., k : 2 * k]
        turn = torch.diag_embed(log_diagonal.exp())
        if self.full:
            rows, columns = torch.tril_indices(k, k, -1)
            below = torch.zeros_like(turn)
            below[..., rows, columns] = parameters[..., 2 * k :]
            turn = turn + below
        return Gaussian(self.loc + (self.scale @ u[..., None])[..., 0], self.scale @ turn)


def best_gaussian(
    t: Target, guide: Gaussian, white: Near, family: str, particles: int, steps: int, where: tuple[int, ...], keep: bool
) -> Gaussian:
    r"""Maximise the bound of a datum over Gaussians by L-BFGS, with the noise of its estimate held fixed.

    .. math:: \frac{1}{S} \sum_s \log p(x, m + L e_s) + \log |L|

    The noise e comes in pairs of opposite signs and has the covariance I to the last digit, so that quadratic
    posteriors are integrated exactly; a fit to few draws could otherwise use their gaps. It starts at the guide and at
    Laplace's approximation; which end is better is decided on fresh noise, and the guide itself stands for election
    too where it is of the family, so that q* is worse than the guide by chance only.

    Args:
        guide: moments of the guide, with a diagonal scale. keep: whether the guide is that Gaussian.
        particles: at least 4 k are taken. where: seed of the noise.

    Source: Giordano, Ingram & Broderick (2024), for a fixed noise. Departs from them: the noise is whitened.
    """
    k = guide.loc.shape[1]
    full = family == "full"
    bases = [guide]
    if white.by == "laplace":
        # The diagonal Gaussian nearest to a Gaussian has the precision's diagonal.
        precision = torch.cholesky_inverse(white.scale)
        alone = torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1).rsqrt())
        bases.append(Gaussian(white.centre, white.scale if full else alone))
    start = _Family(torch.stack([b.loc for b in bases]), torch.stack([b.scale for b in bases]), full)
    noise = whitened(max(particles, 4 * k), k, (*where, 0)).to(guide.loc)

    def energy(parameters: Tensor) -> Tensor:
        return -bounds(t, start.gaussian(parameters.double()), noise)

    # In the precision of the energy, by which the descent knows its own end.
    begin = start.loc.new_zeros(*start.loc.shape[:2], start.size, dtype=t.x.dtype)
    ends = start.gaussian(descend(energy, begin, steps).z.double())
    loc, scale = ([ends.loc, guide.loc[None]], [ends.scale, guide.scale[None]]) if keep else ([ends.loc], [ends.scale])
    candidates = Gaussian(torch.cat(loc), torch.cat(scale))
    fresh = whitened(max(SELECTION, 4 * k), k, (*where, 1)).to(guide.loc)
    score = bounds(t, candidates, fresh).nan_to_num(nan=-torch.inf)
    chosen, rows = score.argmax(0), torch.arange(len(guide.loc), device=guide.loc.device)
    return Gaussian(candidates.loc[chosen, rows], candidates.scale[chosen, rows])


def whitened(draws: int, k: int, where: tuple[int, ...]) -> Tensor:
    """Standard normal draws in pairs of opposite signs whose covariance is exactly I: (S, k), S even and above 2 k.

    >>> e = whitened(20, 3, (0,))
    >>> bool((e.mean(0).abs() < 1e-12).all()), bool(((e.T @ e / 20 - torch.eye(3)).abs() < 1e-12).all())
    (True, True)
    """
    seed_at(*where)
    half = torch.randn(max(math.ceil(draws / 2), k + 1), k, dtype=torch.float64)
    root = torch.linalg.cholesky(half.T @ half / len(half))
    half = torch.linalg.solve_triangular(root, half.T, upper=False).T
    return torch.cat([half, -half])


def bounds(t: Target, q: Gaussian, noise: Tensor) -> Tensor:
    """The bound of R Gaussians of B data, (R, B), float64, at given noise (S, k); differentiable."""
    states = q.loc + torch.einsum("rbij,sj->srbi", q.scale, noise)
    joint = t.log_joint(states.flatten(0, 1).to(t.x.dtype)).reshape(states.shape[:3]).mean(0)
    k = noise.shape[1]
    entropy = q.scale.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * k * (1 + math.log(2 * math.pi))
    return joint + entropy
