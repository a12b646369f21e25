"""Networks that see their input again, at every layer or before the last one. Plain torch: no Pyro here."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vaes.nn.mlp import Activation, mlp


class SkipDecoder(nn.Module):
    r"""Map a code to the mean (or the logits) of x, the code entering every layer: (..., k) -> (..., d).

    .. math:: h_1 = a(W_1 z + b_1), \qquad h_{l+1} = a(W_{l+1} h_l + b_{l+1} + V_{l+1} z)

    The last layer, which gives x, has a V too. With V = 0 this is a :class:`~pyro_vaes.nn.mlp.Decoder`.

    Args:
        latent_dim: k. hidden: the *encoder's* widths, from x inwards, at least one; the decoder runs through them
            backwards. output: last activation.

    Source: Dieng, Kim, Rush & Blei (2019), Sec. 3 (the sum of two linear maps; their images have a residual or a
    convolutional trunk, ours is fully connected).

    >>> decoder = SkipDecoder(2, [6, 4], 8)
    >>> decoder(torch.zeros(3, 2)).shape, len(decoder.skip)
    (torch.Size([3, 8]), 2)
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        data_dim: int,
        output: Activation = nn.Sigmoid,
        activation: Activation = nn.ReLU,
    ):
        super().__init__()
        widths = [latent_dim, *reversed(hidden), data_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.skip = nn.ModuleList(nn.Linear(latent_dim, width, bias=False) for width in widths[2:])
        self.activation, self.output = activation(), output()

    def forward(self, z: Tensor) -> Tensor:
        first, *others = self.layers
        h = first(z)
        for layer, skip in zip(others, self.skip, strict=True):
            h = layer(self.activation(h)) + skip(z)
        return self.output(h)


class InputSkip(nn.Module):
    r"""Map z to its last hidden layer with z itself beside it: (..., k) -> (..., w + k).

    .. math:: h = \mathrm{mlp}(z), \qquad z \mapsto (h, z)

    What is linear after it can be the identity in z, whatever the hidden layers do.

    Args:
        width: k. hidden: widths from z to h, at least one.

    Source: Dai & Wipf (2019), the second stage of their code.

    >>> InputSkip(2, [5])(torch.zeros(3, 2)).shape
    torch.Size([3, 7])
    """

    def __init__(self, width: int, hidden: Sequence[int], activation: Activation = nn.ReLU):
        super().__init__()
        self.trunk = mlp([width, *hidden], activation)
        self.width = width + hidden[-1]

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([self.trunk(z), z], -1)


class SkipMean(nn.Sequential):
    """Map u to a mean of the same width, by :class:`InputSkip` and a linear head: (..., k) -> (..., k).

    >>> SkipMean(2, [5])(torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, width: int, hidden: Sequence[int], activation: Activation = nn.ReLU):
        trunk = InputSkip(width, hidden, activation)
        super().__init__(trunk, nn.Linear(trunk.width, width))


class SkipGaussian(nn.Module):
    """Map z to mean and standard deviation of the same width, by :class:`InputSkip`: (..., k) -> two of (..., k).

    >>> loc, scale = SkipGaussian(2, [5])(torch.zeros(3, 2))
    >>> loc.shape, bool((scale > 0).all())
    (torch.Size([3, 2]), True)
    """

    def __init__(self, width: int, hidden: Sequence[int], activation: Activation = nn.ReLU):
        super().__init__()
        self.trunk = InputSkip(width, hidden, activation)
        self.loc = nn.Linear(self.trunk.width, width)
        self.raw_scale = nn.Linear(self.trunk.width, width)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(z)
        # As in the encoder without a skip: log sigma stays finite where softplus underflows to zero.
        return self.loc(h), softplus(self.raw_scale(h)) + 1e-5
