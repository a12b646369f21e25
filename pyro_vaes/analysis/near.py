"""Gaussians near a posterior: the guide's moments, and Laplace's approximation."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vaes.analysis.target import Target
from pyro_vaes.inference.completion.descent import descend
from pyro_vaes.inference.completion.local import Local, laplace

STEPS, DRAWS = 100, 256


class Near(NamedTuple):
    """Two Gaussians of B data on the real line, float64.

    Attributes:
        mean, sd: (B, k), of the guide; where it is a point mass its code, and the other Gaussian's deviations.
        centre: (B, k). scale: (B, k, k), the lower root of the covariance: Laplace's, or the guide's again.
        by: ``"laplace"`` or ``"guide"``, where the second comes from.
    """

    mean: Tensor
    sd: Tensor
    centre: Tensor
    scale: Tensor
    by: str


def near(t: Target, where: tuple[int, ...], laplace: bool = True) -> Near:
    """Look where the posterior is, from the guide and from the mode that a descent from its mean finds.

    Laplace's deviations are those of :func:`~pyro_vaes.inference.completion.local.laplace`; codes of more than 128
    entries, and energies without a second derivative, have none.
    """
    mean, sd = guide_moments(t, where)
    found = _laplace(t, mean) if laplace or t.sites.point_mass else None
    if found is None:
        # A point without a curvature: the width of a standard prior.
        sd = torch.where(sd > 0, sd, 1.0)
        return Near(mean, sd, mean, torch.diag_embed(sd), "guide")
    scale = found.scale.double()
    across = scale.square().sum(-1).sqrt()
    return Near(mean, torch.where(sd > 0, sd, across), found.mode.double(), scale, "laplace")


def guide_moments(t: Target, where: tuple[int, ...], draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the guide's code on the real line, each (B, k), float64, from draws.

    Of a point mass the point, and 0.
    """
    if t.sites.point_mass:
        start = t.start()[0].double()
        return start, torch.zeros_like(start)
    states = t.line.state(t.draw(draws, (*where, 0)).values).double()
    return states.mean(0), states.std(0)


def _laplace(t: Target, mean: Tensor) -> Local | None:
    def energy(z: Tensor) -> Tensor:
        return -t.log_joint(z)

    found = descend(energy, mean[None].to(t.x.dtype), STEPS)
    return laplace(energy, found.z[0])
