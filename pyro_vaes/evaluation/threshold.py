"""Where to cut outlier scores when nothing is labelled."""

import torch
from torch import Tensor

from pyro_vaes.errors import InputError


def drae_threshold(scores: Tensor) -> float:
    """Cut scores into two classes that are as tight as possible.

    Formula: ``min_t [sum_{e <= t} (e - m_0)^2 + sum_{e > t} (e - m_1)^2] / sum (e - m)^2``, with ``m_0``, ``m_1``
    and ``m`` the means of the lower class, the upper class and all scores. All n - 1 splits of the sorted scores
    are tried, in O(n log n), and the threshold is the midpoint of the two neighbours of the best one.

    Args:
        scores: shape (n,), finite, at least two distinct values; a larger score is more of an outlier, in any
            units, since the split is the same for ``a * scores + b``, a > 0.

    Returns:
        The threshold ``t``: the scores above it are outliers.

    Raises:
        InputError: ``scores`` is not a finite vector with two distinct values.

    Source: Xia, Cao, Wen, Hua, Sun (2015), "Learning discriminative reconstructions for unsupervised outlier
    removal" (DRAE), the threshold on reconstruction errors; reused on residuals by the RiC-VAE paper, section V-A.
    It is Otsu's (1979) criterion without the histogram.

    >>> drae_threshold(torch.tensor([0.1, 0.2, 0.0, 5.0, 5.2]))
    2.6...
    """
    values = _sorted(scores)
    n = len(values)
    # Centred and scaled: cumulative sums of raw scores would cancel (or overflow) when the spread is small
    # against the mean (or the scores are huge).
    unit = values / values.abs().max()
    unit = unit - unit.mean()
    below = torch.arange(1, n, dtype=torch.float64)
    low = unit.cumsum(0)[:-1]
    # Within-class = total - between-class deviation, and the classes' sums are low and -low: the share is
    # smallest where low^2 (1/n_0 + 1/n_1) is largest.
    between = low.square() * (1 / below + 1 / (n - below))
    # Equal scores cannot be told apart by any threshold.
    between[values[1:] == values[:-1]] = -1
    best = int(between.argmax())
    left, right = float(values[best]), float(values[best + 1])
    middle = left + (right / 2 - left / 2)
    # Neighbouring floats have no midpoint; rounding up would move `right` into the lower class.
    return middle if middle < right else left


def detect(scores: Tensor) -> Tensor:
    """Flag the outliers among scores.

    Formula: ``score > drae_threshold(scores)``.

    Args:
        scores: shape (n,), finite, at least two distinct values; larger is more of an outlier.

    Returns:
        A bool tensor of shape (n,), True for an outlier.

    Raises:
        InputError: ``scores`` is not a finite vector with two distinct values.

    Source: Xia et al. (2015); see :func:`drae_threshold`.

    >>> detect(torch.tensor([0.1, 5.0, 0.2, 5.2, 0.0]))
    tensor([False,  True, False,  True, False])
    """
    # In float64: a float32 comparison would round the threshold back on to a score.
    return scores.detach().double() > drae_threshold(scores)


def _sorted(scores: Tensor) -> Tensor:
    if scores.ndim != 1:
        raise InputError(f"scores has shape {tuple(scores.shape)}: it must be (n,)")
    if not bool(scores.isfinite().all()):
        raise InputError(f"scores has {int((~scores.isfinite()).sum())} values that are NaN or infinite")
    values = scores.detach().cpu().double().sort().values
    if len(values) < 2 or values[0] == values[-1]:
        raise InputError(f"scores has {len(values.unique())} distinct values: a threshold needs at least 2")
    return values
