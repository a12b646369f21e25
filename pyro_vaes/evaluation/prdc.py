"""Are samples like the data, and is all of the data there? Precision and recall, density and coverage."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, whole
from pyro_vaes.evaluation.neighbours import check_rows


class PRDC(NamedTuple):
    """What :func:`prdc` found.

    Attributes:
        precision: share of the samples within the reach of some datum. recall: share of the data within the reach of
            some sample. coverage: share of the data with a sample within their reach. All in [0, 1].
        density: how many data reach a sample, on average, in units of k; 1 where samples are distributed as the data,
            and above it where they crowd in the data's dense regions.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, fake: Tensor, k: int = 5, *, block: int = 1024) -> PRDC:
    r"""Compare two sets of features by their nearest neighbours.

    With :math:`B(x_i)` the ball around a datum up to its k-th nearest neighbour among the data, border included,

    .. math:: \text{precision} = \frac1M \sum_j 1\Big[y_j \in \bigcup_i B(x_i)\Big], \quad
              \text{density} = \frac{1}{kM} \sum_{j,i} 1[y_j \in B(x_i)], \quad
              \text{coverage} = \frac1N \sum_i 1[\exists j: y_j \in B(x_i)]

    and recall is precision with data and samples the other way round. They depend on the features and on the sizes of
    the sets: compare values of the same ones only. For equal distributions density is 1 on average, coverage
    :func:`expected_coverage`; precision and recall have no such value.

    Args:
        real: (N, p) features of data, x, N above k. fake: (M, p) of samples, y, M above k, on the same device.
        k: neighbours. block: rows at a time; the memory is block N. Computed in float64.

    Raises:
        InputError: for other shapes, too few rows, or a value that is NaN or infinite.

    Source: Kynkaanniemi et al. (2019), Eq. 1-2; Naeem et al. (2020), Eq. 5 and 6, with their k = 5.

    >>> x = torch.arange(8.0)[:, None]
    >>> prdc(x, x, k=1)
    PRDC(precision=1.0, recall=1.0, density=2.75, coverage=1.0)
    >>> prdc(x, x + 100, k=1)
    PRDC(precision=0.0, recall=0.0, density=0.0, coverage=0.0)
    """
    whole("k", k)
    whole("block", block)
    for name, a in (("real", real), ("fake", fake)):
        check_rows(name, a)
        if len(a) <= k:
            raise InputError(f"{name} has {len(a)} rows: {k} neighbours take more than {k}")
    if real.shape[1] != fake.shape[1]:
        raise InputError(f"real has {real.shape[1]} features, fake {fake.shape[1]}: they must agree")
    # Distances are the same around any point: around the middle of the data the squares cancel least.
    centre = real.detach().double().mean(0)
    real, fake = real.detach().double() - centre, fake.detach().double() - centre
    # Squares of distances are rounded by about as much; a neighbour at exactly the reach is to be inside.
    slack = 1e-13 * max(float(a.square().sum(1).max()) for a in (real, fake))
    reach, own = reaches(real, k, block).square() + slack, reaches(fake, k, block).square() + slack
    precise = pairs = 0
    covered, recalled = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    for start in range(0, len(fake), block):
        squares = _squares(fake[start : start + block], real)
        inside = squares <= reach
        precise += int(inside.any(1).sum())
        pairs += int(inside.sum())
        covered |= inside.any(0)
        recalled |= (squares <= own[start : start + block, None]).any(0)
    n, m = len(real), len(fake)
    return PRDC(precise / m, int(recalled.sum()) / n, pairs / (k * m), int(covered.sum()) / n)


def expected_coverage(n: int, m: int, k: int = 5) -> float:
    r"""Give the coverage of n data by m samples of the same continuous distribution, on average.

    .. math:: 1 - \prod_{i=1}^{k} \frac{n - i}{n + m - i} \to 1 - 2^{-k} \text{ for } n = m \to \infty

    Source: Naeem et al. (2020), Lemma 2.

    >>> round(expected_coverage(10**6, 10**6), 4), 1 - 2**-5
    (0.9688, 0.96875)
    """
    missed = 1.0
    for i in range(1, whole("k", k) + 1):
        missed *= (whole("n", n, low=k + 1) - i) / (n + whole("m", m) - i)
    return 1 - missed


def reaches(x: Tensor, k: int, block: int = 1024) -> Tensor:
    """Give each row's distance to its k-th nearest among the others, (n,).

    >>> reaches(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    tensor([1., 1., 2.])
    """
    if whole("k", k) >= len(x):
        raise InputError(f"x has {len(x)} rows: {k} neighbours take more than {k}")
    found = []
    for start in range(0, len(x), block):
        squares = _squares(x[start : start + block], x)
        squares.diagonal(start).fill_(torch.inf)
        found.append(squares.topk(k, dim=1, largest=False).values[:, -1].clamp(min=0).sqrt())
    return torch.cat(found)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances, (n, m), by one product of matrices."""
    return torch.addmm(a.square().sum(1, keepdim=True) + b.square().sum(1), a, b.T, alpha=-2)
