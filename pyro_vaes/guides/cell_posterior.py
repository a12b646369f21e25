"""q(z | x) q(w | z, x): given the code, whether an entry is clean has an exact posterior."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class CellPosterior(PyroModule):
    r"""Guess the code; which entries are clean then follows exactly.

    .. math:: q(z \mid x)\, q(w \mid z, x) = \mathcal{N}(z; \mu_z(x), \mathrm{diag}\, \sigma_z^2(x))\;
              \prod_j \mathrm{Bernoulli}(w_j; \pi_j), \qquad
              \mathrm{logit}\, \pi_j = \log \frac{\alpha\, \mathcal{N}(x_j; \mu_j(z), \sigma_j^2)}
                                                {(1 - \alpha)\, \mathcal{N}(x_j; 0, S^2)}

    Because q(w | z, x) is the model's own posterior, log p(x, w | z) - log q(w | z, x) is log p(x | z) for *every* w.

    Args:
        encoder: x (..., d) -> (mu_z, sigma_z), each (..., k).
        decoder, scale, share, broad: the model's own mu(z), sigma, alpha and S.

    Source: Eduardo et al. (2020), the coordinate-ascent version of their inference, in which pi is the optimum at the
    current parameters and no gradient passes through it. Departs from it: pi belongs to every draw of z, with its
    gradient, so that the bound is the tightest one; their amortised version, a network pi(x), is not ours.

    >>> import torch
    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> scales = FixedScale(0.1), FixedScale(0.95), FixedScale(2.0)
    >>> guide = CellPosterior(GaussianEncoder(4, [5], 2), torch.nn.Linear(2, 4), *scales)
    >>> guide(torch.zeros(3, 4)).shape
    torch.Size([3, 4])
    """

    def __init__(self, encoder, decoder, scale, share, broad):
        super().__init__()
        self.encoder, self.decoder, self.scale, self.share, self.broad = encoder, decoder, scale, share, broad

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = self.encoder(x)
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            clean = dist.Normal(self.decoder(z), self.scale(z)).log_prob(x)
            dirt = dist.Normal(0.0, self.broad(z)).log_prob(x)
            odds = self.share(z).logit() + clean - dirt
            return pyro.sample("w", dist.Bernoulli(logits=odds).to_event(1))
