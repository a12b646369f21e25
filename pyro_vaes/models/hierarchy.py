"""p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) p(x | z_1): codes of codes, with binary entries."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn

from pyro_vaes.plates import data_plate


class LatentHierarchy(PyroModule):
    r"""Generate binary data from a chain of codes, z_1 nearest to x.

    .. math:: p(z_L) \prod_{l=1}^{L-1} p(z_l \mid z_{l+1})\, p(x \mid z_1)
              = \mathcal{N}(z_L; 0, I) \prod_{l=1}^{L-1} \mathcal{N}(z_l; \mu_l(z_{l+1}), \mathrm{diag}\,
              \sigma_l^2(z_{l+1})) \prod_j \mathrm{Bernoulli}(x_j; \sigma(l_j(z_1)))

    Args:
        prior: gives p(z_L) when called.
        down: L - 1 networks from x inwards; ``down[l - 1]`` maps z_{l+1} (..., k_{l+1}) to mean and standard deviation
            of z_l, each (..., k_l). With none of them this is the model of one code, called z_1.
        decoder: z_1 (..., k_1) -> logits (..., d).

    Source: Burda, Grosse & Salakhutdinov (2016), Eq. 1 and App. C. A course report (S4, Eq. 9) also weighs z_1 by
    N(0, I), beside p(z_1 | z_2): that counts it twice; only the top layer has the standard prior.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> model = LatentHierarchy(StandardPrior(2), [GaussianEncoder(2, (5,), 3)], torch.nn.Linear(3, 4))
    >>> model(size=6).shape
    torch.Size([6, 4])
    """

    def __init__(self, prior, down, decoder):
        super().__init__()
        self.prior, self.down, self.decoder = prior, nn.ModuleList(down), decoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            layer = len(self.down) + 1
            z = pyro.sample(f"z_{layer}", self.prior())
            for network in reversed(self.down):
                layer -= 1
                loc, scale = network(z)
                z = pyro.sample(f"z_{layer}", dist.Normal(loc, scale).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)
