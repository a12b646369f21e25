"""q(z | x) q(u | z): a code, and the code of that code."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class TwoStageNormal(PyroModule):
    r"""Guess z from the datum, and u from the draw of z.

    .. math:: q(z \mid x)\, q(u \mid z) = \mathcal{N}(z; \mu_z(x), \mathrm{diag}\, \sigma_z^2(x))\,
              \mathcal{N}(u; \mu_u(z), \mathrm{diag}\, \sigma_u^2(z))

    Args:
        encoder: x (..., d) -> mean and standard deviation of z, each (..., k).
        second_encoder: z (..., k) -> mean and standard deviation of u, each (..., k).

    Source: Dai & Wipf (2019), 4.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> TwoStageNormal(GaussianEncoder(4, [5], 2), GaussianEncoder(2, [5], 2))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, encoder, second_encoder):
        super().__init__()
        self.encoder, self.second_encoder = encoder, second_encoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.encoder(x)
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            loc, scale = self.second_encoder(z)
            return pyro.sample("u", dist.Normal(loc, scale).to_event(1))
