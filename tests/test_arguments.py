"""What variants and programs are given arrives where it says something: arguments, the size of the set, gradients."""

import functools
import inspect

import pytest
import torch
from pyro.distributions import constraints
from small import BINARY, sizes
from torch import nn

import pyro_vaes as pv
from pyro_vaes.guides.cell_posterior import CellPosterior
from pyro_vaes.guides.conditional import FromCondition
from pyro_vaes.inference.objective import sampled_sites, trace_of
from pyro_vaes.inference.posterior import recorded
from pyro_vaes.models.cell_mixture import CellMixture
from pyro_vaes.models.conditional import DirectOutput
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import GaussianEncoder
from pyro_vaes.nn.scales import LearnedScale

D = 16
# A value that is neither the default nor what makes the small pairs small.
OTHER = {
    "latent_dim": 6, "hidden": (7, 3), "activation": "relu", "beta": 0.25, "corruption": "salt_and_pepper:0.5",
    "particles": 3, "alpha": 0.5, "estimator": "stl", "middle": 5, "middle_hidden": (6,), "latent_dims": (5, 2),
    "shape": (2, 8), "flows": 1, "width": 8, "bins": 4, "components": 4, "grey": 0.25, "classes": 12,
    "condition_dim": 12, "minimum": 0.05, "head": "course_report", "real": True,
    "points": torch.linspace(0, 1, 3 * D).reshape(3, D),
    "floor": 0.25, "broad": 4.0, "passes": 3, "test_passes": 4, "recycle_grad": True, "l1": 0.5, "affine": True,
    "weight": 0.75, "kernel": "rbf", "discriminator_hidden": 7, "rate": 0.25, "second_hidden": (7,),
    "scale": "diagonal", "classifier": "cnn", "filters": (5,), "distort": 0.5, "classifier_weight": 0.5, "sd": 0.25,
    "blocks": 4, "mean": "dense", "recurrence": "inference", "units": 7, "preset": "repo", "fakes": "prior",
    "threshold": 0.6, "discriminator_filters": (5,), "draws": 3, "layers": 2,
}  # fmt: skip
OF_ONE = {("wae_gan", "discriminator_hidden"): (7,)}
# What an argument goes with, where no small pair takes it as it is.
BESIDE = {("m2_vae", what): {"classifier": "cnn"} for what in ("filters", "distort", "shape")}
BLOCKS = {"bcvae", "crvae", "crvae_gan", "crvae_classifier"}
ARGUMENTS = [
    pytest.param(name, argument, id=f"{name}-{argument}")
    for name, make in pv.VARIANTS.items()
    for argument in inspect.signature(make).parameters
    if argument != "data_dim" and (name, argument) != ("memoriser", "latent_dim")  # which has one code
]


def small_sizes(name):
    return sizes(name, D, 3, (6, 5)) | ({"latent_dim": 64} if name in BLOCKS else {})


@functools.cache
def what_it_is(name, given):
    """All that can be told of a pair from outside: its modules, its numbers, and a loss."""
    torch.manual_seed(3)
    pair = pv.variant(name)(**dict(given))
    torch.manual_seed(5)
    x, y = torch.rand(6, D), pair.first_condition(6)
    x = x.round() if pair.name in BINARY else x
    tensors = (*pair.named_parameters(), *pair.named_buffers())
    numbers = [(n, t.shape, t.sum().item(), t.square().sum().item()) for n, t in tensors]
    more = {n: getattr(pair.objective, n, None) for n in ("rate_factors", "draws")}
    loss = pair(x, y).total.item()
    return [str(pair), pair.range, pair.passes, pair.condition_dim, pair.partial, more, numbers, loss]


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_every_argument_changes_the_pair(name, argument):
    """One that a variant takes and forgets would leave the pair of the default."""
    small = (
        sizes(name, D, 3, (6, 5)) | ({"latent_dim": 64} if name in BLOCKS else {}) | BESIDE.get((name, argument), {})
    )
    wide = 32 if name in BLOCKS else 8 if "shape" in small else OTHER["latent_dim"]
    small.pop(argument, None)
    other = wide if argument == "latent_dim" else OF_ONE.get((name, argument), OTHER.get(argument))
    small, other = tuple(small.items()), ((argument, other),)
    assert what_it_is(name, small) != what_it_is(name, small + other)


