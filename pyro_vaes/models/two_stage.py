"""p(u) p(z | u) p(x | z): a code whose own distribution has a code."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class TwoStageGaussian(PyroModule):
    r"""Generate real data from a code z that was generated from a code u.

    .. math:: p(u)\, p(z \mid u)\, p(x \mid z) = \mathcal{N}(u; 0, I)\, \mathcal{N}(z; \mu_z(u), \gamma_z I)\,
              \mathcal{N}(x; \mu_x(z), \gamma_x I)

    Args:
        prior: gives p(u) when called.
        second_decoder: u (..., k) -> mu_z (..., k).
        second_scale: u -> sqrt(gamma_z), which broadcasts to (..., k).
        decoder: z (..., k) -> mu_x (..., d).
        scale: z -> sqrt(gamma_x), which broadcasts to (..., d).

    Source: Dai & Wipf (2019), 4; S3 part IV. There the two stages are two models; ours is their product, whose draws
    are the paper's: u, then z with its noise, then x.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> one = FixedScale(1.0)
    >>> TwoStageGaussian(StandardPrior(2), torch.nn.Linear(2, 2), one, torch.nn.Linear(2, 4), one)(size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, second_decoder, second_scale, decoder, scale):
        super().__init__()
        self.prior, self.second_decoder, self.second_scale = prior, second_decoder, second_scale
        self.decoder, self.scale = decoder, scale

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            u = pyro.sample("u", self.prior())
            z = pyro.sample("z", dist.Normal(self.second_decoder(u), self.second_scale(u)).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), self.scale(z)).to_event(1), obs=x)
