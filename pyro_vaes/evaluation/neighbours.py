"""Distances to nearest neighbours, a block at a time, on the device of the data."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference.guard import as_batch
from pyro_vaes.tensors import NARROW, plain


def nearest_distances(x: Tensor, others: Tensor | None = None, *, block: int = 1024) -> Tensor:
    r"""Give the Euclidean distance of each datum to its nearest neighbour.

    .. math:: \min_j \lVert x_i - y_j \rVert

    Who is nearest is looked up in products of matrices, in the data's own precision; the distance to that neighbour is
    then computed from their difference, so that a copy is at 0.

    Args:
        x: (n, d), floats, or bytes that stand for [0, 1]. others: (m, d), the y, on the same device; by default the
            other rows of x, then n is at least 2.
        block: rows of either at a time: the memory is block^2 and block d.

    Returns:
        (n,).

    Raises:
        InputError: for other shapes, or a value that is NaN or infinite.

    Source: Wang et al. (2018), V-C, Fig. 11.

    >>> nearest_distances(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [9.0]]))
    tensor([1., 2.])
    >>> nearest_distances(torch.tensor([[0.0], [3.0], [4.0]]))
    tensor([3., 1., 1.])
    """
    whole("block", block)
    alone = others is None
    y = x if others is None else others
    check_rows("x", x, low=2 if alone else 1)
    check_rows("others", y)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"x has {x.shape[1]} entries per datum, others {y.shape[1]}: they must agree")
    dtype = torch.promote_types(as_batch(x[:1]).dtype, as_batch(y[:1]).dtype)
    # Distances are the same around any point: around the middle of the data the squares cancel least.
    centre = torch.stack([_rows(y, i, block, dtype).sum(0) for i in range(0, len(y), block)]).sum(0) / len(y)
    found = []
    for start in range(0, len(x), block):
        rows = _rows(x, start, block, dtype)
        which = _nearest(rows - centre, y, centre, block, start if alone else None)
        found.append(torch.linalg.vector_norm(rows - as_batch(y[which]).to(dtype), dim=1))
    return torch.cat(found)


def _rows(x: Tensor, start: int, block: int, dtype: torch.dtype) -> Tensor:
    return as_batch(x[start : start + block]).to(dtype)


def _nearest(rows: Tensor, y: Tensor, centre: Tensor, block: int, skip: int | None) -> Tensor:
    """Who of y is nearest to each row; rows that are those of y from ``skip`` on leave themselves out."""
    best = rows.new_full((len(rows),), torch.inf)
    which = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for start in range(0, len(y), block):
        others = _rows(y, start, block, rows.dtype) - centre
        # |x|^2 is the same for all of them.
        squares = torch.addmm(others.square().sum(1), rows, others.T, alpha=-2)
        if skip is not None:
            itself = skip + torch.arange(len(rows), device=rows.device) - start
            inside = (itself >= 0) & (itself < len(others))
            squares[inside.nonzero()[:, 0], itself[inside]] = torch.inf
        least, index = squares.min(1)
        closer = least < best
        best, which = torch.where(closer, least, best), torch.where(closer, index + start, which)
    return which


def histogram(distances: Mapping[str, Tensor], bins: int = 60) -> tuple[list[float], dict[str, list[float]]]:
    """Count distances in bins that all sets share, as shares of each set.

    Args:
        distances: label -> (n,), such as those of samples to the data and of the data to each other.

    Returns:
        edges (bins + 1), and label -> (bins), which sum to 1.

    >>> histogram({"data": torch.tensor([0.0, 1.0]), "samples": torch.tensor([1.0])}, bins=2)
    ([0.0, 0.5, 1.0], {'data': [0.5, 0.5], 'samples': [0.0, 1.0]})
    """
    whole("bins", bins)
    values = {label: d.detach().cpu().double().numpy() for label, d in distances.items()}
    if not values or any(v.ndim != 1 or not len(v) or not np.isfinite(v).all() for v in values.values()):
        raise InputError("distances must be vectors of finite numbers, at least one of them")
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)
    return edges.tolist(), {n: (np.histogram(v, edges)[0] / len(v)).tolist() for n, v in values.items()}


def check_rows(name: str, a: Tensor, low: int = 1) -> None:
    """Refuse what is no (n, p) tensor of finite numbers, floats or bytes."""
    if len(plain(name, a, 2, f"a tensor (n, p), n at least {low}")) < low or not a.shape[1]:
        raise InputError(f"{name} has shape {tuple(a.shape)}: it must be (n, p), n at least {low}")
    if not (a.is_floating_point() or a.dtype == torch.uint8) or a.dtype in NARROW:
        raise InputError(f"{name} has dtype {a.dtype}: it must be floating point, or uint8")
    bad = int((~a.isfinite()).sum())
    if bad:
        raise InputError(f"{name} has {bad} values that are NaN or infinite")
