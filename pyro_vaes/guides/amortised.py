"""q(z | x) from an encoder: a Gaussian, or a point."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class AmortisedNormal(PyroModule):
    r"""Guess the code with an encoder and its own doubt.

    .. math:: q(z \mid x) = \mathcal{N}(z; \mu_z(x), \mathrm{diag}\, \sigma_z^2(x))

    Args:
        encoder: x (..., d) -> (mu_z, sigma_z), each (..., k).

    Source: Kingma & Welling (2014), Eq. 9; Wang et al. (2018), Eq. 2.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> AmortisedNormal(GaussianEncoder(4, [5], 2))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.encoder(x)
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class AmortisedDelta(PyroModule):
    r"""Guess the code with an encoder and no doubt at all: the autoencoder as a guide.

    .. math:: q(z \mid x) = \delta(z - f(x))

    Args:
        encoder: x (..., d) -> f(x), shape (..., k).

    Source: Wang et al. (2018), III-A (fix Sigma_z = 0).

    >>> import torch
    >>> AmortisedDelta(torch.nn.Linear(4, 2))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            return pyro.sample("z", dist.Delta(self.encoder(x), event_dim=1))
