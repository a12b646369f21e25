"""log p(x, z) and log q(z | x) of a pair, datum by datum: what a likelihood is estimated from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import constraints

from pyro_vaes.distributions import Jeffreys
from pyro_vaes.errors import InputError, first_line, short
from pyro_vaes.inference.guard import as_batch
from pyro_vaes.inference.objective import log_prob, sampled_sites
from pyro_vaes.pair import Pair, aside

Values = dict[str, Tensor]


class Code(NamedTuple):
    """What the state of a chain is made of: the latent sites that are not exact, and the exact ones.

    Attributes:
        free: site -> shape of one value. exact: sites whose q is their posterior given the others.
    """

    free: dict[str, tuple[int, ...]]
    exact: tuple[str, ...]


class Terms(NamedTuple):
    """The parts of log p(x, z) and log q(z | x) at given codes, each (K, B), float64.

    Attributes:
        prior: log p(z). data: log p(x | z), exact sites integrated out. guide: log q(z | x).
    """

    prior: Tensor
    data: Tensor
    guide: Tensor


def exact_sites(pair: Pair) -> tuple[str, ...]:
    """The sites whose q is exact, by the word of the pair's objective, or of the one it recycles."""
    objective: Any = pair.objective
    while not hasattr(objective, "exact") and hasattr(objective, "objective"):
        objective = objective.objective
    return tuple(getattr(objective, "exact", ()))


def bound_in_words(pair: Pair) -> str:
    """Say what the number is that a pair shows as its bound.

    >>> from pyro_vaes.variants import autoencoder, l2_vae
    >>> bound_in_words(l2_vae(4, 2, (5,))), bound_in_words(autoencoder(4, 2, (5,)))
    ('bound', 'log p(x, z) at the code, which is no bound,')
    """
    points = any(isinstance(family(site), pyro.distributions.Delta) for _, site in sampled_sites(pair.traces()[0]))
    return "log p(x, z) at the code, which is no bound," if points else "bound"


def family(site: Any) -> Any:
    """The distribution at a site, without what reshapes it."""
    fn = site["fn"]
    while hasattr(fn, "base_dist") and not hasattr(fn, "transforms"):
        fn = fn.base_dist
    return fn


def run(
    program,
    x: Tensor | None,
    y: Tensor | None,
    particles: int,
    values: Mapping[str, Tensor],
    size: int | None = None,
) -> dict[str, Any]:
    """Run a program with particles along dimension -2 and given values at some sites, and give its sites."""
    program = pyro.plate("particles", particles, dim=-2)(program)
    trace = poutine.trace(poutine.condition(program, dict(values))).get_trace(x, y, size=size)
    return dict(sampled_sites(prune_subsample_sites(trace)))


def draw_and_weigh(pair: Pair, x: Tensor, y: Tensor | None, particles: int) -> Tensor:
    r"""Draw from the guide and give log p(x, z) - log q(z | x) per draw and datum, (K, B), float64."""
    q = run(pair.guide, x, y, particles, {})
    p = run(pair.model, x, y, particles, {name: site["value"] for name, site in q.items()})
    return total(p, p, particles, x) - total(q, q, particles, x)


def log_terms(pair: Pair, code: Code, values: Values, x: Tensor, y: Tensor | None, guide: bool = True) -> Terms:
    r"""Give log p(z), log p(x | z) and log q(z | x) at given values of the free sites.

    An exact site w is drawn from q(w | z, x) and taken as a constant:
    :math:`\log p(x, w | z) - \log q(w | z, x) = \log p(x | z)` for every w, and so is its gradient.

    Args:
        values: site -> (K, B, ...). guide: False leaves log q out (zeros), where nobody needs it.
    """
    particles = next(iter(values.values())).shape[0]
    zeros = torch.zeros(particles, len(x), dtype=torch.float64, device=x.device)
    q, drawn = dict[str, Any](), Values()
    if guide or code.exact:
        q = run(pair.guide, x, y, particles, values)
        drawn = {name: q[name]["value"].detach() for name in code.exact}
    # The density of an exact draw is asked for at the constant, so that its gradient in z is that of log q(w | z, x).
    exact = {name: {**q[name], "value": drawn[name]} for name in code.exact}
    p = run(pair.model, x, y, particles, {**values, **drawn})
    data = [name for name in p if name not in code.free]
    return Terms(
        total(p, code.free, particles, x),
        total(p, data, particles, x) - total(exact, exact, particles, x),
        total(q, code.free, particles, x) if guide else zeros,
    )


