"""The deterministic way up a ladder of codes. Plain torch: no Pyro here."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vaes.nn.mlp import Activation

Moments = tuple[Tensor, Tensor]


class LadderEncoder(nn.Module):
    r"""Map x to one Gaussian per layer: (..., d) -> L pairs of (..., k_l).

    .. math:: d_l = a(W_l d_{l-1} + b_l), \quad d_0 = x, \qquad \hat\mu_l = A_l d_l + a_l, \quad
              \hat\sigma_l = \mathrm{softplus}(S_l d_l + s_l) + 10^{-5}

    Args:
        hidden: widths of d_1 ... d_L. latent_dims: k_1 ... k_L, as many.

    Source: Sonderby et al. (2016), Eq. 7-9. Departs from it: the standard deviation, not the variance, is a softplus;
    one layer per d_l; no batch norm.

    >>> import torch
    >>> [loc.shape[-1] for loc, _ in LadderEncoder(4, (6, 5), (3, 2))(torch.zeros(7, 4))]
    [3, 2]
    """

    def __init__(
        self, data_dim: int, hidden: Sequence[int], latent_dims: Sequence[int], activation: Activation = nn.LeakyReLU
    ):
        super().__init__()
        steps = pairwise([data_dim, *hidden])
        self.trunk = nn.ModuleList(nn.Sequential(nn.Linear(a, b), activation()) for a, b in steps)
        heads = list(zip(hidden, latent_dims, strict=True))
        self.loc = nn.ModuleList(nn.Linear(width, k) for width, k in heads)
        self.raw_scale = nn.ModuleList(nn.Linear(width, k) for width, k in heads)

    def forward(self, x: Tensor) -> list[Moments]:
        moments = []
        for step, loc, raw_scale in zip(self.trunk, self.loc, self.raw_scale, strict=True):
            x = step(x)
            moments.append((loc(x), softplus(raw_scale(x)) + 1e-5))
        return moments


def product_of_normals(one: Moments, other: Moments) -> Moments:
    r"""Multiply two Gaussian densities, each (mean, standard deviation).

    .. math:: \sigma^{-2} = \sigma_1^{-2} + \sigma_2^{-2}, \qquad \mu = \sigma^2 (\sigma_1^{-2} \mu_1 +
              \sigma_2^{-2} \mu_2)

    Source: Sonderby et al. (2016), Eq. 16-17.

    >>> import torch
    >>> one = torch.ones(1)
    >>> product_of_normals((0 * one, one), (3 * one, one))
    (tensor([1.5000]), tensor([0.7071]))
    """
    (loc_1, scale_1), (loc_2, scale_2) = one, other
    precision_1, precision_2 = scale_1.pow(-2), scale_2.pow(-2)
    precision = precision_1 + precision_2
    return (precision_1 * loc_1 + precision_2 * loc_2) / precision, precision.rsqrt()
