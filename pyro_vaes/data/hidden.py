"""Which pixels of an image are hidden, to be completed: by the name of a region, or by a file."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.data.declared import read_npy
from pyro_vaes.errors import InputError, said, unknown

# Hidden: first and last row, first and last column, as shares of the height and the width of an upright face.
REGIONS = {
    "right": (0.0, 1.0, 0.5, 1.0),
    "left": (0.0, 1.0, 0.0, 0.5),
    "top": (0.0, 0.5, 0.0, 1.0),
    "bottom": (0.5, 1.0, 0.0, 1.0),
    "eyes": (0.15, 0.45, 0.1, 0.9),
    "mouth": (0.6, 0.85, 0.2, 0.8),
    "centre": (0.25, 0.75, 0.25, 0.75),
}


def hiding(region: str, shape: Sequence[int]) -> Tensor:
    """Give the mask (d,) that hides a region of an image: 1 is seen, 0 is hidden.

    Args:
        region: one of :data:`REGIONS`. shape: (H, W) or (C, H, W), at least 4 x 4; all channels are hidden alike.

    Raises:
        InputError: for an unknown region, or data that are no images.

    Source: the right half, eyes and mouth of Shang, Sohn, Akata & Tian (2017), Fig. 4, which says no more of where they
    are.

    >>> hiding("right", (4, 4)).reshape(4, 4)[0]
    tensor([1., 1., 0., 0.])
    """
    if not isinstance(region, str) or region not in REGIONS:
        raise unknown("region", str(region), list(REGIONS))
    if not isinstance(shape, Sequence) or not all(type(n) is int and 0 < n < 2**20 for n in shape):
        raise InputError(f"shape is {said(shape)}: it must be (H, W) or (C, H, W)")
    if len(shape) not in (2, 3) or min(shape[-2:]) < 4:
        raise InputError(f"data of shape {tuple(shape)} have no {region}: images of at least 4 x 4 are needed")
    height, width = shape[-2:]
    first, last, begin, end = REGIONS[region]
    seen = torch.ones(tuple(shape))
    rows, columns = slice(round(first * height), round(last * height)), slice(round(begin * width), round(end * width))
    seen[..., rows, columns] = 0
    return seen.flatten()


def read_mask(path: str, shape: Sequence[int], rows: int) -> Tensor:
    """Read a mask from a .npy file, as (d,) or (rows, d) zeros and ones: 1 is seen, 0 is hidden.

    Args:
        shape: of one datum. rows: of the data; a file may hold one mask for all, flat or in the data's shape, or one
            for each.

    Raises:
        InputError: for a file that cannot be read, or a mask of another shape or with other values.

    >>> read_mask("nothing.npy", (2, 2), 3)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: hide nothing.npy: there is no such file: give a .npy file
    """
    found = read_npy(path, f"hide {path}")
    size = int(np.prod(shape))
    flat = {tuple(shape): (size,), (size,): (size,), (rows, *shape): (rows, size), (rows, size): (rows, size)}
    # A grey mask hides all channels of a colour image.
    if len(shape) == 3 and found.shape == tuple(shape[1:]):
        found = np.broadcast_to(found, tuple(shape))
    if found.shape not in flat:
        raise InputError(f"hide {path}: a mask of shape {found.shape} does not fit data of shape {tuple(shape)}")
    if found.dtype.kind not in "buif" or not np.isin(found, (0, 1)).all():
        raise InputError(f"hide {path}: a mask holds 1 where pixels are seen and 0 where they are hidden, nothing else")
    return torch.as_tensor(found.astype(np.float32).reshape(flat[found.shape]))
