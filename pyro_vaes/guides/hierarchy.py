"""q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}): from the data upwards."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn

from pyro_vaes.plates import data_plate


class BottomUp(PyroModule):
    r"""Guess a chain of codes from the data upwards, each from a draw of the one below.

    .. math:: q(z_1, \dots, z_L \mid x) = \prod_{l=1}^{L} \mathcal{N}(z_l; \mu_l(z_{l-1}), \mathrm{diag}\,
              \sigma_l^2(z_{l-1})), \qquad z_0 = x

    z_2 depends on the draw of z_1, which the model draws from z_2: so the term of z_1 in the ELBO is log q - log p at
    the draw and has no closed form, although both are Gaussian.

    Args:
        up: L networks from x inwards; ``up[l - 1]`` maps z_{l-1} (..., k_{l-1}) to mean and standard deviation of z_l.

    Source: Burda, Grosse & Salakhutdinov (2016), Eq. 2 and App. C.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> guide = BottomUp([GaussianEncoder(4, (5,), 3), GaussianEncoder(3, (5,), 2)])
    >>> guide(torch.zeros(6, 4)).shape
    torch.Size([6, 2])
    """

    def __init__(self, up):
        super().__init__()
        self.up = nn.ModuleList(up)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = x
            for layer, network in enumerate(self.up, 1):
                loc, scale = network(z)
                z = pyro.sample(f"z_{layer}", dist.Normal(loc, scale).to_event(1))
            return z
