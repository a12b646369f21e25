"""Smaller images, for experiments that must be quick."""

from __future__ import annotations

from dataclasses import replace

from torch.nn.functional import avg_pool2d

from pyro_vaes.data.datasets import Dataset
from pyro_vaes.errors import InputError, whole


def pooled(dataset: Dataset, by: int) -> Dataset:
    """Take the mean of every square of by x by pixels; 1 leaves the images as they are.

    Args:
        dataset: float images of shape (H, W) or (C, H, W). by: a divisor of H and W.

    Raises:
        InputError: if the data are no float images, or ``by`` does not divide both sides.

    >>> import torch
    >>> pooled(Dataset("mine", torch.tensor([[0.0, 1.0, 1.0, 0.0]]), (2, 2)), 2).x.tolist()
    [[0.5]]
    """
    shape, x = dataset.shape, dataset.x
    if whole("by", by) == 1:
        return dataset
    if len(shape) not in (2, 3) or not x.is_floating_point() or any(side % by for side in shape[-2:]):
        raise InputError(f"{dataset.name} of shape {shape}, {x.dtype}: cannot be pooled by {by}")
    # A datum without channels has one.
    small = avg_pool2d(x.view(len(x), -1, *shape[-2:]), by)
    return replace(dataset, x=small.flatten(1), shape=(*shape[:-2], *small.shape[-2:]))
