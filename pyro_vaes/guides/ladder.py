"""q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x): what the data say, times what the model says."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn

from pyro_vaes.nn.ladder import product_of_normals
from pyro_vaes.plates import data_plate


class Ladder(PyroModule):
    r"""Guess a chain of codes from the top down, with the model's own networks corrected by the data.

    .. math:: q(z_L \mid x) = \mathcal{N}(\hat\mu_L(x), \hat\sigma_L^2(x)), \qquad
              q(z_l \mid z_{l+1}, x) \propto p(z_l \mid z_{l+1})\, \mathcal{N}(z_l; \hat\mu_l(x), \hat\sigma_l^2(x))

    The order is the model's, so that every term of the ELBO is a KL divergence of two Gaussians, given the codes above.

    Args:
        up: x (..., d) -> L pairs (mean, standard deviation), from x inwards: the deterministic path.
        down: the model's own L - 1 networks, from x inwards: z_{l+1} -> mean and standard deviation of z_l.

    Source: Sonderby, Raiko, Maaloe, Sonderby & Winther (2016), 2.

    >>> import torch
    >>> from pyro_vaes.nn.ladder import LadderEncoder
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> Ladder(LadderEncoder(4, (6, 5), (3, 2)), [GaussianEncoder(2, (5,), 3)])(torch.zeros(7, 4)).shape
    torch.Size([7, 3])
    """

    def __init__(self, up, down):
        super().__init__()
        self.up, self.down = up, nn.ModuleList(down)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            *seen, (loc, scale) = self.up(x)
            layer = len(seen) + 1
            z = pyro.sample(f"z_{layer}", dist.Normal(loc, scale).to_event(1))
            for network in reversed(self.down):
                layer -= 1
                loc, scale = product_of_normals(seen[layer - 1], network(z))
                z = pyro.sample(f"z_{layer}", dist.Normal(loc, scale).to_event(1))
            return z
