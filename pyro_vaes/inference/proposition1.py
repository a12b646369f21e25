"""Proposition 1: the affine iC-VAE is bounded above by a robust PCA.

With decoder mean ``W z + b`` and a free variance per cell, the cost of the iC-VAE has an upper bound without
integrals: the empirical-Bayes robust PCA ``h``. This file has the bound as something to check
(:func:`posterior`, :func:`surrogate`, :func:`h_at`, :func:`h_bound`) and as something to solve (:func:`solve`).

Constants. The paper drops them; here they are. All costs are twice a negative log-likelihood, in nats, per datum:

    ``L_i    = tr Sigma - log|Sigma| + |mu|^2 + sum_j E log e_j^2``,  ``e = x - W z - b``, ``z ~ N(mu, Sigma)``  (Eq. 8)
    ``F_i    = Eq. 30``,  and ``L_i <= F_i - d``: ``log a = min_lam (a / lam + log lam) - 1``, once per feature
    ``min F_i over (mu, Sigma) = kappa + h_i(lam)``: the trace and log-determinant in Sigma leave kappa

so ``L <= sum_i h_i + n (kappa - d)`` at the posterior of Eq. 31. Eq. 11 as printed, ``L <= sum_i h_i``, then holds
for every ``kappa <= d``. The slack is Jensen's, between 0 and ``d (log 2 + 0.5772)`` per datum.

The floor. ``log e^2`` is replaced by ``log(e^2 + floor^2)``, which adds ``floor^2 sum_j 1 / lam_j`` to Eq. 30 and
Eq. 12. Then every ``lam_j >= floor^2`` and ``h >= 2 d log floor``: without it h is unbounded below (Eq. 13).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vaes.errors import InputError


class HBound(NamedTuple):
    """The bound per datum ``h`` (n,), in nats times two, and the variances ``lam`` (n, d) that attain it."""

    h: Tensor
    lam: Tensor


class Solution(NamedTuple):
    """The robust PCA of :func:`solve`: ``x = low_rank + sparse``, with ``low_rank = z W' + b``.

    ``W`` (d, rank), ``b`` (d,), ``z`` (n, rank) the posterior means, ``low_rank``, ``sparse`` and ``lam`` (n, d).
    ``history`` holds ``sum_i h_i`` before each iteration and after the last; it never rises.
    """

    W: Tensor
    b: Tensor
    z: Tensor
    low_rank: Tensor
    sparse: Tensor
    lam: Tensor
    history: list[float]


def posterior(x: Tensor, W: Tensor, b: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Give the exact Gaussian posterior of z for known variances.

    Formula: ``mu = W' (Lambda + W W')^-1 (x - b)``, ``Sigma = [W' Lambda^-1 W + I]^-1``.

    Args:
        x: data, shape (n, d), finite.
        W: decoder weights, shape (d, kappa).
        b: decoder offset, shape (d,).
        lam: diagonals of Lambda, shape (n, d), > 0, in units of x squared.

    Returns:
        ``mu`` (n, kappa) and ``Sigma`` (n, kappa, kappa).

    Raises:
        InputError: shapes do not fit, a value is NaN or infinite, or a variance is not positive.
        RuntimeError: a variance is too small against ``W W'`` for float64.

    Source: RiC-VAE paper, Eq. 31. Departs from Eq. 31: the paper prints ``W' Lambda W`` in Sigma; the gradient of
    Eq. 30 in Sigma, ``I - Sigma^-1 + W' Lambda^-1 W``, is zero only with the inverse.

    >>> W, b = torch.tensor([[1.0], [0.0]]), torch.zeros(2)
    >>> posterior(torch.tensor([[2.0, 3.0]]), W, b, torch.tensor([[1.0, 1.0]]))
    (tensor([[1.]]), tensor([[[0.5000]]]))
    """
    _check(x, W, b)
    _check_lam(x, lam)
    mu, sigma, _ = _posterior(x.double() - b.double(), W.double(), lam.double())
    return mu.to(x.dtype), sigma.to(x.dtype)


