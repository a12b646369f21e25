"""Codes and data drawn from the model itself, beside what the guide draws given the data."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vaes.analysis.target import Drawn, Sites, Target, look
from pyro_vaes.distributions import Jeffreys
from pyro_vaes.errors import InputError, called, first_line
from pyro_vaes.inference.densities import Values, family, quietly, run, seed_at
from pyro_vaes.inference.guard import check_condition
from pyro_vaes.pair import Pair

# Numbers of (draws, rows, d) at a time.
AT_ONCE = 20_000_000


class Simulated(NamedTuple):
    """A batch of B simulations, D quantities each.

    Attributes:
        names: of the quantities, ``entries`` of which are entries of the code.
        truth: (1, B, D). drawn: (L, B, D). coin: (B, D), uniform in [0, 1).
    """

    names: tuple[str, ...]
    entries: int
    truth: Tensor
    drawn: Tensor
    coin: Tensor


def check_drawable(pair: Pair, y: Tensor | None = None) -> Tensor | None:
    """Refuse a model that cannot draw data, and give conditions as the pair takes them.

    Raises:
        InputError: for an improper prior, a factor, or conditions that do not fit.

    >>> from pyro_vaes.variants import indexed_ic_vae
    >>> check_drawable(indexed_ic_vae(4, 2, (5,)))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: indexed_ic_vae cannot draw data: its factor 'sigma' is part of no distribution
    """
    if not isinstance(pair, Pair):
        raise InputError(f"a Pair is needed, not {type(pair).__name__}")
    if isinstance(y, Tensor) and not len(y):
        raise InputError("y is empty: conditions of data that the model draws are taken from it")
    y = check_condition(pair, torch.empty(1 if y is None else len(y), 0), y)
    for name, site in pair.traces()[1].nodes.items():
        if site["type"] != "sample" or site["infer"].get("_deterministic"):
            continue
        fn = family(site)
        if isinstance(fn, Jeffreys) and fn.width == float("inf"):
            raise InputError(f"{pair.name} cannot draw data: the prior of {name!r} is improper (its width is infinite)")
        if type(fn).__name__ == "Unit":
            raise InputError(f"{pair.name} cannot draw data: its factor {name!r} is part of no distribution")
    return y


def has_kernel(pair: Pair) -> bool:
    """Whether a site has a Jeffreys prior, whose kernel goes on beyond its width.

    >>> from pyro_vaes.variants import ic_vae, l2_vae
    >>> has_kernel(ic_vae(4, 2, (5,))), has_kernel(l2_vae(4, 2, (5,)))
    (True, False)
    """
    return any(s["type"] == "sample" and isinstance(family(s), Jeffreys) for s in pair.traces()[1].nodes.values())


def rows_at_once(batch_size: int, draws: int, entries: int) -> int:
    """How many rows of ``entries`` numbers fit, ``draws`` of each, into the memory that an audit takes.

    >>> rows_at_once(64, 100, 784), rows_at_once(64, 1000, 12288)
    (64, 1)
    """
    return max(1, min(batch_size, AT_ONCE // (draws * entries)))


def drawn_from_model(pair: Pair, y: Tensor | None, draws: int, size: int, values: Values | None = None) -> Values:
    """Draw all sites of the model anew, ``x`` among them, but for those that are given; site -> (draws, size, ...)."""
    try:
        sites = run(pair.model, None, y, draws, values or {}, size=size)
    except (NotImplementedError, ValueError, RuntimeError) as error:
        raise InputError(f"{pair.name} cannot draw data: {first_line(error)}") from error
    return {name: site["value"].expand(draws, size, *site["fn"].event_shape) for name, site in sites.items()}


def simulated(
    pair: Pair,
    y: Tensor | None,
    simulations: int,
    draws: int,
    functions: Mapping[str, Callable[[Values, Tensor], Tensor]] | None,
    batch_size: int,
    seed: int,
) -> Iterator[Simulated]:
    """Simulate in batches; arguments as :func:`~pyro_vaes.analysis.sbc.sbc` has checked them."""
    rows = rows_at_once(batch_size, draws, pair.data_dim)
    sites: Sites | None = None
    for start in range(0, simulations, rows):
        size = min(rows, simulations - start)
        with quietly(pair):
            seed_at(seed, start, 0)
            some = None if y is None else y[torch.randint(len(y), (size,), device=y.device)]
            star = drawn_from_model(pair, some, 1, size)
            x = star["x"][0]
            sites = sites or _sites(pair, x, some)
            target = Target(pair, x, some, sites)
            code = {name: star[name] for name in sites.code}
            guess = target.draw(draws, (seed, start, 1))
            yield _quantities(target, code, guess, functions)


def _sites(pair: Pair, x: Tensor, y: Tensor | None) -> Sites:
    sites = look(pair, x, y)
    if sites.point_mass:
        raise InputError(f"the guide of {pair.name} puts a point mass on the code: it has no spread to be calibrated")
    return sites


def _quantities(
    target: Target, code: Values, guess: Drawn, functions: Mapping[str, Callable[[Values, Tensor], Tensor]] | None
) -> Simulated:
    names, truth, drawn = list[str](), list[Tensor](), list[Tensor]()
    guesses = {name: guess.values[name] for name in code}
    for name, value in code.items():
        width = value[0, 0].numel()
        names += [f"{name}[{j}]" for j in range(width)] if value.dim() > 2 else [name]
        truth.append(value.reshape(*value.shape[:2], width).double())
        drawn.append(guesses[name].reshape(*guesses[name].shape[:2], width).double())
    entries = len(names)
    if functions is None:
        at = target.at(code, guide=False)
        names += ["log p(x | code)", "log p(x, code)"]
        truth += [at.data[..., None], (at.prior + at.data)[..., None]]
        drawn += [guess.data[..., None], (guess.prior + guess.data)[..., None]]
    for name, function in (functions or {}).items():
        names.append(name)
        truth.append(_called(name, function, code, target.x)[..., None])
        drawn.append(_called(name, function, guesses, target.x)[..., None])
    together = torch.cat(truth, -1)
    return Simulated(tuple(names), entries, together, torch.cat(drawn, -1), torch.rand_like(together[0]))


def _called(name: str, function: Callable[[Values, Tensor], Tensor], code: Values, x: Tensor) -> Tensor:
    found = called(f"function {name!r}", function, code, x)
    shape = tuple(next(iter(code.values())).shape[:2])
    if not isinstance(found, Tensor) or tuple(found.shape) != shape or not bool(found.isfinite().all()):
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"function {name!r} gives {what}: it must give {shape}, finite")
    return found.double()
