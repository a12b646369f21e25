"""q(z | x) that looks up which of the decoder's points x is."""

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class NearestKnot(PyroModule):
    r"""Guess the code to be that of the nearest point of the decoder's curve.

    .. math:: q(z \mid x) = \mathcal{N}(z; t_{i(x)}, s_{i(x)}^2), \qquad i(x) = \arg\min_i \|x - v_i\|

    Args:
        decoder: the model's own :class:`~pyro_vaes.nn.curve.Curve`: ``cell(x)`` (...) is i(x), ``knot(i)`` is t_i.
        spread: gives the s_i, (N,), when called. No gradient passes through the choice of i.

    Source: the encoder of arbitrary complexity in Dai, Wang, Aston, Hua & Wipf (2018).

    >>> import torch
    >>> from pyro_vaes.nn.curve import Curve
    >>> from pyro_vaes.nn.scales import LearnedScale
    >>> points = torch.rand(5, 4)
    >>> NearestKnot(Curve(points), LearnedScale(5))(points[:3]).shape
    torch.Size([3, 1])
    """

    def __init__(self, decoder, spread):
        super().__init__()
        self.decoder, self.spread = decoder, spread

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            i = self.decoder.cell(x)
            loc, scale = self.decoder.knot(i), self.spread()[i]
            return pyro.sample("z", dist.Normal(loc[..., None], scale[..., None]).to_event(1))
