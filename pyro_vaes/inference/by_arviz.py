"""What ArviZ computes for us, on 0.23 and on 1.x: numpy in, numpy out, and nothing else imported."""

import warnings
from typing import Any

import numpy as np


def psis(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth the largest importance weights of every row: normalised log weights (N, S) and Pareto's k-hat (N,).

    Args:
        log_weights: (N, S), log p - log q, up to a constant per row.

    The two versions agree to the last digit where 3 sqrt(S) is whole (S = 400, 900, 1600); elsewhere the tail of 0.23
    is one weight longer, which moves k-hat by a few hundredths. Rows without a tail have k-hat infinite or NaN.

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
            smooth, khat = _by_newer(log_weights)
        return np.asarray(smooth), np.asarray(khat)


def _by_newer(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From 1.0 on psislw takes log-likelihoods, which it negates, and raises an error where there is no tail."""
    stats = _stats()
    try:
        return stats.psislw(-log_weights)
    except ValueError:
        if len(log_weights) > 1:
            parts = [_by_newer(row) for row in np.split(log_weights, len(log_weights))]
            return np.concatenate([w for w, _ in parts]), np.concatenate([k for _, k in parts])
    return log_weights - np.logaddexp.reduce(log_weights, axis=1, keepdims=True), np.array([np.inf])


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
