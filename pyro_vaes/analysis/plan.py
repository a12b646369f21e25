"""What a posterior on paper holds: groups, variables, dimensions, and what had to be left out and why."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.analysis.replicate import drawable
from pyro_vaes.analysis.target import Sites, look
from pyro_vaes.errors import InputError, image_shape, room, whole
from pyro_vaes.evaluation.blocks import blocks_of
from pyro_vaes.inference.densities import rehearsed
from pyro_vaes.inference.guard import as_batch, check_condition, check_data
from pyro_vaes.pair import Pair
from pyro_vaes.tensors import plain

NO_CHAIN = (
    "independent draws of the guide q(code | x), NOT a Markov chain: there is no R-hat and no MCMC effective sample "
    "size. They are unweighted; sample_stats.log_weight turns them into draws of the posterior where khat is below 0.7"
)
PIXELS = {1: ("entry",), 2: ("row", "column"), 3: ("channel", "row", "column")}


@dataclass(frozen=True)
class Variable:
    """One array of one group: its dimensions by name, its number type, and what it is, in words."""

    dims: tuple[str, ...]
    dtype: Any
    says: str


@dataclass(frozen=True)
class Plan:
    """Everything that is known of a tree before the first draw.

    Attributes:
        variables: group -> name -> :class:`Variable`, in the order they are written.
        sizes: length of every dimension but ``draw``. draws: of that one, by group.
        blocks: sites z_1 ... z_T that are written as one variable ``z`` with a dimension ``block``; empty elsewhere.
        wide: latent sites with a value for each entry of x. left_out: what is missing, and why.
    """

    pair: Pair
    x: Tensor
    y: Tensor | None
    labels: Tensor | None
    marks: Mapping[str, Tensor]
    sites: Sites
    shape: tuple[int, ...]
    draws: int
    replicates: int
    seed: int
    batch_size: int
    chunk: int
    blocks: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    variables: dict[str, dict[str, Variable]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def length(self, group: str, dim: str) -> int:
        """How many a dimension holds in a group."""
        if dim == "draw":
            return self.draws if group in ("posterior", "log_likelihood", "sample_stats") else self.replicates
        return self.sizes[dim]

    def dims(self, group: str) -> list[str]:
        """The dimensions of a group, in the order they first appear."""
        return list(dict.fromkeys(d for v in self.variables[group].values() for d in v.dims))

    def coordinate(self, group: str, dim: str) -> np.ndarray:
        """Whole numbers from 0; blocks count from 1, as the sites do."""
        return np.arange(self.length(group, dim)) + (dim == "block")

    @property
    def attributes(self) -> dict[str, Any]:
        """What is said of the whole tree: plain strings and numbers, as netCDF has them."""
        from pyro_vaes.inference.run import versions

        found = versions()
        return {
            "pair": self.pair.name, "description": self.pair.describe(), "sampling": NO_CHAIN,
            "left_out": json.dumps(self.left_out), "seed": self.seed, "draws": self.draws,
            "replicates": self.replicates, "batch_size": self.batch_size, "chunk": self.chunk,
            "point_mass": int(self.sites.point_mass), "normalised": int(self.sites.normalised),
            "inference_library": "pyro-vaes", "inference_library_version": found["pyro-vaes"],
            "versions": json.dumps(found),
        }  # fmt: skip


def planned(
    pair: Pair,
    x: Tensor,
    y: Tensor | None,
    *,
    draws: int,
    replicates: int,
    shape: tuple[int, ...] | None,
    labels: Tensor | None,
    mask: Tensor | None,
    dirty: Tensor | None,
    seed: int,
    batch_size: int,
    chunk: int,
) -> Plan:
    """Check everything, and say what there will be; see :func:`~pyro_vaes.analysis.tree.to_datatree`.

    Raises:
        InputError: for bad data or arguments, or a pair without a code.
    """
    for name, value in (("draws", draws), ("replicates", replicates), ("batch_size", batch_size), ("chunk", chunk)):
        whole(name, value, high=10**7)
    whole("seed", seed, low=0)
    check_data(pair, x)
    y = check_condition(pair, x, y)
    shape = image_shape(x.shape[1] if shape is None else shape, x.shape[1])
    marks = {name: _marks(name, value, x) for name, value in (("mask", mask), ("dirty", dirty)) if value is not None}
    plan = Plan(
        pair, x, y, _labels(labels, len(x)), marks, look(pair, x, y), shape, draws, min(replicates, draws), seed,
        batch_size, chunk,
    )  # fmt: skip
    check_fits(plan, min(batch_size, len(x)), "take fewer draws, or a smaller batch_size")
    return _filled(plan)


def check_fits(plan: Plan, rows: int, advice: str) -> None:
    """Refuse what would not fit into this machine's memory with so many data at a time.

    Raises:
        InputError: with how much it would take, about.
    """
    code = sum(int(np.prod(event)) for event in plan.sites.code.values())
    images = plan.x.shape[1] * (4 * plan.replicates + 2 * min(plan.chunk, plan.draws))
    needed = rows * (plan.draws * (4 * code + 24) + 4 * images)
    room(f"{rows:,} data with {plan.draws:,} draws each", needed, advice)


def _filled(plan: Plan) -> Plan:
    p, _ = rehearsed(plan.pair, plan.x, plan.y)
    events = {name: tuple(site["fn"].event_shape) for name, site in p.items()}
    wide = tuple(n for n in (*plan.sites.points, *plan.sites.exact) if events[n] == (plan.x.shape[1],))
    sizes = {"chain": 1, "datum": len(plan.x), **dict(zip(PIXELS[len(plan.shape)], plan.shape, strict=True))}
    blocks = _blocks(plan.pair, plan.sites)
    plan = Plan(**{**vars(plan), "blocks": blocks, "wide": wide, "sizes": sizes})
    real = np.dtype(str(as_batch(plan.x[:1]).dtype).removeprefix("torch."))
    one, pixels = ("chain", "draw", "datum"), PIXELS[len(plan.shape)]
    latent = _latent(plan, events)
    put = plan.variables
    put["posterior"] = {n: Variable((*one, *d), real, w) for n, (d, w) in latent.items()}
    images = {"mu": Variable((*one, *pixels), real, "the clean datum at the code")}
    codes, prior = drawable(plan.pair, plan.x, plan.y, plan.sites)
    replica = Variable((*one, *pixels), real, "a new x given the code, all other sites drawn anew")
    known = {n: Variable((*one, *pixels), real, f"{_word(plan, n)} of the datum itself, given the code") for n in wide}
    put["posterior_predictive"] = ({} if codes else {"x": replica}) | images | known
    if codes:
        plan.left_out["posterior_predictive.x"] = codes
    if prior:
        plan.left_out["prior, prior_predictive"] = prior
    else:
        new = {n: Variable((*one, *pixels), real, f"{_word(plan, n)}, drawn from the prior") for n in wide}
        put["prior"] = {n: Variable((*one, *d), real, w) for n, (d, w) in latent.items()} | new
        put["prior_predictive"] = {"x": Variable((*one, *pixels), real, "x of the model, without data"), **images}
    _densities(plan, one)
    put["observed_data"] = {"x": Variable(("datum", *pixels), real, "the data")}
    constant = _constants(plan, pixels)
    if constant:
        put["constant_data"] = constant
    return plan


def _densities(plan: Plan, one: tuple[str, ...]) -> None:
    """The groups log_likelihood and sample_stats, and why one of them may be missing."""
    sites, put = plan.sites, plan.variables
    says = "log p(x | code), nats, exact sites integrated out. It knows its own datum's code: see pyro_vaes.loo"
    if sites.normalised:
        put["log_likelihood"] = {"x": Variable(one, np.dtype("f8"), says)}
    else:
        plan.left_out["log_likelihood"] = (
            f"{plan.pair.name} has no normalised density: log p(x | code) is known up to a constant per datum"
        )
    constant = "" if sites.normalised else ", up to a constant per datum"
    weight = "log p(x, code) - log q(code | x), nats" + constant
    stats = {
        "lp": Variable(one, np.dtype("f8"), "log p(x, code), nats" + constant),
        "log_weight": Variable(one, np.dtype("f8"), weight),
        "khat": Variable(("datum",), np.dtype("f8"), "Pareto's k-hat of the weights: above 0.7 do not trust them"),
        "ess": Variable(("datum",), np.dtype("f8"), "(sum w)^2 / sum w^2, of the importance weights"),
    }
    if sites.point_mass:
        why = "the guide puts a point mass on the code: it has no density, and there are no weights (NaN)"
        plan.left_out["sample_stats.log_weight, khat, ess"] = why
    elif sites.normalised:
        says = "log p(x), nats: log of the mean Pareto-smoothed weight; with the model fixed, the datum's LOO density"
        stats["elpd"] = Variable(("datum",), np.dtype("f8"), says)
    put["sample_stats"] = stats


def _latent(plan: Plan, events: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Name -> dimensions after chain, draw and datum, and words; sizes of new dimensions are noted."""
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    if plan.blocks:
        plan.sizes["block"] = len(plan.blocks)
        says = f"sites {plan.blocks[0]} ... {plan.blocks[-1]}, one block each"
        found["z"] = (("block", *_own(plan, "z", events[plan.blocks[0]])), says)
    others = [n for n in (*plan.sites.points, *plan.sites.exact) if n not in plan.wide]
    for name in (*plan.sites.code, *others):
        if name not in plan.blocks:
            found[name] = (_own(plan, name, events[name]), f"site {name} of {plan.pair.name}")
    return found


