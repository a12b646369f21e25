"""The maximum mean discrepancy between two sets of draws."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, number, unknown, whole
from pyro_vaes.tensors import NARROW, plain

KERNELS = ("imq", "rbf")
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def mmd(
    a: Tensor, b: Tensor, kernel: str = "imq", bandwidth: float | Tensor | None = None, *, block: int | None = None
) -> Tensor:
    r"""Estimate the squared maximum mean discrepancy of the distributions that two sets were drawn from.

    .. math:: \widehat{\mathrm{MMD}}{}^2 = \frac{1}{n (n - 1)} \sum_{i \ne j} k(a_i, a_j)
              + \frac{1}{m (m - 1)} \sum_{i \ne j} k(b_i, b_j) - \frac{2}{n m} \sum_{i, j} k(a_i, b_j)

    the U-statistic: unbiased, so 0 on average where the two distributions are one, and negative as often as not there.
    The kernels, with h the bandwidth, are

    .. math:: k_{\mathrm{imq}}(u, v) = \sum_s \frac{s h}{s h + \|u - v\|^2}, \quad
              s \in \{.1, .2, .5, 1, 2, 5, 10\}, \qquad
              k_{\mathrm{rbf}}(u, v) = \exp(- \|u - v\|^2 / h)

    Args:
        a: (n, k), n at least 2. b: (m, k), m at least 2.
        kernel: ``imq``, the inverse multiquadric with its seven scales, or ``rbf``.
        bandwidth: h, in squared units of a; by default 2 k, the mean squared distance of two draws of N(0, I).
        block: rows of the kernel matrix held at a time, for large sets; all by default. The sum is the same.

    Returns:
        a scalar; gradients flow to both sets, and nothing looks at values: NaN gives NaN.

    Raises:
        InputError: for sets that are not matrices of as many columns and one dtype, fewer than two rows, an unknown
            kernel, or a bandwidth that is not above 0.

    Source: Gretton et al. (2012), Eq. 3; kernels: Tolstikhin et al. (2018), 4, where h = 2 k sigma_z^2; the seven
    scales are those of their code.

    >>> mmd(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]), "rbf", bandwidth=1.0)
    tensor(1.2642)
    """
    _check(a, b, kernel, bandwidth)
    if block is not None:
        whole("block", block)
    h: float | Tensor = 2.0 * a.shape[1] if bandwidth is None else bandwidth
    # Distances are the same around any point: around their middle the squares below cancel least.
    centre = b.detach().mean(0)
    a, b = a - centre, b - centre
    k = _imq if kernel == "imq" else _rbf
    return _within(a, k, h, block) + _within(b, k, h, block) - 2 * _across(a, b, k, h, block)


Kernel = Callable[[Tensor, float | Tensor], Tensor]


def _imq(squares: Tensor, h: float | Tensor) -> Tensor:
    total = torch.zeros_like(squares)
    for scale in SCALES:
        total = total + scale * h / (scale * h + squares)
    return total


def _rbf(squares: Tensor, h: float | Tensor) -> Tensor:
    return torch.exp(-squares / h)


def _within(a: Tensor, kernel: Kernel, h: float | Tensor, block: int | None) -> Tensor:
    """The mean over the pairs of two different rows of one set."""
    n, total = len(a), a.new_zeros(())
    block = block or n
    for start in range(0, n, block):
        rows = a[start : start + block]
        itself = torch.arange(start, start + len(rows), device=a.device)[:, None] == torch.arange(n, device=a.device)
        total = total + kernel(_squares(rows, a), h).masked_fill(itself, 0).sum()
    return total / (n * (n - 1))


def _across(a: Tensor, b: Tensor, kernel: Kernel, h: float | Tensor, block: int | None) -> Tensor:
    total = a.new_zeros(())
    for start in range(0, len(a), block or len(a)):
        total = total + kernel(_squares(a[start : start + (block or len(a))], b), h).sum()
    return total / (len(a) * len(b))


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances, (n, m), by one matrix product instead of (n, m, k) differences."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return squares.clamp(min=0)


def _check(a: Tensor, b: Tensor, kernel: str, bandwidth: float | Tensor | None) -> None:
    if kernel not in KERNELS:
        raise unknown("kernel", str(kernel), list(KERNELS))
    if bandwidth is not None and not isinstance(bandwidth, Tensor):
        number("bandwidth", bandwidth, open_low=True)
    if isinstance(bandwidth, Tensor) and plain("bandwidth", bandwidth).numel() != 1:
        raise InputError(f"bandwidth has shape {tuple(bandwidth.shape)}: it must be one number")
    for name, given in (("a", a), ("b", b)):
        plain(name, given, what="a tensor (n, k)")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or not a.shape[1]:
        raise InputError(f"the sets are {tuple(a.shape)} and {tuple(b.shape)}: they must be (n, k) and (m, k)")
    if a.dtype != b.dtype or not a.is_floating_point() or a.dtype in NARROW:
        raise InputError(f"the sets are {a.dtype} and {b.dtype}: they must be floating point, of one kind")
    if min(len(a), len(b)) < 2:
        raise InputError(f"the sets hold {len(a)} and {len(b)} rows: a discrepancy takes at least 2 of each")
