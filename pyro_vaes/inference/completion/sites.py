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
        points: sites with one value for each entry of x that the guide puts on a point given the code, such as the
            outlier s = x - mu(z): they are profiled out, at that point.
        factors: factors with one value for each entry of x.
        discrete: sites of the code that are classes or switches, and no part of ``free``.
    """

    free: dict[str, tuple[int, ...]]
    line: RealLine
    entrywise: tuple[str, ...]
    points: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    discrete: tuple[str, ...] = ()

    @property
    def beside(self) -> tuple[str, ...]:
        """Sites that the guide answers for once the code is known."""
        return (*self.entrywise, *self.points)


def layout(
    pair: Pair,
    x: Tensor,
    y: Tensor | None,
    method: str = "optimise",
    squares: bool = False,
    kernels: bool = False,
    classes: bool = False,
) -> Layout:
    """Look at a pair's sites before any work.

    Args:
        squares: whether the likelihood is left out of it, in favour of squared errors of gen(z).
        kernels: let p(x | z) be a kernel without a normaliser, entry by entry: the posterior of z needs none.
        classes: let codes have discrete sites.

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
    points = _points(p, q, entrywise) if kernels else ()
    factors = tuple(n for n, site in p.items() if _is_factor(site) and _factor_by_entry(site, observed))
    latent = [name for name in p if name in q and name not in (*entrywise, *points)]
    if squares:
        # gen(z) depends on codes; the weights and outliers of the robust models stay at their means.
        latent = [name for name in latent if name not in exact and not isinstance(family(p[name]), Jeffreys)]
        entrywise = ()
    else:
        _check_density(pair, p, (*points, *factors) if kernels else ())
    if method in ("importance", "metropolis"):
        _check_guide(pair, {name: site for name, site in q.items() if name not in points})
    discrete = [name for name in latent if support_of(p[name]).is_discrete]
    if discrete and not classes and not (pair.partial and y is not None and bool((y.sum(1) == 1).all())):
        hint = ", so give y, the label of every datum" if pair.partial else ""
        hint += "; methods gibbs and metropolis draw classes" if kernels else ""
        raise InputError(f"site {discrete[0]!r} of {pair.name} is discrete: a completion moves real numbers{hint}")
    latent = [name for name in latent if name not in discrete]
    if not latent and not discrete:
        raise InputError(f"{pair.name} has no code that a completion could move")
    return Layout(
        {name: tuple(p[name]["fn"].event_shape) for name in latent},
        RealLine({name: p[name] for name in latent}),
        entrywise,
        points,
        factors,
        tuple(discrete),
    )


def _points(p: dict[str, Any], q: dict[str, Any], exact: tuple[str, ...]) -> tuple[str, ...]:
    """The points of the guide beside a code that it draws: a guide of points only has one on the code itself."""
    deltas = [n for n, site in q.items() if n not in exact and isinstance(family(site), pyro.distributions.Delta)]
    if all(name in deltas or name in exact for name in q):
        return ()
    return tuple(n for n in deltas if n in p and _by_entry(p[n], p["x"]["fn"]))


def _is_factor(site: Any) -> bool:
    return type(family(site)).__name__ == "Unit"


def _factor_by_entry(site: Any, observed: Any) -> bool:
    return isinstance(site["fn"], Independent) and tuple(site["fn"].event_shape) == (*observed.event_shape, 0)


def _check_density(pair: Pair, p: dict[str, Any], kernels: tuple[str, ...]) -> None:
    for name, site in p.items():
        kernel = isinstance(family(site), Jeffreys)
        if (kernel or _is_factor(site)) and name not in kernels:
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
