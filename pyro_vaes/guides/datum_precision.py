"""q(z | x) q(w | z, x): given the code, the precision of the datum has an exact posterior."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class ConjugateDatumPrecision(PyroModule):
    r"""Guess the code; the datum's one precision weight then follows exactly.

    .. math:: q(z \mid x)\, q(w \mid z, x) = \mathcal{N}(z; \mu_z(x), \mathrm{diag}\, \sigma_z^2(x))\;
              \mathrm{Gamma}\!\left(w; \frac{\nu + d}{2}, \frac{\nu + \sum_j r_j^2 / s_j^2}{2}\right),
              \qquad r = x - \mu(z)

    Args:
        encoder: x (..., d) -> (mu_z, sigma_z), each (..., k).
        decoder, scale, dof: the model's own mu(z), s and nu.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> guide = ConjugateDatumPrecision(
    ...     GaussianEncoder(4, [5], 2), torch.nn.Linear(2, 4), FixedScale(0.1), FixedScale(2.0))
    >>> guide(torch.zeros(3, 4)).shape
    torch.Size([3, 1])
    """

    def __init__(self, encoder, decoder, scale, dof):
        super().__init__()
        self.encoder, self.decoder, self.scale, self.dof = encoder, decoder, scale, dof

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.encoder(x)
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            r = ((x - self.decoder(z)) / self.scale(z)).square().sum(-1, keepdim=True)
            nu = self.dof(z).expand(r.shape)
            return pyro.sample("w", dist.Gamma((nu + x.shape[-1]) / 2, (nu + r) / 2).to_event(1))
