"""p(z) p(w) p(x | z, w): every entry is either what the code says, or dirt."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class CellMixture(PyroModule):
    r"""Generate a clean datum from a code, and replace some of its entries by dirt that knows nothing of the code.

    .. math:: p(z)\, p(w)\, p(x \mid z, w) = \mathcal{N}(z; 0, I)\;
              \prod_j \mathrm{Bernoulli}(w_j; \alpha)\;
              \mathcal{N}(x_j; \mu_j(z), \sigma_j^2)^{w_j}\; \mathcal{N}(x_j; 0, S^2)^{1 - w_j}

    Args:
        prior: gives p(z) when called.
        decoder: z (..., k) -> mu (..., d), the clean datum.
        scale: z -> sigma, which broadcasts to (..., d), in the units of x.
        share: z -> alpha in (0, 1), the probability that an entry is clean, known before seeing it.
        broad: z -> S, the spread of dirt; data are standardised, so that dirt is centred at 0.

    The sites ``mu`` and ``scale`` record the clean datum and the size of an ordinary residual: the mean and spread of
    x include the dirt.

    Source: Eduardo, Nazabal, Williams & Sutton (2020), 3.1, for real-valued entries.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> scales = FixedScale(0.1), FixedScale(0.95), FixedScale(2.0)
    >>> CellMixture(StandardPrior(2), torch.nn.Linear(2, 4), *scales)(size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, decoder, scale, share, broad):
        super().__init__()
        self.prior, self.decoder, self.scale, self.share, self.broad = prior, decoder, scale, share, broad

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            mu = pyro.deterministic("mu", self.decoder(z), event_dim=1)
            scale = pyro.deterministic("scale", self.scale(z).expand(mu.shape), event_dim=1)
            w = pyro.sample("w", dist.Bernoulli(self.share(z).expand(mu.shape)).to_event(1))
            spread = w * scale + (1 - w) * self.broad(z)
            return pyro.sample("x", dist.Normal(w * mu, spread).to_event(1), obs=x)