def _own(plan: Plan, name: str, event: tuple[int, ...]) -> tuple[str, ...]:
    dims = tuple(f"{name}_dim" if len(event) == 1 else f"{name}_dim_{i}" for i in range(len(event)))
    plan.sizes.update(zip(dims, event, strict=True))
    return dims


def _word(plan: Plan, site: str) -> str:
    return f"outlier {site}" if site in plan.sites.points else f"site {site}"


def _blocks(pair: Pair, sites: Sites) -> tuple[str, ...]:
    """z_1 ... z_T where they are alike and the model draws them independently; nothing elsewhere."""
    names = tuple(sites.code)
    alike = names == tuple(f"z_{t + 1}" for t in range(len(names))) and len(names) > 1
    if not alike or any(sites.code[a] != sites.code[b] for a, b in pairwise(names)):
        return ()
    try:
        return blocks_of(pair)
    except InputError:  # a hierarchy: its layers are no blocks
        return ()


def _constants(plan: Plan, pixels: tuple[str, ...]) -> dict[str, Variable]:
    found = {}
    if plan.labels is not None:
        found["label"] = Variable(("datum",), np.dtype("i8"), "the class, -1 for none")
    if plan.y is not None:
        plan.sizes["condition_dim"] = plan.y.shape[1]
        kind = np.dtype(str(plan.y.dtype).removeprefix("torch."))
        found["condition"] = Variable(("datum", "condition_dim"), kind, "what the model is given beside the code")
    words = {"mask": "1 where x was observed, 0 where not", "dirty": "1 where x is known to be dirty"}
    return found | {n: Variable(("datum", *pixels), np.dtype("i1"), words[n]) for n in plan.marks}


def _labels(labels: Tensor | None, rows: int) -> Tensor | None:
    if labels is None:
        return None
    what = f"{rows} whole numbers, one per datum"
    if tuple(plain("labels", labels, what=what).shape) != (rows,) or labels.is_floating_point() or labels.is_complex():
        raise InputError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}: they must be {what}")
    return labels.long()


def _marks(name: str, value: Any, x: Tensor) -> Tensor:
    what = f"a tensor of shape {tuple(x.shape)} or ({x.shape[1]},)"
    if plain(name, value, what=what).shape not in (x.shape, x.shape[1:]):
        raise InputError(f"{name} is {tuple(value.shape)}: it must be {what}")
    if not bool(((value == 0) | (value == 1)).all()):
        raise InputError(f"{name} holds other values than 0 and 1")
    return value.to(torch.int8).expand(x.shape)
