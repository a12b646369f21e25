"""What a network is given whose label may be missing: which labels are known, and x beside one. Plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from pyro_vaes.nn.mlp import Activation, mlp


def split_label(y: Tensor | None, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Say which data have a label, and give every datum one: (B, c) -> (B,) of booleans, (B, c) one-hot.

    Args:
        y: one-hot labels, a row of zeros where there is none; None if no datum has one.
        rows: B. like: (..., c), whose kind and place the labels take.

    A datum without a label gets that of class 0, so that every row is one-hot; nobody may use it.

    >>> split_label(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), 2, torch.ones(2))
    (tensor([ True, False]), tensor([[0., 1.],
            [1., 0.]]))
    """
    c = like.shape[-1]
    if y is None:
        y = torch.zeros(rows, c, dtype=like.dtype, device=like.device)
    known = y.sum(-1) > 0.5
    first = one_hot(torch.zeros_like(known, dtype=torch.long), c).to(y.dtype)
    return known, torch.where(known[..., None], y, first)


class LabelledEncoder(nn.Module):
    """Map a datum and its label to mean and standard deviation of q(z | x, y): (..., d), (..., c) -> two of (..., k).

    The first layer is that of x and y side by side, as a sum: with many labels for one datum, as when they are summed
    over, x goes through it once.

    Args:
        data_dim, classes, latent_dim: d, c, k. hidden: widths, at least one.

    >>> x, every_label = torch.zeros(3, 8), torch.eye(4)[:, None]
    >>> LabelledEncoder(8, 4, [5], 2)(x, every_label)[0].shape
    torch.Size([4, 3, 2])
    """

    def __init__(
        self, data_dim: int, classes: int, hidden: Sequence[int], latent_dim: int, activation: Activation = nn.ReLU
    ):
        super().__init__()
        self.datum, self.label = nn.Linear(data_dim, hidden[0]), nn.Linear(classes, hidden[0], bias=False)
        self.activation, self.trunk = activation(), mlp(hidden, activation)
        self.loc, self.raw_scale = nn.Linear(hidden[-1], latent_dim), nn.Linear(hidden[-1], latent_dim)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(self.activation(self.datum(x) + self.label(y)))
        return self.loc(h), softplus(self.raw_scale(h)) + 1e-5
