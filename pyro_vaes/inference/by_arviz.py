"""What ArviZ computes for us, on 0.23 and on 1.x: numpy in, numpy out, and nothing else imported."""

import warnings
from typing import Any

import numpy as np


def psis(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth the largest importance weights of every row: normalised log weights (N, S) and Pareto's k-hat (N,).

    Args:
        log_weights: (N, S), log p - log q, up to a constant per row.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024).

    >>> smooth, khat = psis(np.random.default_rng(0).normal(size=(2, 1000)))
    >>> np.exp(smooth).sum(1).round(6).tolist(), bool((khat < 0.7).all())
    ([1.0, 1.0], True)
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # ArviZ announces its next version at every import; degenerate tails divide by zero.
        warnings.simplefilter("ignore")
        import arviz

        if int(arviz.__version__.split(".")[0]) < 1:
            smooth, khat = arviz.psislw(log_weights)
        else:
            # From 1.0 on it takes log-likelihoods, which it negates.
            smooth, khat = _stats().psislw(-log_weights)
        return np.asarray(smooth), np.asarray(khat)


def rhat_and_ess(chains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank-normalised split R-hat and bulk ESS of every entry: chains (C, S, ...) to two arrays (...).

    NaN where chains are shorter than four draws.

    Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021).

    >>> rhat, ess = rhat_and_ess(np.random.default_rng(0).normal(size=(4, 200, 3)))
    >>> bool((rhat < 1.05).all()), bool((ess > 300).all())
    (True, True)
    """
    shape = chains.shape[2:]
    if chains.shape[1] < 4:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    flat = chains.astype(np.float64).reshape(*chains.shape[:2], -1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        import arviz

        old = int(arviz.__version__.split(".")[0]) < 1
        source: Any = arviz if old else _stats()
        axes = {} if old else {"chain_axis": 0, "draw_axis": 1}
        columns = [flat[..., j] for j in range(flat.shape[-1])]
        found = np.array([(float(source.rhat(a, **axes)), float(source.ess(a, **axes))) for a in columns])
    found = found.reshape(-1, 2)
    return found[:, 0].reshape(shape), found[:, 1].reshape(shape)


def _stats() -> Any:
    from arviz_stats.base import array_stats

    return array_stats
