"""What one-class methods see of an image where its pixels say too little; nothing of it is learned from labels."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, one_hot


def pca64(x: Tensor) -> Tensor:
    """The scores of the first 64 principal components, divided by one number.

    >>> pca64(torch.rand(9, 12)).square().mean().round(decimals=3)
    tensor(1.)
    """
    from sklearn.decomposition import PCA

    rows = x.double().numpy()
    scores = PCA(min(64, *rows.shape), svd_solver="full").fit_transform(rows)
    return torch.as_tensor(scores / np.sqrt((scores**2).mean()), dtype=torch.float32)


def gradients(x: Tensor, shape: Sequence[int] = (3, 32, 32)) -> Tensor:
    """Histograms of oriented gradients: nine unsigned orientations in cells of 8 x 8 pixels, four apart.

    Args:
        shape: of one image, (H, W) or (C, H, W).

    Source: Dalal & Triggs (2005). Departs from it: grey images, hard bins, and each cell normalised by itself.

    >>> gradients(torch.rand(2, 3072)).shape
    torch.Size([2, 441])
    """
    grey = x.reshape(len(x), -1, *shape[-2:]).mean(1)
    down, right = torch.gradient(grey, dim=(1, 2))
    orientation = (torch.atan2(down, right) % math.pi * (9 / math.pi)).long().clamp(max=8)
    votes = one_hot(orientation, 9) * torch.hypot(down, right).unsqueeze(-1)
    return normalize(avg_pool2d(votes.permute(0, 3, 1, 2), 8, 4), dim=1).flatten(1)


def gradients64(x: Tensor) -> Tensor:
    """:func:`pca64` of :func:`gradients`."""
    return pca64(gradients(x))


FEATURES: dict[str, Callable[[Tensor], Tensor]] = {"pixels": pca64, "gradients": gradients64}