def total(sites: Mapping[str, Any], names, particles: int, x: Tensor) -> Tensor:
    """Sum the log-densities of the named sites, (K, B), float64."""
    total = torch.zeros(particles, len(x), dtype=torch.float64, device=x.device)
    for name in names:
        total = total + log_prob(sites[name]).double()
    return total


def examine(pair: Pair, x: Tensor, y: Tensor | None = None) -> Code:
    """Check a pair before any work: every density must be one, and every site a datum's own.

    Args:
        x: data that have been checked, (N, d). y: their conditions as the pair takes them, (N, c), or None.

    Raises:
        InputError: for a model without a normalised density, a guide that is a point mass, or a site outside
            of the data plate.

    >>> from pyro_vaes.variants import indexed_ic_vae
    >>> examine(indexed_ic_vae(4, 2, (5,)), torch.rand(3, 4))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: indexed_ic_vae has no normalised density: its factor 'sigma' is part of no distribution
    """
    p, q = rehearsed(pair, x, y)
    for name, site in (p | {f"guide's {n}": s for n, s in q.items()}).items():
        if isinstance(family(site), Jeffreys):
            raise InputError(f"{pair.name} has no normalised density: {_jeffreys(name, family(site))}")
        if type(family(site)).__name__ == "Unit":
            raise InputError(f"{pair.name} has no normalised density: its factor {name!r} is part of no distribution")
    for name, site in q.items():
        if isinstance(family(site), pyro.distributions.Delta):
            raise InputError(
                f"{pair.name} has no importance weights: its guide puts a point mass, which has no density, on {name!r}"
            )
    check_plate(p, q)
    exact = tuple(name for name in exact_sites(pair) if name in q)
    return Code({n: tuple(s["fn"].event_shape) for n, s in q.items() if n not in exact}, exact)


def check_plate(p: Mapping[str, Any], q: Mapping[str, Any]) -> None:
    """Refuse the sites of a rehearsal that all data share: a weight is one datum's."""
    for program, sites in (("model", p), ("guide", q)):
        for name, site in sites.items():
            if tuple(site["fn"].batch_shape) != (3, 2):
                raise InputError(
                    f"site {name!r} of the {program} lies outside of the data plate: a weight must be a datum's own"
                )


def check_continuous(pair: Pair, code: Code, x: Tensor, y: Tensor | None) -> None:
    """Refuse free sites that a gradient cannot move over the whole line.

    Raises:
        InputError: for a discrete site or one with a support narrower than the real numbers.
    """
    for sites in rehearsed(pair, x, y):
        for name in code.free:
            support = sites[name]["fn"].support
            base = getattr(support, "base_constraint", support)
            if base is not constraints.real:
                kind = "discrete" if base.is_discrete else "bounded"
                raise InputError(f"site {name!r} is {kind}: annealing moves real numbers, so use method='is'")


def rehearsed(pair: Pair, x: Tensor, y: Tensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sites of model and guide for three particles of two data, with nothing changed by it."""
    rows = as_batch(x[:2]) if len(x) > 1 else as_batch(x[:1]).repeat(2, 1)
    conditions = None if y is None else y[:2] if len(y) > 1 else torch.cat([y[:1], y[:1]])
    with quietly(pair):
        try:
            q = run(pair.guide, rows, conditions, 3, {})
            return run(pair.model, rows, conditions, 3, {name: site["value"] for name, site in q.items()}), q
        except InputError as error:
            raise InputError(short(error)) from None
        except Exception as error:
            raise InputError(f"{pair.name} cannot run with several particles: {first_line(error)}") from error


def _jeffreys(name: str, fn: Jeffreys) -> str:
    if fn.width == float("inf"):
        return f"the Jeffreys prior of {name!r} is improper (its width is infinite)"
    return f"the Jeffreys kernel of {name!r} goes on beyond its width"


@contextmanager
def quietly(pair: Pair) -> Iterator[None]:
    """Evaluate a pair: eval mode, no gradients, no checks, and nothing of the caller's left changed."""
    with aside(pair), torch.no_grad(), pyro.validation_enabled(False):
        yield


def seed_at(*where: int) -> None:
    """Seed torch for one piece of work, named by whole numbers: pieces may then be done in any order, or alone."""
    torch.manual_seed(int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0] >> np.uint64(1)))
