"""Samples that do not belong, found without labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.errors import whole
from pyro_vaes.evaluation.threshold import drae_threshold
from pyro_vaes.inference.guard import as_batch, check_data
from pyro_vaes.inference.posterior import reconstruct
from pyro_vaes.pair import Pair


@dataclass(frozen=True)
class Detected:
    """What :func:`detect` found.

    Attributes:
        score: (N,), the mean squared residual of each sample.
        threshold: samples with a score above it are outliers.
        outlier: (N,), bool.
        explained: share of the scores' variance that the split explains. The split always finds two groups; in scores
            that are one normal hump it explains 2 / pi = 0.64, so only a larger share speaks for two.
    """

    score: Tensor
    threshold: float
    outlier: Tensor
    explained: float


def detect(pair: Pair, x: Tensor, *, passes: int | None = None, batch_size: int = 512) -> Detected:
    r"""Find the samples that do not belong, with a threshold that needs no labels.

    .. math:: \mathrm{score}_i = \tfrac{1}{d} \lVert x_i - \mu(\mu_z(x_i)) \rVert^2

    The threshold splits the scores where the variance within the two groups is smallest.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels, N at least 2.

    Raises:
        InputError: for bad data, or scores that are all the same.

    Source: Wang et al. (2018), V-A, with the threshold of Xia et al. (2015).

    >>> from pyro_vaes.variants import t_vae
    >>> detect(t_vae(4, 2, (8,)), torch.rand(9, 4)).outlier.shape
    torch.Size([9])
    """
    check_data(pair, x)
    whole("batch_size", batch_size)
    pair.eval()
    scores = []
    for start in range(0, len(x), batch_size):
        batch = as_batch(x[start : start + batch_size])
        scores.append((batch - reconstruct(pair, batch, passes=passes)[0]).square().mean(-1))
    score = torch.cat(scores)
    threshold = drae_threshold(score)
    outlier = score > threshold
    within = sum(group.var(correction=0) * len(group) for group in (score[outlier], score[~outlier]))
    explained = 1 - float(within / (score.var(correction=0) * len(score)))
    return Detected(score, threshold, outlier, explained)
