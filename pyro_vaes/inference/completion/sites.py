"""Which sites a completion moves, which it integrates out, and which pairs it has to refuse."""

from typing import Any, NamedTuple

import pyro
from torch import Tensor
from torch.distributions import Independent

from pyro_vaes.distributions import Jeffreys
from pyro_vaes.errors import InputError
from pyro_vaes.inference.densities import check_plate, exact_sites, family, rehearsed
from pyro_vaes.inference.real_line import RealLine, support_of
from pyro_vaes.pair import Pair

METHODS = ("optimise", "importance", "nuts")


class Layout(NamedTuple):
    """The latent sites of a pair.

    Attributes:
        free: site -> shape of one value, in the model's order: what a code is made of.
        line: how a code becomes a vector on the whole real line.
        entrywise: exact sites with one value for each entry of x, which are integrated out.
    """

    free: dict[str, tuple[int, ...]]
    line: RealLine
    entrywise: tuple[str, ...]


def layout(pair: Pair, x: Tensor, y: Tensor | None, method: str = "optimise", squares: bool = False) -> Layout:
    """Look at a pair's sites before any work.

    Args:
        squares: whether the likelihood is left out of it, in favour of squared errors of gen(z).

    Raises:
        InputError: for a discrete code; for a likelihood that is no density entry by entry (unless ``squares``); for a
            guide that puts a point mass where importance weights are asked for; for a site that all data share.

    >>> import torch
    >>> from pyro_vaes.variants import t_vae
    >>> found = layout(t_vae(4, 2, (5,)), torch.rand(3, 4), None)
    >>> found.free, found.entrywise
    ({'z': (2,)}, ('w',))
    """
    p, q = rehearsed(pair, x, y)
    check_plate(p, q)
    exact = exact_sites(pair)
    observed = p["x"]["fn"]
    entrywise = tuple(n for n in exact if n in q and _by_entry(p[n], observed) and _by_entry(q[n], observed))
    latent = [name for name in p if name in q and name not in entrywise]
    if squares:
        # gen(z) depends on codes; the weights and outliers of the robust models stay at their means.
        latent = [name for name in latent if name not in exact and not isinstance(family(p[name]), Jeffreys)]
        entrywise = ()
    else:
        _check_density(pair, p)
    if method == "importance":
        _check_guide(pair, q)
    discrete = [name for name in latent if support_of(p[name]).is_discrete]
    if discrete and not (pair.partial and y is not None and bool((y.sum(1) == 1).all())):
        hint = ", so give y, the label of every datum" if pair.partial else ""
        raise InputError(f"site {discrete[0]!r} of {pair.name} is discrete: a completion moves real numbers{hint}")
    latent = [name for name in latent if name not in discrete]
    if not latent:
        raise InputError(f"{pair.name} has no code that a completion could move")
    return Layout(
        {name: tuple(p[name]["fn"].event_shape) for name in latent},
        RealLine({name: p[name] for name in latent}),
        entrywise,
    )


def _check_density(pair: Pair, p: dict[str, Any]) -> None:
    for name, site in p.items():
        kernel = isinstance(family(site), Jeffreys)
        if kernel or type(family(site)).__name__ == "Unit":
            what = "the Jeffreys prior of" if kernel else "its factor"
            raise InputError(
                f"{pair.name} has no normalised density ({what} {name!r}): what can be had is method 'optimise' with a "
                "gamma, which takes the squares of Eq. 5"
            )
    if not _by_entry(p["x"], p["x"]["fn"]):
        kind = type(p["x"]["fn"]).__name__
        raise InputError(f"the likelihood at x ({kind}) has no density entry by entry, so that none can be hidden")


def _check_guide(pair: Pair, q: dict[str, Any]) -> None:
    for name, site in q.items():
        if isinstance(family(site), pyro.distributions.Delta):
            raise InputError(
                f"{pair.name} has no importance weights: its guide puts a point mass, which has no density, on "
                f"{name!r}; method 'nuts' needs no guide"
            )


def _by_entry(site: Any, observed: Any) -> bool:
    """Whether a site is d independent values, as many as x has entries."""
    fn = site["fn"]
    independent = isinstance(fn, Independent) and fn.reinterpreted_batch_ndims == 1
    return independent and not fn.base_dist.event_shape and tuple(fn.event_shape) == tuple(observed.event_shape)
