"""p(z) p(s) p(x | z, s): a clean datum plus a sparse outlier."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.distributions import Jeffreys
from pyro_vaes.plates import data_plate


class SparseOutlier(PyroModule):
    r"""Generate a clean datum from a code and add an outlier that is mostly nothing and sometimes anything.

    .. math:: p(z)\, p(s)\, p(x \mid z, s) = \mathcal{N}(z; 0, I)\;
              \prod_j \mathrm{Jeffreys}(s_j; \epsilon, R)\; \mathcal{N}(x; \mu(z) + s, \tau^2 I)

    Args:
        prior: gives p(z) when called.
        decoder: z (..., k) -> mu (..., d), the clean datum. It must be a function of z alone (no dropout): the
            guide computes it too.
        floor: z -> epsilon, which broadcasts to (..., d).
        width: R, the largest outlier, in the units of x; ``math.inf`` for the improper prior.
        noise: tau. With the guide :class:`~pyro_vaes.guides.outlier.OutlierDelta` of the same tau its value does
            not change the bound.

    The sites ``mu`` and ``scale`` record the clean datum and the size of an ordinary residual: the mean and spread of
    x include the outlier.

    Source: Wang et al. (2018), III-C, Eq. 14-16. Departs from it: the prior has a floor and a width (see
    :class:`~pyro_vaes.distributions.Jeffreys`).

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> SparseOutlier(StandardPrior(2), torch.nn.Linear(2, 4), FixedScale(0.1))(size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, decoder, floor, width=1.0, noise=1e-2):
        super().__init__()
        self.prior, self.decoder, self.floor = prior, decoder, floor
        self.width, self.noise = width, noise

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            mu = pyro.deterministic("mu", self.decoder(z), event_dim=1)
            floor = pyro.deterministic("scale", self.floor(z).expand(mu.shape), event_dim=1)
            s = pyro.sample("s", Jeffreys(floor, self.width).to_event(1))
            return pyro.sample("x", dist.Normal(mu + s, self.noise).to_event(1), obs=x)
