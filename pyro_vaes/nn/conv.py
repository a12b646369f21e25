"""Convolutional encoders and decoders of flat data. Plain torch: no Pyro here."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, batch_norm, grid_sample, softplus

from pyro_vaes.errors import InputError, said, whole

FILTER: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}


def image_shape(shape: Sequence[int] | None, data_dim: int) -> tuple[int, int, int]:
    """Read the shape of an image as (channels, height, width).

    Args:
        shape: (height, width) or (channels, height, width); None for a square of one channel.

    Raises:
        InputError: if its product is not ``data_dim``, or ``data_dim`` is no square and nothing is given.

    >>> image_shape(None, 784), image_shape((3, 4, 5), 60)
    ((1, 28, 28), (3, 4, 5))
    >>> image_shape(None, 8)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: data_dim is 8, which is no square: give the image's shape=(height, width)
    """
    if shape is None:
        side = math.isqrt(data_dim)
        if side * side != data_dim:
            raise InputError(f"data_dim is {data_dim}, which is no square: give the image's shape=(height, width)")
        return 1, side, side
    if isinstance(shape, str) or not isinstance(shape, Sequence) or len(shape) not in (2, 3):
        raise InputError(f"shape is {shape!r}: it must be (height, width) or (channels, height, width)")
    sizes = [whole(f"shape[{i}]", size) for i, size in enumerate(shape)]
    if math.prod(sizes) != data_dim:
        raise InputError(f"shape is {tuple(shape)}, which holds {math.prod(sizes)} entries: data_dim is {data_dim}")
    channels, height, width = sizes if len(sizes) == 3 else [1, *sizes]
    return channels, height, width


def image_of(shape: object) -> tuple[int, int, int]:
    """Give the shape of an image as (C, H, W), or refuse it.

    >>> image_of((2, 3))
    (1, 2, 3)
    """
    sides = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sides) not in (2, 3) or not all(type(n) is int and 0 < n < 2**20 for n in sides):
        raise InputError(f"shape is {said(shape)}: it must be (H, W) or (C, H, W)")
    return image_shape(sides, math.prod(sides))


def halved(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """Give height and width before and after each convolution of stride 2.

    >>> halved(28, 5, 2)
    [(28, 5), (14, 3), (7, 2)]
    """
    sizes = [(height, width)]
    for _ in range(times):
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


class Norm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a batch has a single value per channel, and so none.

    That is one datum whose image has shrunk to one pixel, as in the last batch of an epoch.

    >>> import torch
    >>> Norm(2)(torch.ones(1, 2, 1, 1)).flatten().detach().round(decimals=3)
    tensor([1., 1.])
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.numel() > input.shape[1] or not self.training:
            return super().forward(input)
        return batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def convolutions(shape: tuple[int, int, int], filters: Sequence[int]) -> nn.Sequential:
    """Stack convolutions of stride 2, each with a batch norm and a leaky ReLU, and flatten what comes out.

    >>> len(convolutions((1, 8, 8), (4, 6)))
    7
    """
    layers: list[nn.Module] = []
    for channels, count in zip([shape[0], *filters], filters, strict=False):
        # The batch norm takes the mean away, so a bias in front of it would have no gradient.
        layers += [nn.Conv2d(channels, count, bias=False, **FILTER), Norm(count), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Flatten())


class ConvEncoder(nn.Module):
    """Map a flat image to mean and standard deviation of q(z | x): (..., d) -> two of (..., k).

    Each layer is a convolution of stride 2, a batch norm and a leaky ReLU.

    Args:
        shape: (channels, height, width), any height and width. filters: how many per layer, from x inwards.

    >>> import torch
    >>> loc, scale = ConvEncoder((1, 8, 8), (4, 6), 2)(torch.zeros(5, 3, 64))
    >>> loc.shape, bool((scale > 0).all())
    (torch.Size([5, 3, 2]), True)
    """

    def __init__(self, shape: tuple[int, int, int], filters: Sequence[int], latent_dim: int):
        super().__init__()
        self.shape = shape
        self.trunk = convolutions(shape, filters)
        width = [shape[0], *filters][-1] * math.prod(halved(*shape[1:], len(filters))[-1])
        self.loc, self.raw_scale = nn.Linear(width, latent_dim), nn.Linear(width, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Particles and data become one batch: convolutions know one leading dimension.
        h = self.trunk(x.reshape(-1, *self.shape)).reshape(*x.shape[:-1], -1)
        return self.loc(h), softplus(self.raw_scale(h)) + 1e-5


class ConvDecoder(nn.Module):
    """Map a code to the logits of a flat image: (..., k) -> (..., d), the encoder backwards.

    A linear map and a ReLU, then transposed convolutions of stride 2; after each but the last a batch norm and a ReLU.

    Args:
        shape: (channels, height, width), any height and width. filters: the *encoder's*, from x inwards.

    >>> import torch
    >>> ConvDecoder(2, (4, 6), (1, 7, 10))(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3, 70])
    """

    def __init__(self, latent_dim: int, filters: Sequence[int], shape: tuple[int, int, int]):
        super().__init__()
        sizes = halved(*shape[1:], len(filters))
        counts = [shape[0], *filters]
        self.inner = (counts[-1], *sizes[-1])
        self.linear = nn.Linear(latent_dim, math.prod(self.inner))
        layers: list[nn.Module] = []
        for i in reversed(range(len(filters))):
            # Stride 2 forgets whether a size was even; the padding at the far edge restores it.
            even = (1 - sizes[i][0] % 2, 1 - sizes[i][1] % 2)
            layers += [nn.ReLU()] if i == len(filters) - 1 else [Norm(counts[i + 1]), nn.ReLU()]
            layers += [nn.ConvTranspose2d(counts[i + 1], counts[i], output_padding=even, bias=i == 0, **FILTER)]
        self.trunk = nn.Sequential(*layers, nn.Flatten())

    def forward(self, z: Tensor) -> Tensor:
        h = self.linear(z).reshape(-1, *self.inner)
        return self.trunk(h).reshape(*z.shape[:-1], -1)


def distorted(images: Tensor, strength: float) -> Tensor:
    """Turn, scale, shear and shift each image at random, all of them a little.

    Args:
        images: (B, channels, height, width); zeros come in from outside, and pixels are interpolated.
        strength: at 1 an angle is uniform up to 15 degrees either way, a scale up to 10 %, a shear up to 0.2, and a
            shift up to a fourteenth of the image (2 pixels of 28) in both directions.

    >>> import torch
    >>> distorted(torch.ones(2, 1, 4, 4), 1.0).shape
    torch.Size([2, 1, 4, 4])
    """
    u = strength * (2 * torch.rand(5, len(images), dtype=images.dtype, device=images.device) - 1)
    angle, scale, shear, shifts = u[0] * math.radians(15), 1 + 0.1 * u[1], 0.2 * u[2], u[3:] / 7
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # From a pixel of the answer to where it comes from; an image is 2 wide, so that 1/7 is a fourteenth of it.
    affine = torch.stack([cos, shear - sin, shifts[0], sin, cos, shifts[1]], -1).reshape(-1, 2, 3)
    grid = affine_grid(affine, list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


class ConvClassifier(nn.Module):
    """Map a flat image to the logits of its class: (..., d) -> (..., c); layers as in :class:`ConvEncoder`.

    Args:
        shape: (channels, height, width). filters: how many per layer, from x inwards. classes: c.
        distort: strength of :func:`distorted`, which every image goes through while training, anew at every call.

    >>> import torch
    >>> ConvClassifier((1, 8, 8), (4, 6), 10)(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(self, shape: tuple[int, int, int], filters: Sequence[int], classes: int, distort: float = 0.0):
        super().__init__()
        self.shape, self.distort, self.trunk = shape, distort, convolutions(shape, filters)
        width = [shape[0], *filters][-1] * math.prod(halved(*shape[1:], len(filters))[-1])
        self.logits = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        images = x.reshape(-1, *self.shape)
        images = distorted(images, self.distort) if self.training and self.distort else images
        return self.logits(self.trunk(images).reshape(*x.shape[:-1], -1))
