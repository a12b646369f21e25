"""What a flow guide reads off x: a base, a context, and the parameters of planar layers. Plain torch: no Pyro here."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vaes.nn.mlp import Activation, GaussianEncoder

# Layers start this close to the identity: not at it, where the layers before the last would get no gradient.
QUIET = 1e-2


class ContextEncoder(GaussianEncoder):
    """Map x to the mean and standard deviation of a flow's base, and to its context h, the last hidden layer.

    Attributes:
        context: entries of h; those of x itself where there is no hidden layer.

    >>> loc, scale, h = ContextEncoder(8, [5], 2)(torch.zeros(3, 8))
    >>> loc.shape, scale.shape, h.shape
    (torch.Size([3, 2]), torch.Size([3, 2]), torch.Size([3, 5]))
    """

    def __init__(self, data_dim: int, hidden: Sequence[int], latent_dim: int, activation: Activation = nn.ReLU):
        super().__init__(data_dim, hidden, latent_dim, activation)
        self.context = [data_dim, *hidden][-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        h = self.trunk(x)
        return self.loc(h), softplus(self.raw_scale(h)) + 1e-5, h


class PlanarHead(nn.Module):
    r"""Map a context to the parameters b, u, w of a planar layer: h (..., c) -> (..., 1) and two of (..., k).

    .. math:: (b, v, w) = W h + a, \qquad u = v + \log(e - 1)\, w / \lVert w \rVert^2

    Pyro bends u to :math:`\hat u = u + (\mathrm{softplus}(w'u) - 1 - w'u)\, w / \lVert w \rVert^2`, so that the layer
    can be inverted. The shift makes :math:`\hat u = 0` where v = 0: the layer is then the identity, whatever w is.

    Source: Rezende & Mohamed (2015), Eq. 10 and App. A.1; a linear head of the encoder, as theirs. The shift is ours.

    >>> b, u, w = PlanarHead(5, 2)(torch.zeros(3, 5))
    >>> b.shape, u.shape, w.shape
    (torch.Size([3, 1]), torch.Size([3, 2]), torch.Size([3, 2]))
    """

    def __init__(self, context: int, latent_dim: int):
        super().__init__()
        self.sizes = (1, latent_dim, latent_dim)
        self.linear = nn.Linear(context, sum(self.sizes))
        with torch.no_grad():
            for p in self.linear.parameters():
                p[1 : 1 + latent_dim].mul_(QUIET)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, v, w = self.linear(h).split(self.sizes, -1)
        return b, v + math.log(math.e - 1) * w / w.square().sum(-1, keepdim=True), w


def quieten(layer: nn.Linear) -> None:
    """Shrink a last layer, so that what it parameterises starts near its value at zero.

    >>> layer = nn.Linear(3, 2)
    >>> quieten(layer)
    >>> bool(layer.weight.abs().max() < 0.006)
    True
    """
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(QUIET)
