"""What every tensor that a user gives must be, whatever else is asked of it."""

from typing import Any

import torch
from torch import Tensor

from pyro_vaes.errors import InputError

#: Rows that anything here counts with; a tensor may claim more without having any memory.
MOST = 2**31 - 1
#: Floats of eight bits and less, which torch stores and hardly computes with.
NARROW = {getattr(torch, name) for name in dir(torch) if name.startswith(("float8", "float4"))}


def plain(name: str, value: Any, dims: int | None = None, what: str = "a tensor") -> Tensor:
    """Give back an ordinary tensor, or refuse what is none or holds no values.

    Args:
        name: of the argument. dims: how many axes it must have; None for any number. what: is allowed, in words.

    Raises:
        InputError: for anything else than a tensor; for one that is nested, sparse, quantised or on the meta device;
            for another number of axes, or one of more than 2^31 - 1 entries.

    >>> import torch
    >>> plain("x", torch.zeros(2, device="meta"))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: x is on the meta device and holds no values: it must be a tensor
    """
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is {type(value).__name__}: it must be {what}")
    for odd, kind in (
        (value.is_nested, "is nested"),
        (value.is_sparse or str(value.layout) != "torch.strided", "is sparse"),
        (value.is_quantized, "is quantised"),
        (value.is_meta, "is on the meta device and holds no values"),
    ):
        if odd:
            raise InputError(f"{name} {kind}: it must be {what}")
    shape = tuple(value.shape)
    if dims is not None and len(shape) != dims:
        raise InputError(f"{name} is of shape {shape}: it must be {what}")
    if max(shape, default=0) > MOST:
        raise InputError(f"{name} is of shape {shape}: no axis may be longer than {MOST}")
    return value
