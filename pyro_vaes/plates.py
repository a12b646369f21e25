"""The one plate that every model and guide shares."""

import pyro
import torch
from torch import Tensor

from pyro_vaes.errors import InputError


def data_plate(x: Tensor | None = None, size: int | None = None) -> pyro.plate:
    r"""Open the plate ``data``: independent data along dimension -1, scaled from the batch to the data set.

    .. math:: \log p(X) \approx \frac{N}{B} \sum_{i=1}^{B} \log p(x_i)

    The plate always knows its size. A plate without one accepts any batch, and its minibatch gradients are not
    those of the data set.

    Args:
        x: the batch, shape (B, d), or None to draw from the prior.
        size: N, the number of data in the set (default B); without ``x`` the number of draws (default 1).

    Raises:
        InputError: if ``size`` is smaller than the batch.

    >>> import torch
    >>> with data_plate(torch.zeros(3, 2), size=12) as plate:
    ...     len(plate), pyro.sample("u", pyro.distributions.Normal(0, 1)).shape
    (3, torch.Size([3]))
    """
    if x is None:
        return pyro.plate("data", size or 1, dim=-1)
    batch = len(x)
    size = size or batch
    if size < batch:
        raise InputError(f"size is {size}, but the batch holds {batch} data: size is the whole data set's")
    if size == batch:
        return pyro.plate("data", size, dim=-1)
    # Naming the rows ourselves keeps Pyro from drawing a permutation of all N of them at every step.
    return pyro.plate("data", size, subsample=torch.arange(batch, device=x.device), dim=-1)