def surrogate(x: Tensor, W: Tensor, b: Tensor, mu: Tensor, sigma: Tensor, lam: Tensor) -> Tensor:
    """Evaluate the bound of the proof at any posterior and any variances.

    Formula: ``F = tr Sigma - log|Sigma| + |mu|^2 + r' Lambda^-1 r + tr[Sigma W' Lambda^-1 W] + log|Lambda|``,
    ``r = x - W mu - b``; the cost of Eq. 8 is at most ``F - d``.

    Args:
        x: data, shape (n, d), finite.
        W: decoder weights, shape (d, kappa).
        b: decoder offset, shape (d,).
        mu: posterior means, shape (n, kappa).
        sigma: posterior covariances, shape (n, kappa, kappa), positive definite.
        lam: variances, shape (n, d), > 0.

    Returns:
        ``F`` per datum, shape (n,), in nats times two; differentiable in all arguments.

    Raises:
        InputError: shapes do not fit, a value is NaN or infinite, or a variance is not positive.

    Source: RiC-VAE paper, Eq. 30.

    >>> one = torch.ones(1, 1)
    >>> surrogate(one, one, torch.zeros(1), 0.5 * one, 0.5 * one[None], one)  # kappa + h
    tensor([2.1931])
    """
    _check(x, W, b)
    _check_lam(x, lam)
    kappa = W.shape[1]
    if mu.shape != (len(x), kappa) or sigma.shape != (len(x), kappa, kappa):
        raise InputError(
            f"mu has shape {tuple(mu.shape)} and sigma {tuple(sigma.shape)}: they must be "
            f"({len(x)}, {kappa}) and ({len(x)}, {kappa}, {kappa})"
        )
    kl = sigma.diagonal(dim1=1, dim2=2).sum(1) - torch.logdet(sigma) + mu.square().sum(1)
    return kl + (_errors(x - b, W, mu, sigma) / lam + lam.log()).sum(1)


def h_at(x: Tensor, W: Tensor, b: Tensor, lam: Tensor, *, floor: float = 0.0) -> Tensor:
    """Evaluate what Eq. 12 minimises, at given variances.

    Formula: ``(x - b)' Psi^-1 (x - b) + log|Psi| + floor^2 sum_j 1 / lam_j``, ``Psi = Lambda + W W'``; only
    kappa x kappa systems are solved (Woodbury).

    Args:
        x: data, shape (n, d), finite.
        W: decoder weights, shape (d, kappa).
        b: decoder offset, shape (d,).
        lam: variances, shape (n, d), > 0.
        floor: >= 0, in units of x; 0 is Eq. 12 as printed.

    Returns:
        The value per datum, shape (n,), in nats times two: an upper bound on h, whatever ``lam``.

    Raises:
        InputError: shapes do not fit, a value is NaN or infinite, or a variance is not positive.
        RuntimeError: a variance is too small against ``W W'`` for float64.

    Source: RiC-VAE paper, Eq. 12. Departs from Eq. 12: the floor.

    >>> h_at(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1), torch.ones(1, 1))  # 1/2 + log 2
    tensor([1.1931])
    """
    _check(x, W, b)
    _check_lam(x, lam)
    if not floor >= 0:
        raise InputError(f"floor is {floor}: it must not be negative")
    c, W64, lam64 = x.double() - b.double(), W.double(), lam.double()
    mu, _, logdet = _posterior(c, W64, lam64)
    return _h(c, W64, lam64, mu, logdet, floor).to(x.dtype)


def h_bound(
    x: Tensor, W: Tensor, b: Tensor, *, floor: float = 1e-3, iterations: int = 2000, tol: float = 1e-9
) -> HBound:
    """Minimise Eq. 12 over the variances of each datum.

    Formula: ``h = inf_{lam > 0} (x - b)' Psi^-1 (x - b) + log|Psi| + floor^2 sum_j 1 / lam_j``, by coordinate
    descent on Eq. 30: ``(mu, Sigma)`` from Eq. 31, then ``lam_j = E[(x_j - mu_xj)^2] + floor^2``. No step raises
    h. The cost of Eq. 8, with the same floor in its logarithm, is at most ``h + kappa - d``.

    Args:
        x: data, shape (n, d), finite.
        W: decoder weights, shape (d, kappa).
        b: decoder offset, shape (d,).
        floor: > 0, in units of x. As it goes to 0, h goes to minus infinity wherever a datum has an exact
            representation with fewer than d degrees of freedom (Eq. 13).
        iterations: at least 1.
        tol: stop when no datum's h falls by more, in nats times two, >= 0.

    Returns:
        ``h`` (n,) and ``lam`` (n, d). The problem is not convex: this is a stationary point, not always the
        infimum, and a legal upper bound either way.

    Raises:
        InputError: shapes do not fit, a value is NaN or infinite, or an option is out of range.
        RuntimeError: the floor is too small against ``W W'`` for float64.

    Source: RiC-VAE paper, Eq. 12 and 30-31; Wipf (2012). Departs from Eq. 12: the floor.

    >>> bound = h_bound(torch.tensor([[2.0]]), torch.zeros(1, 1), torch.zeros(1))  # W = 0: log x^2 + 1
    >>> bound.h, bound.lam
    (tensor([2.3863]), tensor([[4.0000]]))
    """
    _check(x, W, b)
    _check_options(floor, iterations, tol)
    c, W64 = x.double() - b.double(), W.double()
    lam = _start(c, W64, floor)
    h = torch.full((len(c),), torch.inf, dtype=torch.float64, device=c.device)
    for _ in range(iterations):
        mu, sigma, logdet = _posterior(c, W64, lam)
        before, h = h, _h(c, W64, lam, mu, logdet, floor)
        if float((before - h).max()) <= tol:
            break
        lam = _errors(c, W64, mu, sigma) + floor**2
    else:
        mu, _, logdet = _posterior(c, W64, lam)
        h = _h(c, W64, lam, mu, logdet, floor)
    return HBound(h.to(x.dtype), lam.to(x.dtype))


