"""q(z | x) for a linear decoder: what the datum says of the code is known, an encoder stands in for the prior."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class AmortisedFactor(PyroModule):
    r"""Guess a Gaussian in the place of the prior; the posterior under it then follows exactly.

    .. math:: q(z \mid x) \propto \mathcal{N}(z; \mu_z(x), \mathrm{diag}\, \sigma_z^2(x))\,
              \mathcal{N}(x; W z + b, \gamma I) = \mathcal{N}(z; \Lambda^{-1} h, \Lambda^{-1}), \qquad
              \Lambda = \mathrm{diag}\, \sigma_z^{-2}(x) + \tfrac{1}{\gamma} W^\top W, \quad
              h = \frac{\mu_z(x)}{\sigma_z^2(x)} + \tfrac{1}{\gamma} W^\top (x - b)

    The likelihood of a linear decoder is Gaussian in z, so that only the prior has to be approximated, for each datum
    anew: of a mixture the encoder may pick the component that z lies in. With the encoder's answer N(0, I) it is the
    posterior of probabilistic PCA. Factorised doubt would cost, however small gamma is,
    :math:`\tfrac12 \sum_j \log (W^\top W)_{jj} - \tfrac12 \log \det W^\top W` nats per datum, and so pull the columns
    of W towards right angles.

    Args:
        encoder: x (..., d) -> (mu_z, sigma_z), each (..., k).
        decoder, scale: the model's own, a linear layer z -> W z + b, and z -> sqrt(gamma), one number.

    Source: the conjugate half of Johnson et al. (2016), 4, with a likelihood that is conjugate as it is.

    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> AmortisedFactor(GaussianEncoder(4, [5], 2), torch.nn.Linear(2, 4), FixedScale(0.1))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(self, encoder, decoder, scale):
        super().__init__()
        self.encoder, self.decoder, self.scale = encoder, decoder, scale

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.encoder(x)
            w = self.decoder.weight / self.scale()
            precision = torch.diag_embed(scale**-2) + w.T @ w
            pull = loc / scale**2 + (x - self.decoder.bias) / self.scale() @ w
            loc = torch.linalg.solve(precision, pull)
            return pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))
