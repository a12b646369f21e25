"""The posterior near its mode as a Gaussian: a proposal for weights, and a scale for chains."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vaes.inference.completion.descent import Energy
from pyro_vaes.inference.completion.field import Cost, Field

# Entries of a code: the curvature takes a pass through the network for each.
MOST = 128
FLATTEST = 0.1


class Local(NamedTuple):
    """N(mode, L L'): ``mode`` (B, k), ``scale`` L (B, k, k)."""

    mode: Tensor
    scale: Tensor

    def normal(self) -> MultivariateNormal:
        return MultivariateNormal(self.mode, scale_tril=self.scale, validate_args=False)

    def only(self, i: int) -> "Local":
        return Local(self.mode[i : i + 1], self.scale[i : i + 1])


def local(field: Field, mode: Tensor) -> Local | None:
    r"""Give Laplace's approximation of p(z | x_seen) at a mode (B, k), in the coordinates of the field's states.

    .. math:: \mathcal{N}(z^*, H^{-1}), \qquad H = -\nabla^2 \log p(z, x_{seen})

    Eigenvalues of H are taken as at least 0.1, and by their size where they are negative (no mode has been reached).
    None for codes of more than 128 entries, and where a network has no second derivative.
    """
    cost = Cost(None, 0.0, None)
    return laplace(lambda z: field.energy(z, cost), mode)


def laplace(energy: Energy, mode: Tensor) -> Local | None:
    """The same of any energy (R, B, k) -> (R, B) whose datum b depends on its own code alone.

    >>> spread = torch.tensor([1.0, 2.0])
    >>> laplace(lambda z: 0.5 * (z / spread).square().sum(-1), torch.zeros(1, 2)).scale.abs()
    tensor([[[1., 0.],
             [0., 2.]]])
    """
    k = mode.shape[-1]
    if k > MOST:
        return None
    with torch.enable_grad():
        z = mode.detach()[None].requires_grad_()
        (slope,) = torch.autograd.grad(energy(z).sum(), z, create_graph=True)
        try:
            rows = [torch.autograd.grad(slope[..., j].sum(), z, retain_graph=True)[0][0] for j in range(k)]
        except RuntimeError:  # of a network that is differentiated once only
            return None
    curvature = torch.stack(rows, -2).double()
    if not curvature.isfinite().all():
        return None
    values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
    half = vectors * values.abs().clamp(min=FLATTEST).rsqrt()[..., None, :]
    # A triangular root, as densities are computed with: L' is the R of a QR of the other root.
    triangle = torch.linalg.qr(half.mT)[1].mT
    triangle = triangle * triangle.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return Local(mode, triangle.to(mode.dtype))
