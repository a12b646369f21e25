"""Errors that repeat: the same mark at the same place in a share of the images, and its random counterpart.

A model of the data cannot tell a repeated, structured error from a feature of the data by its form: it is as regular
as the data are (Eduardo et al., 2022, who call such errors systematic). What is random in place and value can be told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from pyro_vaes.data.corruption import Corrupted, masked
from pyro_vaes.errors import InputError, unknown

#: Side of a patch and of a logo, thickness of a line, and how far a logo moves, as fractions of the short side.
SIDE, THICKNESS, SHIFT = 2 / 7, 1 / 14, 1 / 14


def patch(height: int, width: int) -> Tensor:
    """A square with its corner in the middle of the image: (H, W), bool.

    >>> patch(4, 4).sum().item()
    1
    """
    side = _part(SIDE, height, width)
    return _box(height, width, height // 2, width // 2, side, side)


def line(height: int, width: int) -> Tensor:
    """A horizontal line across the image, below the middle: (H, W), bool.

    >>> line(4, 3).int().tolist()
    [[0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    """
    return _box(height, width, round(0.6 * height), 0, _part(THICKNESS, height, width), width)


def logo(height: int, width: int) -> Tensor:
    """A diagonal cross in the middle of the image: (H, W), bool.

    >>> logo(9, 9)[3:6, 3:6].int().tolist()
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    side = max(2, _part(SIDE, height, width))
    diagonal = torch.eye(side, dtype=torch.bool)
    mark = torch.zeros(height, width, dtype=torch.bool)
    mark[(height - side) // 2 :, (width - side) // 2 :][:side, :side] = diagonal | diagonal.flip(1)
    return mark


MARKS = {"patch": patch, "line": line, "logo": logo}


def systematic(
    x: Tensor, kind: str, fraction: float, shape: Sequence[int], *, value: float = 1.0, generator: Generator
) -> Corrupted:
    """Put one mark, of one value, on exactly round(fraction N) of the images: always at the same place.

    x'_ij = value where image i is chosen and pixel j belongs to the mark, else x_ij. A ``logo`` moves by up to `SHIFT`
    of the short side, at least one pixel, in each direction.

    Args:
        x: (N, d), float or uint8. kind: patch, line or logo. fraction: of the images, in [0, 1].
        shape: of one image, (H, W) or (C, H, W), with product d; all channels get the mark.
        value: of the mark, on the scale of float data. generator: a CPU generator, the only source of chance.

    Raises:
        InputError: for an unknown kind, a fraction outside [0, 1], or a shape that is no image's or not of d pixels.

    Source: systematic errors after Eduardo et al. (2022), "Clean subspace variational autoencoder"; the marks are ours.

    >>> dirty = systematic(torch.zeros(10, 16), "patch", 0.3, (4, 4), generator=torch.Generator().manual_seed(0))
    >>> dirty.x.sum().item(), dirty.mask.any(0).sum().item()
    (3.0, 1)
    """
    mark, chosen = _mark(x, kind, fraction, shape, generator)
    places = mark.expand(len(chosen), *mark.shape)
    if kind == "logo":
        most = max(1, _part(SHIFT, *mark.shape))
        moves = torch.randint(-most, most + 1, (len(chosen), 2), generator=generator).tolist()
        places = torch.stack([mark.roll(move, (0, 1)) for move in moves]) if moves else places
    return masked(x, _mask(x, chosen, places, shape), value)


def scattered(x: Tensor, kind: str, fraction: float, shape: Sequence[int], *, generator: Generator) -> Corrupted:
    """Put the same mark on as many of the images, each time at a place and of a value of its own.

    The place is uniform where the mark lies inside; the value u ~ U[0, 1], one for the mark. So form and amount of the
    dirt are those of :func:`systematic`, and what it repeats is random.

    Args: as of :func:`systematic`.

    Raises:
        InputError: as :func:`systematic`.

    >>> dirty = scattered(torch.zeros(10, 16), "patch", 0.3, (4, 4), generator=torch.Generator().manual_seed(0))
    >>> dirty.mask.sum().item(), dirty.mask.any(0).sum().item()
    (3, 3)
    """
    mark, chosen = _mark(x, kind, fraction, shape, generator)
    rows, columns = (mark.any(1 - axis).nonzero().flatten() for axis in (0, 1))
    form = mark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    places = torch.zeros(len(chosen), *mark.shape, dtype=torch.bool)
    for place in places:
        top, left = (
            int(torch.randint(0, m - f + 1, (), generator=generator))
            for m, f in zip(mark.shape, form.shape, strict=True)
        )
        place[top : top + form.shape[0], left : left + form.shape[1]] = form
    mask = _mask(x, chosen, places, shape)
    values = torch.zeros(len(x), 1)
    values[chosen] = torch.rand(len(chosen), 1, generator=generator)
    fill = (values * 255).round() if x.dtype == torch.uint8 else values
    return Corrupted(torch.where(mask, fill.to(x), x), mask)


WAYS = {"systematic": systematic, "random": scattered}


def _mark(x: Tensor, kind: str, fraction: float, shape: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
    if kind not in MARKS:
        raise unknown("mark", str(kind), list(MARKS))
    if not 0 <= fraction <= 1:
        raise InputError(f"fraction is {fraction}: it must be in [0, 1]")
    if len(shape) not in (2, 3) or x.ndim != 2 or math.prod(shape) != x.shape[1]:
        raise InputError(f"x has shape {tuple(x.shape)}: it must be images of shape {tuple(shape)}, one a row")
    if min(shape[-2:]) < 4:
        raise InputError(f"images of shape {tuple(shape)} are too small for a mark: both sides must be at least 4")
    return MARKS[kind](*shape[-2:]), torch.randperm(len(x), generator=generator)[: round(fraction * len(x))]


def _mask(x: Tensor, chosen: Tensor, places: Tensor, shape: Sequence[int]) -> Tensor:
    mask = torch.zeros(len(x), math.prod(shape[:-2]), *shape[-2:], dtype=torch.bool)
    mask[chosen] = places[:, None]
    return mask.flatten(1).to(x.device)


def _part(share: float, height: int, width: int) -> int:
    return max(1, round(share * min(height, width)))


def _box(height: int, width: int, top: int, left: int, rows: int, columns: int) -> Tensor:
    mark = torch.zeros(height, width, dtype=torch.bool)
    mark[top : top + rows, left : left + columns] = True
    return mark
