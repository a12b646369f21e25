"""Fresh randomness in the data at every step, drawn where the step runs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, number, unknown

Augmentation = Callable[[Tensor], Tensor]

#: Two names of one augmentation.
DYNAMIC = ("dynamic", "binarise")


@dataclass(frozen=True)
class Binarise:
    """Draw binary pixels anew at every step: x' ~ Bernoulli(x), "dynamic binarisation".

    Source: Burda, Grosse & Salakhutdinov (2016), 5; Salakhutdinov & Murray (2008).

    >>> Binarise()(torch.tensor([[0.0, 1.0]]))
    tensor([[0., 1.]])
    """

    def __call__(self, x: Tensor) -> Tensor:
        return torch.bernoulli(x)


@dataclass(frozen=True)
class Impulse:
    """Replace each entry, with probability ``fraction``, by a draw from U[0, 1], another one at every step.

    >>> bool((Impulse(0.0)(torch.full((2, 2), 0.5)) == 0.5).all())
    True
    """

    fraction: float

    def __post_init__(self) -> None:
        if number("fraction", self.fraction) > 1:
            raise InputError(f"fraction is {self.fraction}: it must be in [0, 1]")

    def __call__(self, x: Tensor) -> Tensor:
        # An element-wise choice, so that a replaced entry may be drawn even where it is not used.
        return torch.where(torch.rand_like(x) < self.fraction, torch.rand_like(x), x)


def augmentation(spec: "str | Augmentation | None") -> Augmentation | None:
    """Read an augmentation: ``dynamic`` (or ``binarise``, the same), ``impulse:0.4``, or a function of one's own.

    Raises:
        InputError: for an unknown name or a bad number.

    >>> augmentation("impulse:0.4")
    Impulse(fraction=0.4)
    """
    if spec is None or callable(spec):
        return spec
    name, _, argument = str(spec).partition(":")
    if name in DYNAMIC and not argument:
        return Binarise()
    if name == "impulse":
        try:
            return Impulse(float(argument))
        except ValueError as error:
            raise InputError(f"augmentation {spec!r}: impulse:FRACTION, a number in [0, 1]") from error
    raise unknown("augmentation", str(spec), ["dynamic", "binarise", "impulse:FRACTION"])
