"""q(z | x) q(s | z, x): what the clean datum does not explain is the outlier."""

import math

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class OutlierDelta(PyroModule):
    r"""Guess the code; the outlier is then what is left.

    .. math:: q(z \mid x)\, q(s \mid z, x) = \mathcal{N}(z; \mu_z(x), \mathrm{diag}\, \sigma_z^2(x))\;
              \delta(s - (x - \mu(z)))

    The point mass stands for the narrow Gaussian of width :math:`\tau` that it is the centre of, and carries that
    Gaussian's log-density. It cancels the constant of :math:`\mathcal{N}(x; \mu + s, \tau^2 I)`, so that the loss is
    Eq. 20 itself and not Eq. 20 up to an infinite constant. (Pyro's ``TraceMeanField_ELBO`` drops a Delta's
    log-density, and shows the constant again; gradients are the same.)

    Args:
        encoder: x (..., d) -> (mu_z, sigma_z), each (..., k).
        decoder: the model's own mu(z).
        noise: the model's own tau.

    Source: Wang et al. (2018), Eq. 16 and 17-20.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> guide = OutlierDelta(GaussianEncoder(4, [5], 2), torch.nn.Linear(2, 4))
    >>> guide(torch.zeros(3, 4)).shape
    torch.Size([3, 4])
    """

    def __init__(self, encoder, decoder, noise=1e-2):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.log_peak = -math.log(noise * math.sqrt(2 * math.pi))

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.encoder(x)
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            return pyro.sample("s", dist.Delta(x - self.decoder(z), self.log_peak * x.shape[-1], event_dim=1))
