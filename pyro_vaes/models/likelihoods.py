"""p(x | u) as a distribution object: what a decoder's output is the parameter of."""

import pyro.distributions as dist
from torch import Tensor, nn


class BernoulliPixels(nn.Module):
    """Give Bernoulli(sigmoid(decoder(u))) for every entry of x.

    Args:
        decoder: u (..., k) -> logits (..., d).

    >>> import torch
    >>> BernoulliPixels(nn.Linear(2, 4))(torch.zeros(3, 2)).event_shape
    torch.Size([4])
    """

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, u: Tensor):
        return dist.Bernoulli(logits=self.decoder(u)).to_event(1)


class NormalPixels(nn.Module):
    """Give N(decoder(u), scale(u)^2) for every entry of x.

    Args:
        decoder: u (..., k) -> mu (..., d). scale: u -> sigma, which broadcasts to (..., d).

    >>> import torch
    >>> from pyro_vaes.nn.scales import FixedScale
    >>> NormalPixels(nn.Linear(2, 4), FixedScale(0.1))(torch.zeros(3, 2)).event_shape
    torch.Size([4])
    """

    def __init__(self, decoder: nn.Module, scale: nn.Module):
        super().__init__()
        self.decoder, self.scale = decoder, scale

    def forward(self, u: Tensor):
        return dist.Normal(self.decoder(u), self.scale(u)).to_event(1)
