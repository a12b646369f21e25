"""Dark marks on a share of the images, and what all corruptions share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pyro_vaes.errors import InputError, image_shape, said
from pyro_vaes.tensors import NARROW, plain

#: Rows drawn at a time, which bounds the memory of the draws, and with the seed fixes them.
BLOCK = 4096

#: The radius of a circle and the width of a stripe as fractions of the image's short side, and the sides of a
#: rectangle as fractions of its height and width.
RADIUS = (1 / 8, 1 / 3)
WIDTH = (1 / 12, 1 / 5)
SIDES = (1 / 8, 1 / 2)


@dataclass(frozen=True)
class Corrupted:
    """Dirty data and where it is dirty.

    Arguments:
        x: (N, d), of the type and range of the clean data.
        mask: (N, d), bool: True where the corruption acted, even where it happened to leave the value.

    Source: ours.

    >>> Corrupted(torch.zeros(1, 2), torch.tensor([[True, False]])).mask.sum().item()
    1
    """

    x: Tensor
    mask: Tensor


def circles(x: Tensor, fraction: float, shape: tuple[int, ...], *, generator: Generator) -> Corrupted:
    """Put one dark disc on exactly round(fraction N) of the images.

    x'_ij = 0 where (i + 1/2 - a)^2 + (j + 1/2 - b)^2 <= r^2, for pixel (i, j), with the centre (a, b) uniform
    in the image and r uniform in `RADIUS` times the short side.

    The paper says "a randomly positioned dark circle mark with random radius" and is silent on the rest: we
    take dark as 0, the radius from 1/8 to 1/3 of the short side (2.5 to 6.7 pixels for Frey faces; never
    below sqrt(1/2), so that a disc covers a pixel), and let discs run over the edge. All channels get the
    same disc.

    Arguments:
        x: (N, d), float or uint8.
        fraction: of the images, in [0, 1].
        shape: of one image, (H, W) or (C, H, W), with product d.
        generator: a CPU generator, the only source of chance.

    Raises:
        InputError: a fraction outside [0, 1], a shape that is no image's or not of d pixels, or x of another
            type or shape.

    Source: Wang et al., "Recurrent Variational Autoencoders for Learning Nonlinear Generative Models in the
    Presence of Outliers", section V-B: Frey faces, 1179 of 1965 marked.

    >>> dirty = circles(torch.ones(10, 560), 0.6, (28, 20), generator=torch.Generator().manual_seed(0))
    >>> dirty.mask.any(dim=1).sum().item(), dirty.x[dirty.mask].max().item()
    (6, 0.0)
    """
    return _marks(x, fraction, shape, generator, _discs)


def rectangles(x: Tensor, fraction: float, shape: tuple[int, ...], *, generator: Generator) -> Corrupted:
    """Put one dark rectangle on exactly round(fraction N) of the images.

    x'_ij = 0 for top <= i < top + h, left <= j < left + w, with whole h and w uniform in `SIDES` times the
    image's height and width, and the corner uniform where the rectangle lies inside.

    The paper says "random width, length and location" and is silent on the rest: we take dark as 0, the
    sides from 1/8 to 1/2 of the image's (at least 1 pixel), and keep the rectangle whole. All channels get
    the same rectangle.

    Arguments:
        x: (N, d), float or uint8.
        fraction: of the images, in [0, 1].
        shape: of one image, (H, W) or (C, H, W), with product d.
        generator: a CPU generator, the only source of chance.

    Raises:
        InputError: a fraction outside [0, 1], a shape that is no image's or not of d pixels, or x of another
            type or shape.

    Source: Wang et al., "Recurrent Variational Autoencoders for Learning Nonlinear Generative Models in the
    Presence of Outliers", section V-B: the new test pattern, on all 1965 Frey faces.

    >>> dirty = rectangles(torch.ones(10, 560), 1.0, (28, 20), generator=torch.Generator().manual_seed(0))
    >>> dirty.mask.any(dim=1).sum().item(), dirty.x[dirty.mask].max().item()
    (10, 0.0)
    """
    return _marks(x, fraction, shape, generator, _boxes)


def stripes(x: Tensor, fraction: float, shape: tuple[int, ...], *, generator: Generator) -> Corrupted:
    """Put one dark stripe, from edge to edge, on exactly round(fraction N) of the images.

    x'_ij = 0 where |(i + 1/2 - a) cos t + (j + 1/2 - b) sin t| <= w / 2, for pixel (i, j), with the point (a, b)
    uniform in the image, the angle t uniform in [0, pi) and w uniform in `WIDTH` times the short side.

    A width is never below sqrt(2), so that a stripe covers a pixel. All channels get the same stripe.

    Arguments:
        x: (N, d), float or uint8.
        fraction: of the images, in [0, 1].
        shape: of one image, (H, W) or (C, H, W), with product d.
        generator: a CPU generator, the only source of chance.

    Raises:
        InputError: a fraction outside [0, 1], a shape that is no image's or not of d pixels, or x of another
            type or shape.

    Source: ours: a second pattern that was never seen in training, beside the rectangles of Wang et al. (2018),
    section V-B; it hides about as many pixels and has another form.

    >>> dirty = stripes(torch.ones(10, 560), 1.0, (28, 20), generator=torch.Generator().manual_seed(0))
    >>> dirty.mask.any(dim=1).sum().item(), dirty.x[dirty.mask].max().item()
    (10, 0.0)
    """
    return _marks(x, fraction, shape, generator, _bands)


def _discs(n: int, height: int, width: int, generator: Generator) -> Tensor:
    i, j = torch.arange(height).view(1, -1, 1) + 0.5, torch.arange(width).view(1, 1, -1) + 0.5
    a, b, u = torch.rand(3, n, 1, 1, generator=generator, dtype=torch.float64)
    low, high = (max(side * min(height, width), math.sqrt(0.5)) for side in RADIUS)
    return (i - a * height) ** 2 + (j - b * width) ** 2 <= (low + u * (high - low)) ** 2


def _boxes(n: int, height: int, width: int, generator: Generator) -> Tensor:
    i, j = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    inside = []
    for index, length in ((i, height), (j, width)):
        u, v = torch.rand(2, n, 1, 1, generator=generator, dtype=torch.float64)
        low, high = (max(1, round(side * length)) for side in SIDES)
        extent = low + (u * (high - low + 1)).floor()
        start = (v * (length - extent + 1)).floor()
        inside.append((start <= index) & (index < start + extent))
    return inside[0] & inside[1]


def _bands(n: int, height: int, width: int, generator: Generator) -> Tensor:
    i, j = torch.arange(height).view(1, -1, 1) + 0.5, torch.arange(width).view(1, 1, -1) + 0.5
    a, b, t, u = torch.rand(4, n, 1, 1, generator=generator, dtype=torch.float64)
    low, high = (max(side * min(height, width), math.sqrt(2)) for side in WIDTH)
    distance = (i - a * height) * (math.pi * t).cos() + (j - b * width) * (math.pi * t).sin()
    return distance.abs() <= (low + u * (high - low)) / 2


def _marks(
    x: Tensor,
    fraction: float,
    shape: tuple[int, ...],
    generator: Generator,
    draw: Callable[[int, int, int, Generator], Tensor],
) -> Corrupted:
    check(x, fraction)
    shape = image_shape(shape, x.shape[1])
    if len(shape) not in (2, 3):
        raise InputError(f"this corruption needs images of shape (H, W) or (C, H, W): one datum is {shape}")
    height, width = shape[-2:]
    mask = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    images = mask.view(len(x), -1, height, width)
    chosen = torch.randperm(len(x), generator=generator)[: round(fraction * len(x))]
    for block in chosen.split(BLOCK):
        images[block] = draw(len(block), height, width, generator)[:, None].to(x.device)
    return Corrupted(x.masked_fill(mask, 0), mask)


def check(x: Tensor, fraction: float) -> None:
    """Refuse what is no data of float or bytes, and a fraction outside [0, 1]."""
    plain("x", x, 2, "float or uint8 of shape (N, d)")
    if x.numel() == 0 or not (x.is_floating_point() or x.dtype == torch.uint8) or x.dtype in NARROW:
        given = f"{x.dtype} of shape {tuple(x.shape)}"
        raise InputError(f"x is {given}: it must be float or uint8 of shape (N, d), not empty")
    if not isinstance(fraction, int | float) or isinstance(fraction, bool) or not 0 <= fraction <= 1:
        raise InputError(f"fraction is {said(fraction)}: it must be in [0, 1]")
