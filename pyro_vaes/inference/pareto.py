"""Pareto's k-hat: whether a mean of importance weights can be trusted."""

import torch
from torch import Tensor

from pyro_vaes.inference.by_arviz import psis

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
    return smoothed(log_weights)[1]


def smoothed(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Replace the largest weights of each row by what their generalised Pareto distribution expects: Pareto smoothing.

    Args:
        log_weights: (N, S), in nats, up to a constant per row.

    Returns:
        Log weights (N, S), float64, that sum to one in each row, and k-hat (N,) as :func:`khat` gives it. Weights of a
        row without a tail to smooth (k-hat 0, infinite or NaN) are its own, normalised; rows without any mass are NaN.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024); computed by ArviZ.

    >>> log_w, k = smoothed(5 * torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)))
    >>> log_w.exp().sum(1).round(decimals=6).tolist()
    [1.0, 1.0]
    """
    rows = log_weights.detach().double().cpu()
    raw = rows - rows.logsumexp(1, keepdim=True)
    if rows.shape[1] < FEWEST:
        return raw, torch.full((len(rows),), torch.nan, dtype=torch.float64)
    top = rows.max(1, keepdim=True).values
    # A row without any mass has no largest weight to measure from.
    rows = (rows - torch.where(top.isfinite(), top, 0.0)).clamp(min=-1e4)
    smooth, k = (torch.as_tensor(found, dtype=torch.float64) for found in psis(rows.numpy()))
    k = torch.where(k.isnan(), torch.inf, k.reshape(-1))
    k = torch.where(rows.exp().std(1) < 1e-9, 0.0, k)
    k = torch.where(top.squeeze(1).isfinite(), k, torch.inf)
    plain = ((k == 0) | k.isinf() | smooth.isnan().any(1))[:, None]
    return torch.where(plain, raw, smooth - smooth.logsumexp(1, keepdim=True)), k