def solve(
    x: Tensor,
    rank: int,
    *,
    floor: float = 1e-3,
    iterations: int = 300,
    tol: float = 1e-9,
    seed: int = 0,
    offset: bool = True,
) -> Solution:
    """Solve the empirical-Bayes robust PCA that bounds the affine iC-VAE.

    Formula: ``min_{W, b} sum_i h_i(W, b)``, by coordinate descent on Eq. 30: the posterior (Eq. 31), the
    variances ``lam_ij = E[(x_ij - w_j' z_i - b_j)^2] + floor^2``, then each row ``(w_j, b_j)`` by least squares
    with weights ``1 / lam_ij``. No step raises ``sum_i h_i``. Memory is of order (n + d) rank^2.

    Args:
        x: data, shape (n, d), finite.
        rank: kappa, 1 to d. It may exceed the true rank: superfluous columns of W shrink towards zero.
        floor: > 0, in units of x; errors well below it count as exact fits.
        iterations: at least 1.
        tol: stop when ``sum_i h_i`` falls by less than ``tol`` times its size, >= 0.
        seed: of the small noise on the start, which keeps columns off the stationary point at zero.
        offset: learn b; else b = 0, as for centred data.

    Raises:
        InputError: ``x`` is not a finite floating matrix, or an option is out of range.
        RuntimeError: the floor is too small against the data for float64.

    Source: RiC-VAE paper, Proposition 1 and section III-B; Wipf (2012). Departs from both: the floor, and the
    start at the principal components about the columns' medians.

    >>> clean = torch.outer(torch.linspace(-1, 1, 40), torch.linspace(1, 3, 8))
    >>> dirty = clean.clone()
    >>> dirty[7, 3], dirty[30, 6] = 9.0, -9.0
    >>> bool((solve(dirty, 1).low_rank - clean).abs().max() < 1e-2)
    True
    """
    _check_matrix(x)
    _check_options(floor, iterations, tol)
    if not 1 <= rank <= x.shape[1]:
        raise InputError(f"rank is {rank}: it must be from 1 to {x.shape[1]} for x {tuple(x.shape)}")
    work = x.detach().double()
    W, b = _principal(work, rank, seed, offset)
    lam = _start(work - b, W, floor)
    history: list[float] = []
    for step in range(iterations + 1):
        mu, sigma, logdet = _posterior(work - b, W, lam)
        history.append(float(_h(work - b, W, lam, mu, logdet, floor).sum()))
        if step == iterations or (step and history[-2] - history[-1] <= tol * abs(history[-1])):
            break
        lam = _errors(work - b, W, mu, sigma) + floor**2
        W, b = _regress(work, mu, sigma, lam, offset)
    low = mu @ W.mT + b
    W, b, mu, low, sparse, lam = (part.to(x.dtype) for part in (W, b, mu, low, work - low, lam))
    return Solution(W, b, mu, low, sparse, lam, history)


