"""Which optimiser takes the steps: the one place that knows them by name."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn

from pyro_vaes.errors import InputError, number, unknown
from pyro_vaes.inference.adagrad import Adagrad
from pyro_vaes.inference.adam import Adam

Optimiser = Adam | Adagrad
Rule = Callable[..., Optimiser]  # (parameters, lr, factors=..., skips=...)
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
    found = dict.fromkeys((name for name, p in pair.named_parameters() if p.requires_grad), 1.0)
    for part, factor, its in _of_parts(pair, "rate_factors"):
        found |= dict.fromkeys(its, number(f"the rate factor of {part}", factor, open_low=True))
    return [] if set(found.values()) <= {1.0} else list(found.values())


def skips(pair: nn.Module) -> list[str]:
    """By what each parameter that learns skips a step, the name of an entry of ``Loss.seen``, or ""; empty for none.

    A module inside of the pair, such as its objective, lets a part of itself skip steps where it says so:
    ``skip_rules = {"discriminator": "skipped"}``, by the name of the part. Its loss then shows under that name, as a
    tensor, 1 where the part is to stay as it is, with its moments and its count of steps, and 0 elsewhere.

    Raises:
        InputError: for a name without a parameter that learns.

    >>> pair = nn.ModuleDict({"objective": nn.ModuleDict({"critic": nn.Linear(1, 1)}), "model": nn.Linear(1, 1)})
    >>> skips(pair)
    []
    >>> pair["objective"].skip_rules = {"critic": "skipped"}
    >>> skips(pair)
    ['skipped', 'skipped', '', '']
    """
    found = dict.fromkeys((name for name, p in pair.named_parameters() if p.requires_grad), "")
    for _, name, its in _of_parts(pair, "skip_rules"):
        found |= dict.fromkeys(its, name)
    return list(found.values()) if any(found.values()) else []


def _of_parts(pair: nn.Module, attribute: str) -> Iterator[tuple[str, Any, list[str]]]:
    """What the modules of a pair say of their parts: the part, what is said, and its parameters that learn."""
    learned = [name for name, p in pair.named_parameters() if p.requires_grad]
    for path, module in pair.named_modules():
        for part, value in getattr(module, attribute, {}).items():
            prefix = f"{path}.{part}".removeprefix(".")
            its = [name for name in learned if name == prefix or name.startswith(f"{prefix}.")]
            if not its:
                raise InputError(f"{attribute} names {prefix!r}, which has no parameter that learns")
            yield prefix, value, its


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
