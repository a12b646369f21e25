"""Convex robust PCA: split a matrix into a low-rank part and a sparse part."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from pyro_vaes.errors import InputError


class RPCA(NamedTuple):
    """The two parts of ``x``, and how well the split was solved.

    ``low_rank``, ``sparse`` and ``dual`` have the shape and dtype of ``x``. ``residual`` is
    ``||X - L - S||_F / ||X||_F``. ``dual`` is the multiplier ``Y``: an optimal split has ``Y`` in the
    subdifferentials of both terms, that is ``||Y||_2 <= 1``, ``<Y, L> = ||L||_*``, ``|Y| <= lam`` and
    ``<Y, S> = lam ||S||_1``, so anyone can check the answer without trusting the iteration.
    """

    low_rank: Tensor
    sparse: Tensor
    rank: int
    residual: float
    iterations: int
    dual: Tensor


def rpca(x: Tensor, *, lam: float | None = None, tol: float = 1e-7, max_iter: int = 5000) -> RPCA:
    """Split ``x`` into low rank plus sparse by principal component pursuit.

    Formula: ``min ||L||_* + lam ||S||_1`` subject to ``X = L + S``.

    Args:
        x: data, shape (n, d), floating, finite; any units, since scaling ``x`` scales both parts.
        lam: weight of the sparse part, > 0; default ``1 / sqrt(max(n, d))``.
        tol: relative residual to reach, > 0. The multipliers of the two parts must agree to ``10 tol``.
        max_iter: iterations allowed, at least 1.

    Raises:
        InputError: ``x`` is not a finite floating matrix, or an option is out of range.
        RuntimeError: the split has not converged in ``max_iter`` iterations.

    Source: Candes, Li, Ma, Wright (2011), Eq. 1.1, by the inexact augmented Lagrange multiplier method of Lin,
    Chen, Ma (2010), Algorithm 5. Departs from Lin et al.: their penalty starts low and only grows, which freezes a
    point that is feasible but not optimal when the data are not exactly low-rank plus sparse; ours starts at the size
    of the data and is balanced (Boyd et al. 2011, section 3.4.1), and the stop also asks for dual convergence.

    >>> clean = torch.outer(torch.linspace(1, 2, 30), torch.linspace(1, 3, 20))
    >>> dirty = clean.clone()
    >>> dirty[3, 4], dirty[20, 11] = 9.0, -9.0
    >>> split = rpca(dirty)
    >>> split.rank, bool((split.low_rank - clean).abs().max() < 1e-4), int((split.sparse.abs() > 1).sum())
    (1, True, 2)
    """
    check_matrix(x)
    lam = 1 / math.sqrt(max(x.shape)) if lam is None else lam
    _check_options(lam, tol, max_iter)
    peak = float(x.abs().max())
    if peak == 0:
        zero = torch.zeros_like(x)
        return RPCA(zero, zero.clone(), 0, 0.0, 0, zero.clone())
    tall = x.shape[0] >= x.shape[1]
    # float64: in float32 rounding alone leaves a residual of about 1e-7. Divided by the peak so that data of any
    # scale keep their squares in range.
    work = x.detach().double() / peak
    low, sparse, dual, rank, residual, steps = _solve(work if tall else work.mT, lam, tol, max_iter)

    def back(part: Tensor) -> Tensor:
        return (part if tall else part.mT).to(x.dtype)

    return RPCA(back(low * peak), back(sparse * peak), rank, residual, steps, back(dual))


def check_matrix(x: Tensor) -> None:
    """Refuse anything but a finite, floating, non-empty matrix.

    >>> check_matrix(torch.ones(3))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: x has shape (3,): it must be (n, d)
    """
    if x.ndim != 2:
        raise InputError(f"x has shape {tuple(x.shape)}: it must be (n, d)")
    if x.numel() == 0:
        raise InputError(f"x has shape {tuple(x.shape)}: it must not be empty")
    if not x.is_floating_point():
        raise InputError(f"x has dtype {x.dtype}: it must be floating")
    if not bool(x.isfinite().all()):
        raise InputError(f"x has {int((~x.isfinite()).sum())} cells that are NaN or infinite")


def _check_options(lam: float, tol: float, max_iter: int) -> None:
    if not 0 < lam < math.inf:
        raise InputError(f"lam is {lam}: it must be positive and finite")
    if not tol > 0:
        raise InputError(f"tol is {tol}: it must be positive")
    if max_iter < 1:
        raise InputError(f"max_iter is {max_iter}: it must be at least 1")


def _solve(x: Tensor, lam: float, tol: float, max_iter: int) -> tuple[Tensor, Tensor, Tensor, int, float, int]:
    every, dual_tol = 5, 10 * tol
    top, size = torch.linalg.matrix_norm(x, 2), x.norm()
    # Lin et al.'s start: the largest multiple of X that is feasible for the dual.
    dual = x / torch.maximum(top, x.abs().max() / lam)
    # Candes et al.'s penalty, section 5. The usual start, 1.25 / ||X||_2, is hundreds of times smaller on images, and
    # balancing it takes longer than the rest.
    mu = x.numel() / (4 * float(x.abs().sum()))
    low = torch.zeros_like(x)
    for step in range(1, max_iter + 1):
        scaled = dual / mu
        sparse = softshrink(x - low + scaled, lam / mu)
        before, (low, rank) = low, _shrink_spectrum(x - sparse + scaled, 1 / mu)
        gap = x - sparse - low
        dual = mu * (scaled + gap)
        residual = float(gap.norm() / size)
        # The new dual is a subgradient of ||L||_* by construction, the one before plus mu (X - L_before - S) one of
        # lam ||S||_1, and this is how far they are apart: optimal when equal.
        drift = float(mu * (before - low).norm() / dual.norm())
        if residual <= tol and drift <= dual_tol:
            return low, sparse, dual, rank, residual, step
        if step % every == 0:
            mu = _balance(mu, residual / tol, drift / dual_tol)
    raise RuntimeError(
        f"RPCA has not converged in {max_iter} iterations: residual {residual:.1e} (tol {tol:.1e}), "
        f"dual residual {drift:.1e} (tol {dual_tol:.1e})"
    )


def _balance(mu: float, primal: float, drift: float) -> float:
    # A larger penalty favours feasibility, a smaller one optimality: feed whichever is further from its goal.
    if primal > 2 * drift:
        return 1.5 * mu
    return mu / 1.5 if drift > 2 * primal else mu


def _shrink_spectrum(a: Tensor, threshold: float) -> tuple[Tensor, int]:
    """Soft-threshold the singular values of ``a`` (rows >= columns)."""
    # Through the d x d Gram matrix, several times faster than an SVD of (n, d). Squaring puts an absolute error
    # of about 1e-16 s_1^2 / s on a singular value s; those kept exceed the threshold, which a
    # balanced penalty keeps large (5e-5 s_1 and more on noisy digits, so an error below 1e-11 s_1). A penalty
    # grown without limit, as in Lin et al., would need the SVD.
    squares, v = torch.linalg.eigh(a.mT @ a)
    s = squares.clamp(min=0).sqrt()
    keep = s > threshold
    v, s = v[:, keep], s[keep]
    return a @ ((v * (1 - threshold / s)) @ v.mT), int(keep.sum())
