"""Which optimiser takes the steps: the one place that knows them by name."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from pyro_vaes.errors import InputError, number, unknown
from pyro_vaes.inference.adagrad import Adagrad
from pyro_vaes.inference.adam import Adam

Optimiser = Adam | Adagrad
Rule = Callable[..., Optimiser]  # (parameters, lr, factors=...)
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


def factors(pair: nn.Module) -> list[float]:
    """What the learning rate of each parameter that learns is multiplied by; empty where it is 1 for all.

    A module inside of the pair, such as its objective, has a learning rate of its own for a part of itself where it
    says so: ``rate_factors = {"discriminator": 10 / 3}``, by the name of the part. Everything else has the factor 1.

    Raises:
        InputError: for a factor that is not above 0, or a name without a parameter that learns.

    >>> pair = nn.ModuleDict({"objective": nn.ModuleDict({"critic": nn.Linear(1, 1)}), "model": nn.Linear(1, 1)})
    >>> factors(pair)
    []
    >>> pair["objective"].rate_factors = {"critic": 3.0}
    >>> factors(pair)
    [3.0, 3.0, 1.0, 1.0]
    """
    learned = [name for name, p in pair.named_parameters() if p.requires_grad]
    found = dict.fromkeys(learned, 1.0)
    for path, module in pair.named_modules():
        for part, factor in getattr(module, "rate_factors", {}).items():
            prefix = f"{path}.{part}".removeprefix(".")
            its = [name for name in learned if name == prefix or name.startswith(f"{prefix}.")]
            if not its:
                raise InputError(f"rate_factors names {prefix!r}, which has no parameter that learns")
            found |= dict.fromkeys(its, number(f"the rate factor of {prefix}", factor, open_low=True))
    return [] if set(found.values()) <= {1.0} else list(found.values())


def suited(objective: Any, optimiser: str = "adam") -> tuple[float, float]:
    """Give Adam's weights that an objective says suit it, as ``objective.betas``, or else the usual ones.

    >>> from pyro_vaes.variants import l2_vae, wae_gan
    >>> suited(l2_vae(data_dim=4).objective), suited(wae_gan(data_dim=4).objective)
    ((0.9, 0.999), (0.5, 0.999))
    """
    return read_betas(getattr(objective, "betas", BETAS)) if optimiser == "adam" else BETAS


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
