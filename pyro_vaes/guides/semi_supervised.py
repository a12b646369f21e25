"""q(y | x) q(z | x, y): a classifier, and an encoder that is given the class."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule

from pyro_vaes.nn.labelled import split_label
from pyro_vaes.plates import data_plate


class Classified(PyroModule):
    r"""Guess the class of a datum that has no label, and the style given the class.

    .. math:: q(y \mid x)\, q(z \mid x, y) = \mathrm{Cat}(y; \mathrm{softmax}\, c(x))\,
              \mathcal{N}(z; \mu_z(x, y), \mathrm{diag}\, \sigma_z^2(x, y))

    The site ``y_unobserved`` counts where the datum has no label; elsewhere y is the label.

    Args:
        classifier: x (..., d) -> logits c(x) (..., c). encoder: x and y -> (mu_z, sigma_z), each (..., k).

    Source: Kingma, Rezende, Mohamed & Welling (2014), Eq. 4.

    >>> from pyro_vaes.nn.labelled import LabelledEncoder
    >>> guide = Classified(torch.nn.Linear(4, 3), LabelledEncoder(4, 3, [5], 2))
    >>> guide(torch.zeros(6, 4)).shape
    torch.Size([6, 2])
    """

    def __init__(self, classifier, encoder):
        super().__init__()
        self.classifier, self.encoder = classifier, encoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            logits = self.classifier(x)
            known, label = split_label(y, len(x), logits)
            with poutine.mask(mask=~known):  # type: ignore[call-overload]
                drawn = pyro.sample("y_unobserved", dist.OneHotCategorical(logits=logits))
            loc, scale = self.encoder(x, torch.where(known[..., None], label, drawn))
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))