def programs(name):
    """Both programs of a small pair, by whose they are, with the condition that they take."""
    pair = pv.variant(name)(**small_sizes(name))
    return pair.first_condition(6), {"model": pair.model, "guide": pair.guide}


ALONE = {
    "direct": lambda: (torch.eye(6), {"model": DirectOutput(nn.Linear(6, D)), "guide": None}),
    "from_condition": lambda: (torch.eye(6), {"model": None, "guide": FromCondition(GaussianEncoder(6, [5], 2))}),
}


@pytest.mark.parametrize("name", [*pv.VARIANTS, *ALONE])
def test_every_site_of_both_programs_counts_for_the_whole_set(name):
    """A guide whose plate has forgotten the size is the same to our objectives, and wrong under stock Pyro."""
    y, both = ALONE[name]() if name in ALONE else programs(name)
    x, q = torch.rand(6, D).round(), None
    for whose in ("guide", "model"):
        if both[whose] is not None:
            with torch.no_grad():
                q = trace_of(both[whose], x, y, 30, 1, at=q)
            for site_name, site in sampled_sites(q):
                assert site["scale"] == 5, f"{whose}: {site_name}"
                assert [(f.name, f.size) for f in site["cond_indep_stack"]] == [("data", 6)], f"{whose}: {site_name}"


def other_likelihood(name):
    """What makes a variant's mean or its data others, if anything does."""
    known = inspect.signature(pv.variant(name)).parameters
    return {"real": True} if "real" in known else {"sd": 0.25} if "sd" in known else {}


LIKELIHOODS = [(name, {}) for name in pv.VARIANTS] + [
    (name, other_likelihood(name)) for name in pv.VARIANTS if other_likelihood(name)
]


@pytest.mark.parametrize(("name", "more"), LIKELIHOODS)
def test_data_may_lie_where_the_mean_can_reach(name, more):
    """With large weights a mean goes wherever it can: in [0, 1] where it is squashed, and so must data be."""
    pair = pv.variant(name)(**small_sizes(name) | more)
    with torch.no_grad():
        for p in pair.model.parameters():
            p.normal_(std=5.0)
        p = trace_of(pair.model, None, pair.first_condition(50), 50, 1)
        mean, support = recorded(p, "mu", "mean"), p.nodes["x"]["fn"].support
    squashed = mean.min() >= 0 and mean.max() <= 1
    binary = (
        constraints.is_dependent(support) is False and getattr(support, "base_constraint", None) is constraints.boolean
    )
    assert binary == (name in BINARY and not more)
    assert pair.range == ((0.0, 1.0) if squashed and not binary else None)
    assert pair.name == name


def scale(start):
    return LearnedScale(1, start=start)


@pytest.mark.parametrize(
    "program",
    [
        lambda: CellMixture(StandardPrior(2), nn.Linear(2, D), scale(0.3), scale(0.6), scale(2.0)),
        lambda: CellPosterior(GaussianEncoder(D, [5], 2), nn.Linear(2, D), scale(0.3), scale(0.6), scale(2.0)),
        lambda: DirectOutput(nn.Linear(6, D)),
        lambda: FromCondition(GaussianEncoder(6, [5], 2)),
    ],
    ids=["CellMixture", "CellPosterior", "DirectOutput", "FromCondition"],
)
def test_every_network_of_a_program_can_learn(program):
    """Those that no variant learns, too: they are arguments of the program."""
    program = program()
    q = trace_of(program, torch.rand(6, D).round(), torch.eye(6), None, 1)
    sum(site["fn"].log_prob(site["value"].detach()).sum() for _, site in sampled_sites(q)).backward()
    for name, parameter in program.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
