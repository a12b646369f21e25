"""q(z_1 | x) ... q(z_T | x): one encoder, whose code is cut into blocks."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from pyro_vaes.plates import data_plate


class AmortisedBlocks(PyroModule):
    r"""Guess T codes with one encoder.

    .. math:: q(z_1, \dots, z_T \mid x) = \prod_{t=1}^{T} \mathcal{N}(z_t; \mu_t(x), \mathrm{diag}\, \sigma_t^2(x))

    Args:
        encoder: x (..., d) -> mean and standard deviation of all blocks, each (..., k), block after block.
        blocks: T, which divides k.

    Source: Shang et al. (2017), 3.

    >>> from pyro_vaes.nn.mlp import GaussianEncoder
    >>> AmortisedBlocks(GaussianEncoder(4, [5], 6), 3)(torch.zeros(7, 4)).shape
    torch.Size([7, 3, 2])
    """

    def __init__(self, encoder, blocks):
        super().__init__()
        self.encoder, self.blocks = encoder, blocks

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            locs, scales = (part.unflatten(-1, (self.blocks, -1)).unbind(-2) for part in self.encoder(x))
            normals = [dist.Normal(loc, scale).to_event(1) for loc, scale in zip(locs, scales, strict=True)]
            return torch.stack([pyro.sample(f"z_{t}", q) for t, q in enumerate(normals, 1)], -2)
