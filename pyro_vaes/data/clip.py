"""A video whose background is known: a still scene under changing light, with objects that move in front of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from pyro_vaes.errors import InputError, said, whole


class Clip(NamedTuple):
    """Frames in [0, 1], the background alone, and where an object covers it: (T, H W) each; ``shape`` is (H, W)."""

    frames: Tensor
    background: Tensor
    mask: Tensor
    shape: tuple[int, int]


def clip(
    frames: int = 120, height: int = 20, width: int = 20, objects: int = 2, side: int = 5, *, generator: Generator
) -> Clip:
    r"""Make a clip: texture times light, and squares that drift and bounce.

    .. math:: b_t = (1 + 0.25 \sin(2 \pi t / T + \phi))\, a + 0.15 \sin(4 \pi t / T + \psi)\, c

    so that the background has rank 2: a is a smooth random texture in [0.25, 0.65], c a ramp across the image from -1/2
    to 1/2. A square covers what is behind it; its grey value is 0 to 0.1 or 0.9 to 1.

    Args:
        frames: T. height, width: H, W. objects: squares, may be 0. side: of a square, in pixels, at most H and W.
        generator: a CPU generator, the only source of chance.

    Raises:
        InputError: for sizes below 1, or a side that does not fit.

    Source: ours, after the background example of S3 III.

    >>> made = clip(frames=6, generator=torch.Generator().manual_seed(0))
    >>> made.frames.shape, torch.linalg.matrix_rank(made.background).item()
    (torch.Size([6, 400]), 2)
    """
    for name, size in (("frames", frames), ("height", height), ("width", width), ("side", side)):
        whole(name, size)
    whole("objects", objects, low=0)
    if side > min(height, width):
        raise InputError(f"side is {side}: it must be at most {min(height, width)}, the image's")
    if not isinstance(generator, Generator):
        raise InputError(f"generator is {said(generator)}: it must be a torch.Generator")
    coarse = torch.rand(1, 1, max(2, height // 3), max(2, width // 3), generator=generator)
    texture = 0.25 + 0.4 * interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0, 0]
    ramp = torch.linspace(-0.5, 0.5, width).expand(height, width)
    phase, turn = torch.rand(2, generator=generator), 2 * math.pi * torch.arange(frames) / frames
    light = (1 + 0.25 * torch.sin(turn + 2 * math.pi * phase[0]))[:, None]
    drift = 0.15 * torch.sin(2 * turn + 2 * math.pi * phase[1])[:, None]
    background = light * texture.flatten() + drift * ramp.flatten()
    seen, mask = background.reshape(frames, height, width).clone(), torch.zeros(frames, height, width, dtype=torch.bool)
    for _ in range(objects):
        _cover(seen, mask, side, generator)
    return Clip(seen.flatten(1), background, mask.flatten(1), (height, width))


def _cover(seen: Tensor, mask: Tensor, side: int, generator: Generator) -> None:
    """Put one square into every frame, in place."""
    start, speed, grey = (torch.rand(2, generator=generator) for _ in range(3))
    value = 0.1 * grey[0] + (0.9 if grey[1] > 0.5 else 0.0)
    for t, (frame, there) in enumerate(zip(seen, mask, strict=True)):
        corner = []
        for place, step, size in zip(start, 0.3 + 0.7 * speed, frame.shape, strict=True):
            room = size - side
            # Back and forth: a triangle wave of period 2 room.
            at = (place * room + step * t) % max(2 * room, 1)
            corner.append(round(float(min(at, 2 * room - at))))
        box = (slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side))
        frame[box], there[box] = value, True