def _posterior(c: Tensor, W: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mu, Sigma and log|Psi|, all through the Cholesky factor of Sigma^-1."""
    d, kappa = W.shape
    # One (n, d) x (d, kappa^2) product is W' Lambda_i^-1 W for all i at once.
    squares = (W[:, :, None] * W[:, None, :]).reshape(d, -1)
    eye = torch.eye(kappa, dtype=W.dtype, device=W.device)
    factor, failed = torch.linalg.cholesky_ex(((1 / lam) @ squares).reshape(-1, kappa, kappa) + eye)
    if bool(failed.any()):
        raise RuntimeError("a variance is too small against W W' for float64: raise the floor")
    right = (c / lam) @ W
    mu = torch.cholesky_solve(right[..., None], factor)[..., 0]
    # log|Lambda + W W'| = log|Lambda| + log|I + W' Lambda^-1 W|
    logdet = lam.log().sum(1) + 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return mu, torch.cholesky_inverse(factor), logdet


def _h(c: Tensor, W: Tensor, lam: Tensor, mu: Tensor, logdet: Tensor, floor: float) -> Tensor:
    # c' Psi^-1 c as r' Lambda^-1 r + |mu|^2: a sum of squares, where Woodbury's difference would cancel.
    residual = c - mu @ W.mT
    return ((residual.square() + floor**2) / lam).sum(1) + mu.square().sum(1) + logdet


def _errors(c: Tensor, W: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """Return E[(x - W z - b)^2] under the posterior, shape (n, d)."""
    squares = (W[:, :, None] * W[:, None, :]).reshape(len(W), -1)
    return (c - mu @ W.mT).square() + sigma.reshape(len(sigma), -1) @ squares.mT


def _start(c: Tensor, W: Tensor, floor: float) -> Tensor:
    # Every cell begins as dirty as its own size, so no cell is trusted before the others have been heard.
    return c.square() + W.square().sum(1) + floor**2


def _principal(x: Tensor, rank: int, seed: int, offset: bool) -> tuple[Tensor, Tensor]:
    b = x.median(dim=0).values if offset else torch.zeros_like(x[0])
    c = x - b
    _, s, vh = torch.linalg.svd(c, full_matrices=False)
    known = min(rank, len(s))
    # On the CPU, so that a seed means the same start on every device.
    noise = torch.randn(x.shape[1], rank, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    W = 1e-3 * c.square().mean().sqrt() * noise.to(x.device)
    W[:, :known] += vh[:known].mT * s[:known] / len(x) ** 0.5
    return W, b


def _regress(x: Tensor, mu: Tensor, sigma: Tensor, lam: Tensor, offset: bool) -> tuple[Tensor, Tensor]:
    """Fit each row of (W, b) to its column of x by weighted least squares."""
    (n, rank), d = mu.shape, x.shape[1]
    # b is the weight of a latent that is always 1, without variance.
    z = torch.cat([mu, torch.ones_like(mu[:, :1])], dim=1) if offset else mu
    second = z[:, :, None] * z[:, None, :]
    second[:, :rank, :rank] += sigma
    left = ((1 / lam).mT @ second.reshape(n, -1)).reshape(d, z.shape[1], z.shape[1])
    rows = torch.linalg.solve(left, ((x / lam).mT @ z)[..., None])[..., 0]
    return rows[:, :rank], rows[:, rank] if offset else torch.zeros_like(x[0])


def _check_matrix(x: Tensor) -> None:
    if x.ndim != 2 or x.numel() == 0:
        raise InputError(f"x has shape {tuple(x.shape)}: it must be (n, d) and not empty")
    _check_finite("x", x)


def _check_finite(name: str, a: Tensor) -> None:
    if not a.is_floating_point():
        raise InputError(f"{name} has dtype {a.dtype}: it must be floating")
    if not bool(a.isfinite().all()):
        raise InputError(f"{name} has {int((~a.isfinite()).sum())} values that are NaN or infinite")


def _check(x: Tensor, W: Tensor, b: Tensor) -> None:
    _check_matrix(x)
    d = x.shape[1]
    if W.ndim != 2 or W.shape[0] != d or W.shape[1] == 0:
        raise InputError(f"W has shape {tuple(W.shape)}: it must be ({d}, kappa) for x {tuple(x.shape)}")
    if b.shape != (d,):
        raise InputError(f"b has shape {tuple(b.shape)}: it must be ({d},) for x {tuple(x.shape)}")
    _check_finite("W", W)
    _check_finite("b", b)


def _check_lam(x: Tensor, lam: Tensor) -> None:
    if lam.shape != x.shape:
        raise InputError(f"lam has shape {tuple(lam.shape)}: it must be {tuple(x.shape)}, as x")
    _check_finite("lam", lam)
    if not bool((lam > 0).all()):
        raise InputError(f"lam has {int((lam <= 0).sum())} values that are not positive")


def _check_options(floor: float, iterations: int, tol: float) -> None:
    if not 0 < floor < float("inf"):
        raise InputError(f"floor is {floor}: it must be positive and finite")
    if iterations < 1:
        raise InputError(f"iterations is {iterations}: it must be at least 1")
    if not tol >= 0:
        raise InputError(f"tol is {tol}: it must not be negative")
