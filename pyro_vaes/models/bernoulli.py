"""p(z) p(x | z) with binary entries."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class LatentBernoulli(PyroModule):
    r"""Generate binary data from a code.

    .. math:: p(z)\, p(x \mid z) = \mathcal{N}(z; 0, I) \prod_j \mathrm{Bernoulli}(x_j; \sigma(l_j(z)))

    Args:
        prior: gives p(z) when called.
        decoder: z (..., k) -> logits l (..., d).

    Source: Kingma & Welling (2014), App. C.1.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> model = LatentBernoulli(StandardPrior(2), torch.nn.Linear(2, 4))
    >>> model(size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, decoder):
        super().__init__()
        self.prior, self.decoder = prior, decoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)
