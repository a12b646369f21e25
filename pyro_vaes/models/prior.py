"""p(z): the standard prior, in a family and width of one's choice."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class StandardPrior(nn.Module):
    """Give p(z) for a plate of codes: independent entries, mean 0.

    Args:
        latent_dim: k, at least 1.
        family: a location-scale family, ``dist.Normal`` (the default) or for instance ``dist.Laplace``.
        scale: its scale in every entry. ``Laplace`` with scale 1/lambda makes -log p(z) the penalty
            lambda ||z||_1.

    >>> StandardPrior(3)().event_shape
    torch.Size([3])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, family=dist.Normal, scale: float = 1.0):
        super().__init__()
        self.family = family
        # Buffers, so that draws from the prior follow .to(device).
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.full((latent_dim,), float(scale)))

    def forward(self):
        return self.family(self.loc, self.scale).to_event(1)
