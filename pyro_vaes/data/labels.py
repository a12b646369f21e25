"""Few labels of many: what semi-supervised learning starts from."""

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, whole
from pyro_vaes.tensors import plain


def few_labels(y: Tensor, count: int, seed: int = 0) -> Tensor:
    """Keep ``count`` labels, as many of every class as of the others, and replace the rest by -1.

    Args:
        y: whole labels (N,). count: how many to keep; the classes with the smallest labels get one more where it is no
            multiple of the number of classes. seed: of the draw, which is without replacement in each class.

    Raises:
        InputError: if there are not as many labels, or not as many in a class.

    Source: Kingma et al. (2014), 4.1: labels in equal numbers per class.

    >>> few_labels(torch.tensor([0, 1, 0, 1, 1, 0]), 2).sort().values
    tensor([-1, -1, -1, -1,  0,  1])
    """
    plain("y", y, 1, "whole labels (N,), of which a few are kept")
    if len(y) == 0 or y.dtype not in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64):
        raise InputError(
            f"y is {y.dtype} of shape {tuple(y.shape)}: it must be whole labels (N,), of which a few are kept"
        )
    classes = y.unique().tolist()
    whole("count", count, low=len(classes)), whole("seed", seed, low=0)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.full_like(y, -1)
    for i, label in enumerate(classes):
        rows = (y == label).nonzero().flatten()
        wanted = count // len(classes) + (i < count % len(classes))
        if wanted > len(rows):
            raise InputError(f"count is {count}: class {label} has {len(rows)} labels, fewer than the {wanted} wanted")
        kept[rows[torch.randperm(len(rows), generator=generator)[:wanted].to(y.device)]] = label
    return kept
