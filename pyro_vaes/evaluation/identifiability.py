"""Were the sources found, up to what no data can tell: their order, signs and lengths?"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.errors import InputError


class Matched(NamedTuple):
    """What :func:`matched` found.

    Attributes:
        found, true: the pairs, the column of the recovered code and that of the source it goes with, by source.
        correlation: of each pair, with its sign.
    """

    found: list[int]
    true: list[int]
    correlation: list[float]

    @property
    def mean(self) -> float:
        """The mean matched correlation (MCC), of absolute values."""
        return float(np.abs(self.correlation).mean())


def amari_distance(found: Tensor, true: Tensor) -> float:
    r"""Say how far two mixing matrices are from having the same columns, up to their order, signs and lengths.

    .. math:: \frac{1}{2 k (k - 1)} \bigg( \sum_i \Big( \sum_j \frac{|P_{ij}|}{\max_l |P_{il}|} - 1 \Big)
              + \sum_j \Big( \sum_i \frac{|P_{ij}|}{\max_l |P_{lj}|} - 1 \Big) \bigg), \qquad P = \hat A^+ A

    It is 0 if and only if P has one entry in each row and column, and 1 if all of P are equal in size.

    Args:
        found, true: :math:`\hat A` and A, (d, k) of rank k, k at least 2.

    Raises:
        InputError: shapes differ, a value is not finite, or a rank is below k.

    Source: Amari, Cichocki & Yang (1996), 5. Departs from it: divided by its largest value; and all columns are first
    given length 1, because the second sum is not invariant to the lengths of rows of P.

    >>> a = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    >>> amari_distance(-3 * a[:, [1, 0]], a) < 1e-6, amari_distance(torch.eye(2), torch.tensor([[1.0, 1], [1, -1]]))
    (True, 1.0)
    """
    a, b = (_mixing(name, m) for name, m in (("found", found), ("true", true)))
    if a.shape != b.shape:
        raise InputError(f"mixing matrices have shapes {tuple(a.shape)} and {tuple(b.shape)}: they must be the same")
    p, k = (torch.linalg.pinv(a) @ b).abs(), a.shape[1]
    rows = (p / p.amax(1, keepdim=True)).sum(1) - 1
    columns = (p / p.amax(0, keepdim=True)).sum(0) - 1
    return float((rows.sum() + columns.sum()) / (2 * k * (k - 1)))


def matched(found: Tensor, true: Tensor) -> Matched:
    """Pair recovered codes with sources, so that the sum of absolute correlations is largest.

    Args:
        found: (n, k). true: (n, m), m at most k. A column that does not vary correlates with nothing.

    Raises:
        InputError: shapes do not fit, or a value is not finite.

    Source: Kuhn (1955), as in ``scipy.optimize.linear_sum_assignment``; as a score of identifiability (MCC) Hyvarinen &
    Morioka (2016), 6.

    >>> s = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.5]])
    >>> pairs = matched(torch.stack([-s[:, 1], s[:, 0]], 1), s)
    >>> pairs.found, [round(r, 3) for r in pairs.correlation]
    ([1, 0], [1.0, -1.0])
    """
    from scipy.optimize import linear_sum_assignment

    for name, value in (("found", found), ("true", true)):
        if not _matrix(value) or len(value) < 2 or not value.shape[1]:
            raise InputError(f"{name} must be finite and (n, k), n at least 2, not {_said(value)}")
    if len(found) != len(true) or found.shape[1] < true.shape[1]:
        raise InputError(
            f"{tuple(found.shape)} codes cannot be matched with {tuple(true.shape)} sources: it must be one row per "
            "datum, and a code for every source"
        )
    correlation = _unit(true).T @ _unit(found)
    rows, columns = linear_sum_assignment(-correlation.abs().numpy())
    return Matched(columns.tolist(), rows.tolist(), correlation[rows, columns].tolist())


def _unit(value: Tensor) -> Tensor:
    """Centred columns of length 1, or 0 where nothing varies."""
    value = value.detach().double()
    value = value - value.mean(0)
    return value / value.norm(dim=0).clamp(min=1e-12)


def _mixing(name: str, value: Tensor) -> Tensor:
    if not _matrix(value) or value.shape[1] < 2:
        raise InputError(f"{name} must be finite and (d, k), k at least 2, not {_said(value)}")
    value = value.detach().double()
    value = value / value.norm(dim=0).clamp(min=1e-300)
    if int(torch.linalg.matrix_rank(value)) < value.shape[1]:
        raise InputError(f"{name} of shape {tuple(value.shape)} has rank below {value.shape[1]}: no source can be read")
    return value


def _matrix(value: object) -> bool:
    return (
        isinstance(value, Tensor) and value.dim() == 2 and not value.is_complex() and bool(torch.isfinite(value).all())
    )


def _said(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
