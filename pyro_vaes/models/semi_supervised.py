"""p(y) p(z) p(x | y, z): a class and a style; the class of some data is known."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from pyro_vaes.nn.joined import joined
from pyro_vaes.nn.labelled import split_label
from pyro_vaes.plates import data_plate


class SemiSupervised(PyroModule):
    r"""Generate binary data from a class and a style that are independent.

    .. math:: p(y)\, p(z)\, p(x \mid y, z) = \mathrm{Cat}(y; \pi)\, \mathcal{N}(z; 0, I)
              \prod_j \mathrm{Bernoulli}(x_j; \sigma(l_j(z, y)))

    Labelled and unlabelled data share the one plate: a row of ``y`` is one-hot where the label is known and zero where
    it is not, and the class of such a datum is the latent site ``y_unobserved``. Known labels are the site
    ``y_observed``; ``y`` records which of the two a datum has.

    Args:
        prior: gives p(z) when called. share: pi (c,), the shares of the classes; it is not learned.
        decoder: z and y side by side (..., k + c) -> logits l (..., d).

    Source: Kingma, Rezende, Mohamed & Welling (2014), Eq. 2.

    >>> from pyro_vaes.models.prior import StandardPrior
    >>> model = SemiSupervised(StandardPrior(2), torch.nn.Linear(2 + 3, 4), torch.ones(3) / 3)
    >>> model(size=5).shape
    torch.Size([5, 4])
    """

    def __init__(self, prior, decoder, share):
        super().__init__()
        self.prior, self.decoder = prior, decoder
        self.register_buffer("share", torch.as_tensor(share))

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size) as plate:
            known, label = split_label(y, len(plate), self.share)  # type: ignore[arg-type]
            y = pyro.sample("y", dist.OneHotCategorical(self.share), obs=label, obs_mask=known)  # type: ignore[arg-type]
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(joined(z, y))).to_event(1), obs=x)
