"""p(z) p(w) p(x | z, w): every datum has one precision weight, so that a whole datum can be the outlier."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class DatumPrecision(PyroModule):
    r"""Generate a datum from a code and blur all of it with one precision weight.

    .. math:: p(z)\, p(w)\, p(x \mid z, w) = \mathcal{N}(z; 0, I)\;
              \mathrm{Gamma}(w; \tfrac{\nu}{2}, \tfrac{\nu}{2})\; \prod_j \mathcal{N}(x_j; \mu_j(z), s_j^2 / w)

    With w integrated out, x given z is a multivariate t: a datum that fits nowhere counts for little in training, so
    that the decoder does not learn it, and stands out afterwards. The heavy tail of
    :class:`~pyro_vaes.models.student_t.PrecisionMixture` belongs to an entry, this one to a datum.

    Args:
        prior: gives p(z) when called.
        decoder: z (..., k) -> mu (..., d).
        scale: z -> s, which broadcasts to (..., d), in the units of x.
        dof: z -> nu > 0, which broadcasts to (..., 1).

    Source: Lange, Little & Taylor (1989) for the multivariate t as an assumption on outlying data; ours as a VAE.

    >>> import torch
    >>> from pyro_vaes.models.prior import StandardPrior
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> model = DatumPrecision(StandardPrior(2), torch.nn.Linear(2, 4), FixedScale(0.1), FixedScale(2.0))
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
            half = (self.dof(z) / 2).expand(mu[..., :1].shape)
            scale = pyro.deterministic("scale", self.scale(z).expand(mu.shape), event_dim=1)
            w = pyro.sample("w", dist.Gamma(half, half).to_event(1))
            return pyro.sample("x", dist.Normal(mu, scale / w.sqrt()).to_event(1), obs=x)
