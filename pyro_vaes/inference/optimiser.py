"""Which optimiser takes the steps: the one place that knows them by name."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from pyro_vaes.errors import InputError, number, unknown
from pyro_vaes.inference.adagrad import Adagrad
from pyro_vaes.inference.adam import Adam

Optimiser = Adam | Adagrad
Rule = Callable[[Sequence[Tensor], float], Optimiser]
BETAS = (0.9, 0.999)
OPTIMISERS = ("adam", "adagrad")


def rule(name: str, betas: Any = BETAS) -> Rule:
    """Give what makes an optimiser of parameters and a learning rate.

    Args:
        name: ``adam`` or ``adagrad``.
        betas: Adam's, two numbers in [0, 1); Adagrad has none.

    Raises:
        InputError: for an unknown name, bad betas, or betas for Adagrad.

    >>> rule("adam", (0.9, 0.99))([], 0.1).betas
    (0.9, 0.99)
    """
    if not isinstance(name, str) or name not in OPTIMISERS:
        raise unknown("optimiser", str(name), list(OPTIMISERS))
    weights = read_betas(betas)
    if name == "adagrad":
        if weights != BETAS:
            raise InputError("betas are Adam's: adagrad has none")
        return Adagrad
    return partial(Adam, betas=weights)


def read_betas(betas: Any) -> tuple[float, float]:
    """Read Adam's two weights.

    >>> read_betas([0.9, 0.99])
    (0.9, 0.99)
    """
    if isinstance(betas, str) or not isinstance(betas, Sequence) or len(betas) != 2:
        raise InputError(f"betas is {betas!r}: it must be two numbers in [0, 1), such as (0.9, 0.999)")
    first, second = (number(f"betas[{i}]", beta) for i, beta in enumerate(betas))
    if max(first, second) >= 1:
        raise InputError(f"betas is {betas!r}: both must be below 1")
    return first, second
