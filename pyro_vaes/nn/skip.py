"""A decoder that sees the code at every layer. Plain torch: no Pyro here."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vaes.nn.mlp import Activation


class SkipDecoder(nn.Module):
    r"""Map a code to the mean (or the logits) of x, the code entering every layer: (..., k) -> (..., d).

    .. math:: h_1 = a(W_1 z + b_1), \qquad h_{l+1} = a(W_{l+1} h_l + b_{l+1} + V_{l+1} z)

    The last layer, which gives x, has a V too. With V = 0 this is a :class:`~pyro_vaes.nn.mlp.Decoder`.

    Args:
        latent_dim: k. hidden: the *encoder's* widths, from x inwards, at least one; the decoder runs through them
            backwards. output: last activation.

    Source: Dieng, Kim, Rush & Blei (2019), Sec. 3 (the sum of two linear maps; their images have a residual or a
    convolutional trunk, ours is fully connected).

    >>> import torch
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
