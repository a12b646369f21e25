"""q(z | x, y): the encoder is given the condition beside the datum; or y alone, or there is nothing to guess."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.nn.joined import given, joined
from pyro_vaes.plates import data_plate


class ConditionalNormal(PyroModule):
    r"""Guess the code from the datum and its condition.

    .. math:: q(z \mid x, y) = \mathcal{N}(z; \mu_z(x, y), \mathrm{diag}\, \sigma_z^2(x, y))

    Args:
        encoder: x and y side by side (..., d + c) -> (mu_z, sigma_z), each (..., k).

    Source: Sohn, Lee & Yan (2015), 3.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> ConditionalNormal(GaussianEncoder(4 + 3, [5], 2))(torch.zeros(3, 4), torch.eye(3)).shape
    torch.Size([3, 2])
    """

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.encoder(joined(x, y))
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class FromCondition(PyroModule):
    r"""Guess the code from the condition alone, as it has to be done when x is not there to be seen.

    .. math:: q(z \mid x, y) = \mathcal{N}(z; \mu_p(y), \mathrm{diag}\, \sigma_p^2(y))

    With the model's own prior network the KL divergence is zero, and the ELBO is the objective of the Gaussian
    stochastic network (GSNN); an importance-weighted bound is then the Monte Carlo estimate of log p(x | y).

    Args:
        prior: y (..., c) -> (mu_p, sigma_p), each (..., k): that of the model.

    Source: Sohn, Lee & Yan (2015), 3.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> FromCondition(GaussianEncoder(3, [5], 2))(torch.zeros(3, 4), torch.eye(3)).shape
    torch.Size([3, 2])
    """

    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.prior(given(y))
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class NoCode(PyroModule):
    """The guide of a model without latent sites: there is nothing to guess.

    >>> NoCode()()
    """

    def forward(self, x=None, y=None, *, size=None):
        return None
