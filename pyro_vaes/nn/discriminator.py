"""Tell images of two kinds apart. Plain torch: no Pyro here."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyro_vaes.errors import InputError, number, whole
from pyro_vaes.meeting import everyone
from pyro_vaes.nn.conv import halved, image_of
from pyro_vaes.nn.mlp import check_sizes

FILTERS, KERNELS = (32, 64, 128, 128), 100
SMALLEST = 4  # pixels at the shorter side, from which on nothing is pooled


class Dropout(nn.Module):
    """Set entries to zero at random while training, and scale up the others; with ``whole_channels`` whole channels.

    It draws uniform numbers where torch's own draws a mask in place, or by a fused kernel on a GPU: those numbers are
    the same under every engine, and replicas have a rule for them.

    Args:
        rate: the share of zeros, in [0, 1).

    >>> layer = Dropout(0.5).eval()
    >>> bool((layer(torch.ones(3)) == 1).all())
    True
    """

    def __init__(self, rate: float = 0.5, whole_channels: bool = False):
        if number("rate", rate) >= 1:
            raise InputError(f"rate is {rate!r}: it must be below 1")
        super().__init__()
        self.rate, self.whole_channels = rate, whole_channels

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return h
        shape = (*h.shape[:-2], 1, 1) if self.whole_channels else h.shape
        kept = torch.rand(shape, dtype=h.dtype, device=h.device) >= self.rate
        return h * kept.to(h.dtype) / (1 - self.rate)


class BatchDiscrimination(nn.Module):
    r"""Append to each row how close the other rows of its batch are: (n, a) -> (n, a + b).

    .. math:: M_{ib} = T_b^\top h_i \in \mathbb{R}^c, \qquad
              o_{ib} = \frac{1}{n - 1} \sum_{j \ne i} \exp(-\lVert M_{ib} - M_{jb} \rVert_1)

    A generator that always draws the same image is told by it. All rows of a call must be of one kind: real data, or
    fakes.

    Args:
        width: a. kernels: b, closenesses per row. dims: c, entries that each compares.

    Source: Salimans et al. (2016), 3.2, with b = 100 and c = 5 in S2's code. Departs from it: a mean over the *other*
    rows, not the sum over all, so that a smaller last batch is not told from the others by its size, and the logits of
    a fresh network do not grow with the batch. A row without others has o = 0.

    >>> layer = BatchDiscrimination(4, kernels=3, dims=2)
    >>> layer(torch.ones(5, 4))[0]
    tensor([1., 1., 1., 1., 1., 1., 1.], grad_fn=<SelectBackward0>)
    """

    def __init__(self, width: int, kernels: int = KERNELS, dims: int = 5):
        for name, size in (("width", width), ("kernels", kernels), ("dims", dims)):
            whole(name, size, high=10**6)
        super().__init__()
        # Rows of norm 1 are then about one apart, where the exponential has a slope.
        self.weight = nn.Parameter(torch.randn(width, kernels, dims) / math.sqrt(dims))
        self.meets = True

    def forward(self, h: Tensor) -> Tensor:
        own = (h @ self.weight.flatten(1)).unflatten(-1, self.weight.shape[1:])
        every = everyone(own)
        near = torch.exp(-torch.cdist(own.transpose(0, 1).contiguous(), every.transpose(0, 1).contiguous(), p=1.0))
        itself = torch.eye(len(h), len(every), dtype=h.dtype, device=h.device)
        others = (near * (1 - itself)).sum(-1).T / max(len(every) - 1, 1)
        return torch.cat([h, others], -1)


class ImageDiscriminator(nn.Module):
    r"""Tell real images from fakes: a batch of flat images (n, d) -> logits (n,), above 0 for real.

    Stages of a 5 x 5 convolution (3 x 3 in the last), a 2 x 2 max pool, a ReLU and dropout; then a linear layer whose
    row is scaled to :math:`L^2` norm 1, dropout, a ReLU, :class:`BatchDiscrimination` and one logit.

    Rows of a call see each other through the batch discrimination: give real data and fakes in calls of their own. In
    eval mode nothing is random.

    Args:
        shape: (channels, height, width), any height and width; an odd size is rounded up as it is halved.
        filters: of the stages, from the image on; by default 32, 64, 128, 128, as many of them as bring the shorter
            side down to four pixels, and one at least.
        hidden: width of the linear layer. kernels: of the batch discrimination, by default 100 and at most ``hidden``;
            0 leaves it out. dropout: share of zeros. outputs: logits per image, more than one for a classifier,
            (n, outputs).

    Source: S2, G.4, for which FC is 512 wide. The text gives its convolutions stride 2 *and* a pool after each, which
    would bring 64 pixels below one; the authors' code has stride 1, and four stages for 64 pixels, as here. From it,
    too, that whole channels are dropped after a convolution. Departs from it: see :class:`BatchDiscrimination`.

    >>> ImageDiscriminator((1, 8, 8), (4,), hidden=6, kernels=3)(torch.zeros(5, 64)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        filters: Sequence[int] | None = None,
        hidden: int = 512,
        kernels: int | None = None,
        dropout: float = 0.5,
        outputs: int = 1,
    ):
        shape = image_of(shape)
        filters = FILTERS[: stages(*shape[1:])] if filters is None else filters
        check_sizes(math.prod(shape), 1, filters, "discriminator_filters")
        if not filters:
            raise InputError("discriminator_filters is empty: one stage is the least")
        check_sizes(math.prod(shape), 1, (hidden,), "discriminator_hidden")
        kernels = min(KERNELS, hidden) if kernels is None else whole("kernels", kernels, low=0)
        super().__init__()
        self.shape, self.outputs = tuple(shape), whole("outputs", outputs)
        self._given = {
            "filters": tuple(filters),
            "hidden": hidden,
            "kernels": kernels,
            "dropout": dropout,
            "outputs": outputs,
        }
        layers: list[nn.Module] = []
        for i, (count, to) in enumerate(pairwise([shape[0], *filters])):
            size = 3 if i == len(filters) - 1 else 5
            layers += [nn.Conv2d(count, to, size, padding=size // 2), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]
            layers += [Dropout(dropout, whole_channels=True)]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.linear = nn.Linear(filters[-1] * math.prod(halved(*shape[1:], len(filters))[-1]), hidden)
        self.dropout = Dropout(dropout)
        self.batch = BatchDiscrimination(hidden, kernels) if kernels else nn.Identity()
        self.logit = nn.Linear(hidden + kernels, outputs)

    def __repr__(self) -> str:
        default = {"hidden": 512, "kernels": min(KERNELS, self.linear.out_features), "dropout": 0.5, "outputs": 1}
        given = [f", {name}={value!r}" for name, value in self._given.items() if default.get(name) != value]
        return f"ImageDiscriminator({self.shape}{''.join(given)})"

    def forward(self, x: Tensor) -> Tensor:
        h = normalize(self.linear(self.trunk(x.reshape(-1, *self.shape))), dim=-1)
        found = self.logit(self.batch(torch.relu(self.dropout(h))))
        return found if self.outputs > 1 else found.squeeze(-1)


def stages(height: int, width: int) -> int:
    """How often an image is halved until its shorter side is four pixels: between 1 and the number of ``FILTERS``.

    >>> stages(28, 28), stages(64, 64), stages(8, 8), stages(2, 2)
    (3, 4, 1, 1)
    """
    sizes = halved(height, width, len(FILTERS))
    return next((i for i, size in enumerate(sizes) if i and min(size) <= SMALLEST), len(FILTERS))
