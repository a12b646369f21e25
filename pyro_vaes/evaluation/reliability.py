"""Does what is called 30 % likely happen three times in ten?"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.errors import InputError, whole
from pyro_vaes.evaluation.metrics import _check
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL

Bins = Sequence[Sequence[float]]


def reliability(probability: Tensor, mask: Tensor, bins: int = 10) -> list[list[float]]:
    """Sort probabilities into bins of equal width, and count what happened in each.

    Args:
        probability: any shape, in [0, 1]. mask: bool, of the same shape, True where it happened. bins: at least 1.

    Returns:
        for each bin the sum of the probabilities, how often it happened, and how many there were; over data sets,
        such counts add up.

    Raises:
        InputError: shapes differ, ``mask`` is not bool, or a value is no probability.

    >>> reliability(torch.tensor([0.25, 0.25, 1.0]), torch.tensor([False, True, True]), bins=2)
    [[0.5, 1.0, 2.0], [1.0, 1.0, 1.0]]
    """
    whole("bins", bins)
    _check(probability=probability, mask=mask)
    if mask.dtype != torch.bool or not bool(((probability >= 0) & (probability <= 1)).all()):
        raise InputError("probability must lie in [0, 1], and mask be bool")
    p, truth = probability.detach().cpu().double().flatten(), mask.cpu().double().flatten()
    place = (p * bins).long().clamp(max=bins - 1)
    columns = [torch.bincount(place, weights=w, minlength=bins) for w in (p, truth, torch.ones_like(p))]
    return torch.stack(columns, 1).tolist()


def calibration_error(bins: Bins) -> float:
    """Expected calibration error of counted bins.

    Formula: ``sum_b n_b / n |mean probability in b - share that happened in b|``. 0 is perfect; a constant probability
    that equals the share is perfect too, so read it beside :func:`brier_skill`.

    Args:
        bins: what :func:`reliability` gave, or a sum of such.

    Source: Naeini, Cooper & Hauskrecht (2015).

    >>> calibration_error([[0.5, 1.0, 2.0], [1.0, 1.0, 1.0]])
    0.166...
    """
    counted = np.asarray(bins, dtype=float)
    return float(np.abs(counted[:, 0] - counted[:, 1]).sum() / counted[:, 2].sum())


def brier_skill(probability: Tensor, mask: Tensor) -> float:
    """How much better probabilities are than the plain share, in squared error.

    Formula: ``1 - mean (p - y)^2 / (s (1 - s))``, y in {0, 1} and s its mean: 1 perfect, 0 no better than knowing the
    share, negative worse.

    Raises:
        InputError: shapes differ, ``mask`` is not bool or has one value only, or a value is no probability.

    Source: Brier (1950), against the climatology.

    >>> brier_skill(torch.tensor([0.0, 0.5]), torch.tensor([False, True]))
    0.5
    """
    _check(probability=probability, mask=mask)
    if mask.dtype != torch.bool or not bool(((probability >= 0) & (probability <= 1)).all()):
        raise InputError("probability must lie in [0, 1], and mask be bool")
    truth, p = mask.double(), probability.double()
    share = float(truth.mean())
    if not 0 < share < 1:
        raise InputError("mask has one value only: there is nothing to tell apart")
    return 1 - float((p - truth).square().mean()) / (share * (1 - share))


def reliability_diagram(methods: Mapping[str, Bins], title: str, least: int = 10) -> Figure:
    """Draw for each method the share that happened over the probability that was given, one panel each.

    Args:
        methods: name -> counted bins. least: bins of fewer members are not drawn.

    >>> len(reliability_diagram({"a": [[1.0, 1.0, 20.0]], "b": [[1.0, 1.0, 20.0]]}, "t").axes)
    2
    """
    columns = min(4, len(methods))
    lines = -(-len(methods) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.4, 2.5 * lines + 0.5), dpi=160, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for ax in axes[len(methods) :]:
        ax.set_visible(False)
    for ax, (name, bins) in zip(axes, methods.items(), strict=False):
        p, happened, count = np.asarray([b for b in bins if b[2] >= least], dtype=float).reshape(-1, 3).T
        ax.plot([0, 1], [0, 1], color=CLASSICAL, linewidth=0.8)
        error = 1.96 * np.sqrt(happened / count * (1 - happened / count) / count)
        ax.errorbar(p / count, happened / count, error, marker="o", markersize=3.5, linewidth=1.2, color=NEUTRAL)
        ax.set_title(f"{name}\nECE {calibration_error(bins):.3f}", fontsize=9, color=NEUTRAL)
        ax.set_xlim(0, 1), ax.set_ylim(0, 1)
        ax.set_xticks([0, 0.5, 1]), ax.set_yticks([0, 0.5, 1])
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("probability of being dirty", fontsize=9), figure.supylabel("share that was dirty", fontsize=9)
    figure.suptitle(title, fontsize=10, color=NEUTRAL)
    return figure
