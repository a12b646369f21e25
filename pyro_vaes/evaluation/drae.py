"""Discriminative reconstructions: an autoencoder that is pulled towards two groups of errors."""

from collections.abc import Sequence

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from pyro_vaes.errors import number
from pyro_vaes.guides.amortised import AmortisedDelta
from pyro_vaes.inference.objective import Loss, setting
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Decoder, PointEncoder
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair


class Discriminative(nn.Module):
    r"""The error of those data that are taken for inliers, and how badly the errors fall into two groups.

    .. math:: \mathcal{L} = \frac{1}{n_+} \sum_{i \in +} e_i + \lambda
              \frac{\sum_{i \in +} (e_i - m_+)^2 + \sum_{i \in -} (e_i - m_-)^2}{\sum_i (e_i - m)^2},
              \qquad e_i = \lVert x_i - \mu_i \rVert^2

    The inliers (+) are the errors up to the threshold that makes the ratio smallest, found anew for every batch: the
    labels change while the network learns.

    Args:
        weight: lambda >= 0; 0 is an autoencoder that leaves out what it takes for outliers.

    Source: Xia, Cao, Wen, Hua & Sun (2015), "Learning discriminative reconstructions for unsupervised outlier removal".
    Departs from it: labels and means are those of the batch, not of the whole set. The default weight of 0.1 is not
    tuned.

    >>> loss = drae(4, 2, (8,))(torch.rand(9, 4))
    >>> sorted(loss.terms), 0 < loss.terms["ratio"].item() < 0.1
    (['ratio', 'x'], True)
    """

    weight: Tensor

    def __init__(self, weight: float = 0.1):
        super().__init__()
        self._given = number("weight", weight)
        self.register_buffer("weight", setting(weight), persistent=False)

    def __repr__(self) -> str:
        return f"Discriminative({self._given:g})"

    def forward(self, model, guide, x, y=None, *, size=None) -> Loss:
        q = poutine.trace(guide).get_trace(x, y, size=size)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x, y, size=size)
        error = (x - p.nodes["x"]["fn"].mean).square().sum(-1)
        mean, ratio = split(error)
        terms = {"x": mean, "ratio": ratio * self.weight.to(ratio.dtype)}
        total = torch.stack(list(terms.values())).sum()
        return Loss(total, terms, -total.detach())


def split(error: Tensor) -> tuple[Tensor, Tensor]:
    """Give the mean error of the inliers and the within-class share of the errors' variance, at the best threshold.

    Args:
        error: (n,). One error, or errors that are all the same, have a share of 0.

    >>> mean, ratio = split(torch.tensor([5.0, 1.0, 1.0, 5.0, 1.0]))
    >>> mean.item(), ratio.item()
    (1.0, 0.0)
    """
    n = len(error)
    if n < 2:  # the last batch of an epoch: nothing to split
        return error.mean(), 0 * error.sum()
    with torch.no_grad():
        ordered = error.double().sort().values
        below = torch.arange(1, n, dtype=ordered.dtype, device=error.device)
        low = (ordered - ordered.mean()).cumsum(0)[:-1]
        # Total = within + between, and this is the deviation between the two classes.
        between = low.square() * (1 / below + 1 / (n - below))
        # Equal errors cannot be told apart by any threshold.
        between = torch.where(ordered[1:] > ordered[:-1], between, torch.full_like(between, -1.0))
        inlier = (error.double() <= ordered.gather(0, between.argmax(0, keepdim=True))).to(error.dtype)
    mean = (error * inlier).sum() / inlier.sum()
    other = (error * (1 - inlier)).sum() / (1 - inlier).sum().clamp(min=1)
    within = (error - torch.where(inlier > 0, mean, other)).square().sum()
    total = (error - error.mean()).square().sum()
    return mean, within / total.clamp(min=torch.finfo(error.dtype).tiny)


def drae(
    data_dim: int,
    latent_dim: int = 16,
    hidden: Sequence[int] = (512, 256),
    weight: float = 0.1,
    output: type[nn.Module] = nn.Sigmoid,
) -> Pair:
    """p, q: those of ``autoencoder`` | :class:`Discriminative` | Xia et al. (2015).

    A baseline, and so no variant of the library's table. Train it like any pair, with ``fit``; then ``detect``.

    Args:
        output: last activation, ``nn.Sigmoid`` for pixels in [0, 1], ``nn.Identity`` for real data.

    >>> drae(4).objective
    Discriminative(0.1)
    """
    model = LatentGaussian(
        StandardPrior(latent_dim), Decoder(latent_dim, hidden, data_dim, output=output), FixedScale(1.0)
    )
    guide = AmortisedDelta(PointEncoder(data_dim, hidden, latent_dim))
    pixels = (0.0, 1.0) if output is nn.Sigmoid else None
    return Pair(model, guide, Discriminative(weight), range=pixels, name="drae")
