"""Samples that do not belong, found without labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pyro_vaes.errors import InputError, whole
from pyro_vaes.evaluation.threshold import drae_threshold
from pyro_vaes.inference.guard import as_batch, check_data
from pyro_vaes.inference.posterior import reconstructed
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
        neighbourhood: the width b over which residuals were averaged before they were squared.

    Source: Xia et al. (2015) for the split (DRAE); Wang et al. (2018), V-A, who use it.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> found = pv.detect(pair, x)
    >>> found.outlier.shape, found.outlier.equal(found.score > found.threshold)
    (torch.Size([6]), True)
    """

    score: Tensor
    threshold: float
    outlier: Tensor
    explained: float
    neighbourhood: int = 1


def detect(
    pair: Pair,
    x: Tensor,
    *,
    passes: int | None = None,
    batch_size: int = 512,
    shape: Sequence[int] | None = None,
    neighbourhood: int | Sequence[int] = 1,
) -> Detected:
    r"""Find the samples that do not belong, with a threshold that needs no labels.

    .. math:: \mathrm{score}_i = \tfrac{1}{d} \lVert B_b\, (x_i - \mu(\mu_z(x_i))) \rVert^2

    B averages residuals over b x b pixels: an edge that is off by a pixel leaves residuals of both signs side by side,
    which cancel, while something that does not belong leaves residuals of one sign. The threshold splits the scores
    where the variance within the two groups is smallest. Of several b the one is taken whose split explains the largest
    share of the variance, which again needs no labels.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels, N at least 2.
        shape: of one datum, (H, W) or (C, H, W); needed for b > 1.
        neighbourhood: b, odd and at least 1, or several of them to choose from; 1 takes each residual by itself. Beyond
            the border residuals count as 0.

    Raises:
        InputError: for bad data, scores that are all the same, a b that is even, or no ``shape`` for b > 1.

    Source: Wang et al. (2018), V-A, with the threshold of Xia et al. (2015). The neighbourhood is ours.

    >>> from pyro_vaes.variants import datum_t_vae
    >>> detect(datum_t_vae(4, 2, (8,)), torch.rand(9, 4)).outlier.shape
    torch.Size([9])
    """
    check_data(pair, x)
    if pair.condition_dim and not pair.partial:
        raise InputError(f"{pair.name} takes a condition: detect is for pairs that take none")
    whole("batch_size", batch_size)
    widths = _widths(neighbourhood, shape, x.shape[1])
    pair.eval()
    starts = range(0, len(x), batch_size)
    scores = torch.cat([_scores(as_batch(x[i : i + batch_size]), pair, passes, shape, widths) for i in starts], 1)
    found = [split(score, b) for score, b in zip(scores, widths, strict=True)]
    return max(found, key=lambda one: one.explained)


def split(score: Tensor, neighbourhood: int = 1) -> Detected:
    """Split scores in two, and say what share of their variance that explains.

    Args:
        score: (N,), finite, at least two distinct values; larger is more of an outlier.

    >>> split(torch.tensor([0.0, 0.1, 0.9, 1.0])).outlier
    tensor([False, False,  True,  True])
    """
    threshold = drae_threshold(score)
    # In float64: a float32 comparison would round the threshold back on to a score; and centred and scaled, so that
    # squares of scores that are tiny, huge or close together keep their digits.
    exact = score.detach().double()
    outlier = exact > threshold
    unit = exact - exact.mean()
    unit = unit / unit.abs().max()
    within = sum(group.var(correction=0) * len(group) for group in (unit[outlier], unit[~outlier]))
    explained = 1 - float(within / (unit.var(correction=0) * len(unit)))
    return Detected(score, threshold, outlier, explained, neighbourhood)


def _scores(x: Tensor, pair: Pair, passes: int | None, shape: Sequence[int] | None, widths: list[int]) -> Tensor:
    r = x - reconstructed(pair, x, passes=passes)[0]
    return torch.stack([_averaged(r, shape, b).square().mean(-1) for b in widths])


def _averaged(r: Tensor, shape: Sequence[int] | None, b: int) -> Tensor:
    if b == 1 or shape is None:
        return r
    images = r.reshape(len(r), -1, *shape[-2:])
    # Outside of the image there is no residual: a mean over fewer pixels would weigh the border more.
    return avg_pool2d(images, b, stride=1, padding=b // 2, count_include_pad=True).flatten(1)


def _widths(neighbourhood: int | Sequence[int], shape: Sequence[int] | None, d: int) -> list[int]:
    widths = list(neighbourhood) if isinstance(neighbourhood, Sequence) else [neighbourhood]
    if not widths:
        raise InputError("neighbourhood is empty: it must be an odd width, or a list of them")
    for b in widths:
        if whole("neighbourhood", b) % 2 == 0:
            raise InputError(f"neighbourhood is {b}: it must be odd, so that it has a centre")
    if max(widths) > 1 and (shape is None or len(shape) not in (2, 3) or torch.Size(shape).numel() != d):
        raise InputError(f"neighbourhood {max(widths)} needs images: shape is {shape}, and a row has {d} entries")
    if max(widths) > 1 and shape is not None and max(widths) > min(shape[-2:]):
        raise InputError(f"neighbourhood {max(widths)} is wider than the images of shape {tuple(shape)}")
    return widths
