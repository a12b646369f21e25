"""Any guide goes with any model whose sites fit: all are tried, and those that do not fit are refused in words."""

from itertools import product

import pytest
import torch
from small import BINARY, sizes

import pyro_vaes as pv

D = 8


def make(name):
    torch.manual_seed(0)
    return pv.variant(name)(**sizes(name, D, 3, (6, 5)))


# One of each: programs of one architecture are one.
PAIRS = {name: make(name) for name in pv.VARIANTS}
MODELS = {repr(pair.model): name for name, pair in reversed(PAIRS.items())}
GUIDES = {repr(pair.guide): name for name, pair in reversed(PAIRS.items())}


def sites(name, program):
    q, p = PAIRS[name].traces()
    nodes = (q if program == "guide" else p).nodes
    return {
        site: tuple(node["value"].shape[1:])
        for site, node in nodes.items()
        if node["type"] == "sample" and not node["is_observed"]
    }


def own_networks(model, guide):
    """Whether a guide that holds a network of some model holds this one's: by name, as Pyro sees it."""
    known = dict(model.named_parameters())
    return all(known.get(n, p) is p for n, p in guide.named_parameters())


FIT = [
    (m, g)
    for m, g in product(MODELS.values(), GUIDES.values())
    if sites(m, "model") == sites(g, "guide")
    and PAIRS[m].condition_dim == PAIRS[g].condition_dim
    and own_networks(PAIRS[m].model, PAIRS[g].guide)
]


def test_there_is_more_than_the_diagonal():
    assert len(MODELS) >= 14 and len(GUIDES) >= 12, (len(MODELS), len(GUIDES))
    assert len([pair for pair in FIT if pair[0] != pair[1]]) >= 50


@pytest.mark.parametrize(("model", "guide"), FIT)
def test_what_fits_computes_and_learns(model, guide):
    p, q = make(model), make(guide)
    # A guide that shares a network with its own model needs that of this model: the same variant, then.
    pair = p if model == guide else pv.Pair(p.model, q.guide, range=p.range, condition_dim=p.condition_dim)
    x = torch.rand(9, D, generator=torch.Generator().manual_seed(1))
    x = (x > 0.5).float() if model in BINARY else x
    y = pair.first_condition(9)
    loss = pair(x, y, size=90)
    assert torch.isfinite(loss.total)
    assert torch.isclose(sum(loss.terms.values()), loss.total)
    before = [t.detach().clone() for t in pair.parameters()]
    pv.fit(pair, x, y, steps=2, engine="eager", progress=False)
    assert any(not torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))
    assert pv.clean(pair, x, y, draws=2).mean.shape == (9, D)


def test_what_does_not_fit_is_refused_in_words():
    for model, guide in product(MODELS.values(), GUIDES.values()):
        if (model, guide) in FIT or PAIRS[model].condition_dim != PAIRS[guide].condition_dim:
            continue
        with pytest.raises(
            pv.InputError, match=r"guide lacks site|guide samples|has shape|have a parameter|outside of the support"
        ):
            pv.Pair(PAIRS[model].model, PAIRS[guide].guide, condition_dim=PAIRS[model].condition_dim)
