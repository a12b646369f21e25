"""p(z) p(w) p(x | z, w): every entry has a precision of its own, so that x given z is Student's t."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class PrecisionMixture(PyroModule):
    r"""Generate a clean datum from a code and blur each entry with a precision weight of its own.

    .. math:: p(z)\, p(w)\, p(x \mid z, w) = \mathcal{N}(z; 0, I)\;
              \prod_j \mathrm{Gamma}(w_j; \tfrac{\nu}{2}, \tfrac{\nu}{2})\; \mathcal{N}(x_j; \mu_j(z), s_j^2 / w_j)

    With w integrated out, x given z is Student's t with :math:`\nu` degrees of freedom: the sparse-outlier story made
    proper. With :math:`s \sqrt{\nu}` held fixed and :math:`\nu \to 0`, differences of its loss tend to those of the
    iC-VAE with that floor: the floor is a statistical quantity, and here it is learned.

    Args:
        prior: gives p(z) when called.
        decoder: z (..., k) -> mu (..., d).
        scale: z -> s, which broadcasts to (..., d), in the units of x.
        dof: z -> nu > 0, which broadcasts to (..., d).

    Source: the scale mixture of Andrews & Mallows (1974), in the model of Wang et al. (2018), III-C.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> model = PrecisionMixture(StandardPrior(2), torch.nn.Linear(2, 4), FixedScale(0.1), FixedScale(2.0))
    >>> model(size=3).shape
    torch.Size([3, 4])
    """

    def __init__(self, prior, decoder, scale, dof):
        super().__init__()
        self.prior, self.decoder, self.scale, self.dof = prior, decoder, scale, dof

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            mu = self.decoder(z)
            half = (self.dof(z) / 2).expand(mu.shape)
            scale = pyro.deterministic("scale", self.scale(z).expand(mu.shape), event_dim=1)
            w = pyro.sample("w", dist.Gamma(half, half).to_event(1))
            return pyro.sample("x", dist.Normal(mu, scale / w.sqrt()).to_event(1), obs=x)
