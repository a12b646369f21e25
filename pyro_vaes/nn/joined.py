"""What a conditional network is given: the condition, alone or beside a vector."""

import torch
from torch import Tensor

from pyro_vaes.errors import InputError


def given(y: Tensor | None) -> Tensor:
    """Give the condition back, or refuse to go on without one.

    >>> given(None)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: y is missing: a conditional program is called with the condition of every datum, (B, c)
    """
    if y is None:
        raise InputError("y is missing: a conditional program is called with the condition of every datum, (B, c)")
    return y


def joined(a: Tensor, y: Tensor | None) -> Tensor:
    """Put the condition of every datum beside its vector: (..., k) and (B, c) -> (..., k + c).

    Args:
        a: x (B, d), a code (B, k), or many codes per datum (K, B, k). y: (B, c), the same for all codes of a datum.

    Raises:
        InputError: if there is no condition.

    >>> joined(torch.zeros(5, 3, 2), torch.ones(3, 4)).shape
    torch.Size([5, 3, 6])
    """
    y = given(y)
    rows = torch.broadcast_shapes(a.shape[:-1], y.shape[:-1])
    return torch.cat([a.expand(*rows, -1), y.expand(*rows, -1)], -1)
