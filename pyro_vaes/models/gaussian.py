"""p(z) p(x | z) with Gaussian entries, whatever their scale is."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class LatentGaussian(PyroModule):
    r"""Generate real data from a code.

    .. math:: p(z)\, p(x \mid z) = \mathcal{N}(z; 0, I)\, \mathcal{N}(x; \mu(z), \mathrm{diag}\, \sigma^2)

    sigma = 1 is the l2-VAE, one learned number the gamma-VAE, a network sigma(z) the LC-VAE.

    Args:
        prior: gives p(z) when called.
        decoder: z (..., k) -> mu (..., d).
        scale: z -> sigma, which broadcasts to (..., d).

    Source: Wang et al. (2018), Eq. 2; Kingma & Welling (2014), App. C.2.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> LatentGaussian(StandardPrior(2), torch.nn.Linear(2, 4), FixedScale(1.0))(size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, decoder, scale):
        super().__init__()
        self.prior, self.decoder, self.scale = prior, decoder, scale

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Normal(self.decoder(z), self.scale(z)).to_event(1), obs=x)
