"""Pareto's k-hat: whether a mean of importance weights can be trusted."""

import warnings

import numpy as np
import torch
from torch import Tensor

FEWEST = 25  # weights; a fifth of them is the tail, and five points make a fit


def khat(log_weights: Tensor) -> Tensor:
    r"""Give the shape of the generalised Pareto distribution that the largest weights of each row follow.

    Below 0.5 the weights have a variance, below 0.7 their mean converges at a practical rate, above it neither the mean
    nor its standard error is to be trusted.

    Args:
        log_weights: (N, S), in nats, up to a constant per row.

    Returns:
        (N,), float64: infinite where there is no tail to fit (all mass on fewer than five weights), 0 where the weights
        are equal to nine digits, NaN where S < 25 weights are too few to say.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024); computed by ArviZ.

    >>> log_w = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    >>> (khat(log_w * torch.tensor([[0.1], [5.0]])) > 0.7).tolist()
    [False, True]
    """
    rows = log_weights.detach().double().cpu()
    if rows.shape[1] < FEWEST:
        return torch.full((len(rows),), torch.nan, dtype=torch.float64)
    top = rows.max(1, keepdim=True).values
    # A row without any mass has no largest weight to measure from.
    rows = (rows - torch.where(top.isfinite(), top, 0.0)).clamp(min=-1e4)
    found = torch.as_tensor(_psis(rows.numpy()), dtype=torch.float64).reshape(-1)
    found = torch.where(found.isnan(), torch.inf, found)
    found = torch.where(rows.exp().std(1) < 1e-9, 0.0, found)
    return torch.where(top.squeeze(1).isfinite(), found, torch.inf)


def _psis(log_weights: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # ArviZ announces its next version at every import; degenerate tails divide by zero.
        warnings.simplefilter("ignore")
        import arviz

        if int(arviz.__version__.split(".")[0]) < 1:
            return np.asarray(arviz.psislw(log_weights)[1])
        # From 1.0 on it takes log-likelihoods, which it negates.
        from arviz_stats.base import array_stats

        return np.asarray(array_stats.psislw(-log_weights)[1])
