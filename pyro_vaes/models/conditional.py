"""p(z | y) p(x | z, y): what is generated depends on a condition that is given with every datum."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.nn.joined import given, joined
from pyro_vaes.plates import data_plate


class ConditionalBernoulli(PyroModule):
    r"""Generate binary data from a code and a condition; the code knows nothing of the condition.

    .. math:: p(z)\, p(x \mid z, y) = \mathcal{N}(z; 0, I) \prod_j \mathrm{Bernoulli}(x_j; \sigma(l_j(z, y)))

    Args:
        prior: gives p(z) when called.
        decoder: z and y side by side (..., k + c) -> logits l (..., d).

    Source: Kingma, Rezende, Mohamed & Welling (2014), Eq. 2, with labels that are all known.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> model = ConditionalBernoulli(StandardPrior(2), torch.nn.Linear(2 + 3, 4))
    >>> model(y=torch.eye(3), size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, decoder):
        super().__init__()
        self.prior, self.decoder = prior, decoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(joined(z, y))).to_event(1), obs=x)


class StructuredOutput(PyroModule):
    r"""Predict x from y, with a code for what y leaves open.

    .. math:: p(z \mid y)\, p(x \mid z, y) = \mathcal{N}(z; \mu_p(y), \mathrm{diag}\, \sigma_p^2(y))
              \prod_j \mathrm{Bernoulli}(x_j; \sigma(l_j(z, y)))

    Args:
        prior: y (..., c) -> (mu_p, sigma_p), each (..., k).
        decoder: z and y side by side (..., k + c) -> logits l (..., d).

    What is predicted is x here and what is given is y, as everywhere in this library; the source calls them y and x.

    Source: Sohn, Lee & Yan (2015), 3.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> model = StructuredOutput(GaussianEncoder(3, [5], 2), torch.nn.Linear(2 + 3, 4))
    >>> model(y=torch.eye(3), size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, decoder):
        super().__init__()
        self.prior, self.decoder = prior, decoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.prior(given(y))
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(joined(z, y))).to_event(1), obs=x)


class DirectOutput(PyroModule):
    r"""Predict x from y without a code: the entries of x are independent given y.

    .. math:: p(x \mid y) = \prod_j \mathrm{Bernoulli}(x_j; \sigma(l_j(y)))

    Args:
        decoder: y (..., c) -> logits l (..., d).

    Source: the baseline network of Sohn, Lee & Yan (2015), 3.

    >>> import torch
    >>> DirectOutput(torch.nn.Linear(3, 4))(y=torch.eye(3), size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(given(y))).to_event(1), obs=x)
