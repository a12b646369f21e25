"""Make clean data dirty, and say where.

Every corruption returns `Corrupted(x, mask)`: a dirty copy in the type of the clean data, and the entries
that were acted on. Values are meant on the scale [0, 1] of images; on uint8 data the same is done on 0..255.
The copy lies in memory, also when the clean data are a memory map.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor

from pyro_vaes.data.declared import read_npy
from pyro_vaes.data.marks import BLOCK, Corrupted, check, circles, rectangles, stripes
from pyro_vaes.errors import InputError, image_shape, number, said, unknown, whole
from pyro_vaes.tensors import plain


def impulse(x: Tensor, fraction: float, *, generator: Generator) -> Corrupted:
    """Replace each entry, with probability `fraction`, by a uniform value.

    x' = u where b = 1, else x; with b ~ Bernoulli(fraction), u ~ U[0, 1].

    On uint8, u is uniform on {0, ..., 255}. The paper calls this salt-and-pepper noise. It replaces "40% of
    the pixels in each image" and is silent on whether that number is exact: we draw every pixel by itself.
    Its images are grey: in colour, we draw every channel by itself.

    Arguments:
        x: (N, d), float or uint8.
        fraction: the probability, in [0, 1].
        generator: a CPU generator, the only source of chance.

    Raises:
        InputError: a fraction outside [0, 1], or x of another type or shape.

    Source: Wang et al., "Recurrent Variational Autoencoders for Learning Nonlinear Generative Models in the
    Presence of Outliers", sections V-A and V-C: MNIST, 40% of the pixels.

    >>> dirty = impulse(torch.full((2, 8), 2.0), 1.0, generator=torch.Generator().manual_seed(0))
    >>> bool(dirty.mask.all()), bool(dirty.x.max() <= 1)
    (True, True)
    """
    return _entries(x, fraction, generator, _uniform)


def salt_and_pepper(x: Tensor, fraction: float, *, generator: Generator) -> Corrupted:
    """Set each entry, with probability `fraction`, to 0 or 1 with even odds (0 or 255 on uint8).

    x' = s where b = 1, else x; with b ~ Bernoulli(fraction), s ~ Bernoulli(1/2).

    In colour, we draw every channel by itself.

    Arguments:
        x: (N, d), float or uint8.
        fraction: the probability, in [0, 1].
        generator: a CPU generator, the only source of chance.

    Raises:
        InputError: a fraction outside [0, 1], or x of another type or shape.

    Source: the denoising VAE's input noise, with levels 0.05 to 0.5.

    >>> dirty = salt_and_pepper(torch.full((9, 9), 0.5), 0.3, generator=torch.Generator().manual_seed(0))
    >>> dirty.x.unique().tolist()
    [0.0, 0.5, 1.0]
    """
    return _entries(x, fraction, generator, _coins)


def _uniform(shape: torch.Size, dtype: torch.dtype, generator: Generator) -> Tensor:
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator, dtype=dtype)
    return torch.rand(shape, generator=generator).to(dtype)


def _coins(shape: torch.Size, dtype: torch.dtype, generator: Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).to(dtype) * (255 if dtype == torch.uint8 else 1)


def _entries(
    x: Tensor,
    fraction: float,
    generator: Generator,
    draw: Callable[[torch.Size, torch.dtype, Generator], Tensor],
) -> Corrupted:
    check(x, fraction)
    dirty, mask = x.detach().clone(), torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    for rows, hit in zip(dirty.split(BLOCK), mask.split(BLOCK), strict=True):
        hit.copy_(torch.rand(rows.shape, generator=generator) < fraction)
        torch.where(hit, draw(rows.shape, rows.dtype, generator).to(x.device), rows, out=rows)
    return Corrupted(dirty, mask)


def gaussian(x: Tensor, std: float, fraction: float = 1.0, *, generator: Generator) -> Corrupted:
    """Add Gaussian noise to each entry with probability `fraction`, which is 1 unless told.

    x' = x + b std e, with b ~ Bernoulli(fraction), e ~ N(0, 1).

    Float data is not clipped, so the noise stays Gaussian and values may leave [0, 1]; uint8 data is rounded
    and clipped to 0..255.

    Arguments:
        x: (N, d), float or uint8.
        std: the standard deviation, at least 0, on the scale of float data; on uint8 it is times 255.
        fraction: the probability, in [0, 1].
        generator: a CPU generator, the only source of chance.

    Raises:
        InputError: a negative or infinite std, a fraction outside [0, 1], or x of another type or shape.

    Source: the papers name no such noise; it is the usual one.

    >>> dirty = gaussian(torch.zeros(100, 100), 0.2, generator=torch.Generator().manual_seed(0))
    >>> f"{dirty.x.std():.2f}", bool(dirty.mask.all())
    ('0.20', True)
    """
    number("gaussian: std", std)
    check(x, fraction)
    dirty, mask = x.detach().clone(), torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    for rows, hit in zip(dirty.split(BLOCK), mask.split(BLOCK), strict=True):
        hit.copy_(torch.rand(rows.shape, generator=generator) < fraction)
        noise = torch.randn(rows.shape, generator=generator).to(x.device) * std
        noisy = (rows + noise * 255).round().clamp(0, 255) if x.dtype == torch.uint8 else rows + noise
        torch.where(hit, noisy.to(x.dtype), rows, out=rows)
    return Corrupted(dirty, mask)


def masked(x: Tensor, mask: Tensor, value: float = 0.0) -> Corrupted:
    """Set the entries of the user's own mask to one value.

    x' = value where mask, else x.

    Arguments:
        x: (N, d), float or uint8.
        mask: (N, d), bool.
        value: on the scale of float data; on uint8 it is times 255, rounded, and must be in [0, 1].

    Raises:
        InputError: a mask that is not bool or not of x's shape, a value that is not finite or not in range,
            or x of another type or shape.

    >>> masked(torch.ones(1, 3), torch.tensor([[True, False, True]])).x.tolist()
    [[0.0, 1.0, 0.0]]
    """
    check(x, 0.0)
    if plain("mask", mask).dtype != torch.bool or mask.shape != x.shape:
        given, needed = tuple(mask.shape), tuple(x.shape)
        raise InputError(f"the mask is {mask.dtype} of shape {given}: it must be bool of shape {needed}")
    number("value", value, low=-math.inf)
    largest = 1 if x.dtype == torch.uint8 else torch.finfo(x.dtype).max
    if not (0 if x.dtype == torch.uint8 else -largest) <= value <= largest:
        raise InputError(f"value is {value}: it must be finite, and in [0, 1] for uint8 data")
    fill = round(value * 255) if x.dtype == torch.uint8 else value
    return Corrupted(x.masked_fill(mask.to(x.device), fill), mask.clone())


def corrupt(x: Tensor, spec: str, *, shape: tuple[int, ...], seed: int = 0) -> Corrupted:
    """Corrupt data as a short text says: the same (x, spec, seed) gives the same dirt, always.

    The text is `impulse:P`, `salt_and_pepper:P`, `gaussian:STD` or `gaussian:STD:P` with a probability P per
    entry; `circles:F`, `rectangles:F` or `stripes:F` with a fraction F of the images; or `mask:FILE.npy` with a
    bool array of shape (N, d) or (N, *shape), whose entries become 0.

    Arguments:
        x: (N, d), float or uint8. It is copied, never changed.
        spec: the text.
        shape: of one datum, with product d.
        seed: at least 0. Neither torch's global generator nor x's device matters.

    Raises:
        InputError: an unknown corruption, a number that is none or out of its range, data that are not
            images where the corruption needs them, or a mask that is missing or does not fit.

    Source: Wang et al. (2018), V for impulse, circles and rectangles, the course report (S4) for salt and pepper; the
    others are ours.

    >>> x = torch.ones(5, 64)
    >>> dirty = corrupt(x, "circles:0.4", shape=(8, 8), seed=1)
    >>> dirty.mask.any(dim=1).sum().item()
    2
    """
    if not isinstance(spec, str):
        raise InputError(f"spec is {said(spec)}: it must be text, such as impulse:0.4")
    name, _, argument = spec.partition(":")
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    check(x, 0.0)
    shape = image_shape(shape, x.shape[1])
    whole("seed", seed, low=0, high=2**63 - 1)
    if name == "mask":
        return masked(x, _mask_file(argument, len(x), shape))
    numbers = _numbers(spec, argument)
    generator = Generator().manual_seed(seed)
    if name == "gaussian":
        return gaussian(x, *numbers, generator=generator)
    if name in PER_ENTRY:
        return PER_ENTRY[name](x, numbers[0], generator=generator)
    return PER_IMAGE[name](x, numbers[0], shape, generator=generator)


PER_ENTRY = {"impulse": impulse, "salt_and_pepper": salt_and_pepper}
PER_IMAGE = {"circles": circles, "rectangles": rectangles, "stripes": stripes}

#: The names that `corrupt` knows.
CORRUPTIONS = (*PER_ENTRY, *PER_IMAGE, "gaussian", "mask")


def _numbers(spec: str, argument: str) -> list[float]:
    most = 2 if spec.startswith("gaussian") else 1
    try:
        numbers = [float(text) for text in argument.split(":")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= most:
        form = "gaussian:0.2 or gaussian:0.2:0.5" if most == 2 else f"{spec.partition(':')[0]}:0.4"
        raise InputError(f"corruption {spec!r}: give it a number, such as {form}")
    return numbers


def _mask_file(path: str, n: int, shape: tuple[int, ...]) -> Tensor:
    array = read_npy(path, f"mask {path}")
    if array.dtype != np.bool_:
        raise InputError(f"mask {path}: holds {array.dtype} values: it must hold bool")
    if array.shape not in ((n, math.prod(shape)), (n, *shape)):
        raise InputError(f"mask {path}: has shape {array.shape}: it must be {(n, math.prod(shape))}")
    return torch.from_numpy(np.array(array, order="C")).reshape(n, -1)
