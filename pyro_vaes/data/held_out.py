"""Rows that are kept from training, drawn once from a seed."""

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, number


def split_rows(rows: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Give the rows to train on and those held out, each in ascending order.

    Args:
        rows: N, at least 2. share: of the rows that are held out, in (0, 1); at least one row is on either side.

    Raises:
        InputError: for another share, or a single row.

    >>> [part.tolist() for part in split_rows(5, 0.4)]
    [[1, 2, 3], [0, 4]]
    """
    if number("held_out", share, open_low=True) >= 1:
        raise InputError(f"held_out is {share}: it must be below 1, the share of the rows that is not trained on")
    if rows < 2:
        raise InputError("held_out needs at least 2 rows, one to train on and one to hold out")
    held = min(max(round(rows * share), 1), rows - 1)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return order[held:].sort().values, order[:held].sort().values
