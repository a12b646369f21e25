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
class _Share:
    """The probability with which an entry is replaced."""

    fraction: float

    def __post_init__(self) -> None:
        if number("fraction", self.fraction) > 1:
            raise InputError(f"fraction is {self.fraction}: it must be in [0, 1]")


@dataclass(frozen=True)
class Impulse(_Share):
    """Replace each entry, with probability ``fraction``, by a draw from U[0, 1], another one at every step.

    >>> bool((Impulse(0.0)(torch.full((2, 2), 0.5)) == 0.5).all())
    True
    """

    def __call__(self, x: Tensor) -> Tensor:
        # An element-wise choice, so that a replaced entry may be drawn even where it is not used.
        return torch.where(torch.rand_like(x) < self.fraction, torch.rand_like(x), x)


@dataclass(frozen=True)
class SaltAndPepper(_Share):
    """Make each entry, with probability ``fraction``, 0 or 1 with equal chances, others at every step.

    >>> SaltAndPepper(1.0)(torch.full((2, 2), 0.5)).unique().numel() <= 2
    True
    """

    def __call__(self, x: Tensor) -> Tensor:
        # One draw says both whether and what: below half the fraction salt, from there to the fraction pepper.
        u = torch.rand_like(x)
        return torch.where(u < self.fraction, (u < self.fraction / 2).to(x.dtype), x)


def augmentation(spec: "str | Augmentation | None") -> Augmentation | None:
    """Read an augmentation: ``dynamic`` (or ``binarise``, the same), ``impulse:0.4``, ``salt_and_pepper:0.05``, or a
    function of one's own.

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
    kinds: dict[str, Callable[[float], Augmentation]] = {"impulse": Impulse, "salt_and_pepper": SaltAndPepper}
    if name in kinds:
        try:
            return kinds[name](float(argument))
        except ValueError as error:
            raise InputError(f"augmentation {spec!r}: {name}:FRACTION, a number in [0, 1]") from error
    raise unknown("augmentation", str(spec), [*DYNAMIC, *(f"{kind}:FRACTION" for kind in kinds)])
