"""Where the rows of a batch meet, in a training that shares its batches out: they meet across ranks.

Outside of such a training everything here gives back what it was given.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from pyro_vaes.inference.ranks import Ranks

_meeting: ContextVar["Ranks | None"] = ContextVar("ranks whose rows meet", default=None)


@contextmanager
def meeting(ranks: "Ranks | None", norms: Sequence[_BatchNorm] = ()) -> Iterator[None]:
    """While a loss is computed: let rows of all ranks meet where an objective asks, and in these batch norms."""
    if ranks is None:
        yield
        return
    token = _meeting.set(ranks)
    for norm in norms:
        norm.__dict__["forward"] = _normalised.__get__(norm)
    try:
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward")
        _meeting.reset(token)


def everyone(rows: Tensor) -> Tensor:
    """Give the rows of all ranks, in training on several; elsewhere the rows themselves.

    Args:
        rows: (b, ...), as many on each rank.

    Returns:
        (W b, ...), this rank's own first. The gradient of any rank's loss flows back to the rank that a row came from,
        so that the mean of the ranks' gradients is that of one process.

    Source: ours.

    >>> everyone(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    ranks = _meeting.get()
    if ranks is None:
        return rows
    # Everybody's own rows in their place and zeros elsewhere: their sum is all rows, and its gradient finds its way.
    before, after = (rows.new_zeros(n, *rows.shape) for n in (ranks.rank, ranks.count - ranks.rank - 1))
    every = _Total.apply(torch.cat([before, rows[None], after]), ranks)
    return every.roll(-ranks.rank, 0).flatten(0, 1)


def average(value: Tensor) -> Tensor:
    """Give the mean of all ranks' values, with its gradient, in training on several; elsewhere the value itself.

    Args:
        value: of any shape, a mean over as many rows on each rank.

    Source: ours.

    >>> average(torch.tensor(2.0))
    tensor(2.)
    """
    ranks = _meeting.get()
    return value if ranks is None else _Total.apply(value, ranks) / ranks.count


class _Total(torch.autograd.Function):
    """The sum over the ranks: what it does to any rank's loss flows back to all of them."""

    @staticmethod
    def forward(ctx, value, ranks):
        ctx.ranks = ranks
        return ranks.sum(value.contiguous())

    @staticmethod
    def backward(ctx, gradient):
        return ctx.ranks.sum(gradient.contiguous()), None


def _normalised(self: _BatchNorm, x: Tensor) -> Tensor:
    """Batch norm with the moments of all ranks' rows."""
    if not self.training:
        return type(self).forward(self, x)
    over, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    ranks = _meeting.get()
    assert ranks is not None
    count = x.numel() / x.shape[1] * ranks.count
    if count == 1:
        return type(self).forward(self, x)
    mean = _Total.apply(x.sum(over), ranks) / count
    centred = x - mean.reshape(shape)
    variance = _Total.apply(centred.square().sum(over), ranks) / count
    _remember(self, mean.detach(), variance.detach() * count / (count - 1))
    x = centred * (variance.reshape(shape) + self.eps).rsqrt()
    return x if self.weight is None else x * self.weight.reshape(shape) + self.bias.reshape(shape)


@torch.no_grad()
def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance, share)


def norms_of(pair: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a pair."""
    return [module for module in pair.modules() if isinstance(module, _BatchNorm)]
