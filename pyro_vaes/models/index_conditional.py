"""p(z) p(x | z, i): every datum, named by its index, has a covariance of its own."""

import math

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.distributions import Jeffreys
from pyro_vaes.plates import data_plate


class IndexConditional(PyroModule):
    r"""Generate datum i with a covariance that is its alone, and profile that covariance out.

    .. math:: p(z)\, p(x \mid z, i) = \mathcal{N}(z; 0, I)\, \mathcal{N}(x; \mu(z), \Sigma^{(i)}),
              \qquad \Sigma^{(i)}_{jj} = (x_j - \mu_j(z))^2 + \epsilon^2

    which is the maximiser over :math:`\Sigma^{(i)}` of the likelihood times
    :math:`\prod_j \exp(-\epsilon^2 / 2 \Sigma_{jj})`, the factor ``sigma``. The profiled density is, up to the
    constant :math:`(1 + \log 2\pi)/2` per entry, that of :class:`~pyro_vaes.models.sparse_outlier.SparseOutlier`.
    A draw from the likelihood at x is the recycled datum of the recurrent VAE (Eq. 7 and 21-22).

    Args:
        prior: gives p(z) when called.
        decoder: z (..., k) -> mu (..., d).
        floor: z -> epsilon, which broadcasts to (..., d).
        width: R of the prior whose normaliser makes a learned floor meaningful; ``math.inf`` drops it.

    Source: Wang et al. (2018), III, Eq. 3-8. Departs from it: epsilon (the source has none); our factor 1/2 is the
    scale of the ELBO, so that Eq. 8 is twice this loss; without x, where the index means nothing,
    :math:`\Sigma = \epsilon^2 I`.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> IndexConditional(StandardPrior(2), torch.nn.Linear(2, 4), FixedScale(0.1))(size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, decoder, floor, width=1.0):
        super().__init__()
        self.prior, self.decoder, self.floor, self.width = prior, decoder, floor, width

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            mu = self.decoder(z)
            floor = pyro.deterministic("scale", self.floor(z).expand(mu.shape), event_dim=1)
            variance = (0.0 if x is None else (x - mu).square()) + floor.square()
            log_prior = -0.5 * floor.square() / variance - Jeffreys(floor, self.width).log_normaliser
            # A factor entry by entry: what is missing leaves its own out.
            pyro.sample("sigma", dist.Unit(log_prior).to_event(1), obs=log_prior.new_empty((*log_prior.shape, 0)))
            return pyro.sample("x", dist.Normal(mu, variance.sqrt()).to_event(1), obs=x)

    @staticmethod
    def constant(data_dim: int) -> float:
        """This loss minus that of the sparse-outlier form, in nats per datum: d (1 + log 2 pi) / 2.

        >>> round(IndexConditional.constant(2), 4)
        2.8379
        """
        return data_dim * 0.5 * (1 + math.log(2 * math.pi))
