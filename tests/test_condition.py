"""Conditions reach model and guide, row by row, in every engine; what does not fit is refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vaes as pv
from pyro_vaes.inference.posterior import bound
from pyro_vaes.plates import data_plate


class Model(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2 + 3, 8)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            joined = torch.cat([z, y.expand(*z.shape[:-1], -1)], -1)
            return pyro.sample("x", dist.Normal(self.decoder(joined), 0.1).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(8 + 3, 2)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            return pyro.sample("z", dist.Normal(self.encoder(torch.cat([x, y], -1)), 0.1).to_event(1))


def make(seed=0):
    torch.manual_seed(seed)
    return pv.Pair(Model(), Guide(), condition_dim=3, name="mine")


X = torch.rand(10, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(10) % 3


@pytest.mark.parametrize("engine", ["eager", "graph", "inductor"])
def test_every_engine_gives_the_same_run(engine):
    pairs = [make(), make()]
    pv.fit(pairs[0], X, Y, steps=6, batch_size=4, engine="eager", progress=False)
    history = pv.fit(pairs[1], X, Y, steps=6, batch_size=4, engine=engine, progress=False)
    assert history.engine.kind == engine
    for one, other in zip(*(pair.parameters() for pair in pairs), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_step_by_hand():
    """The rows of a batch keep their own conditions: the loss of the first step is that of those rows."""
    pair, seen = make(), []
    forward = pair.forward
    pair.forward = lambda x, y=None, **options: (seen.append((x, y)), forward(x, y, **options))[1]
    pv.fit(pair, X, Y, steps=3, batch_size=4, engine="eager", progress=False)
    for x, y in seen[-3:]:
        rows = [(row == X).all(1).nonzero().item() for row in x]
        assert torch.equal(y.argmax(1), Y[rows])
        assert torch.equal(y.sum(1), torch.ones(len(x)))


def test_bytes_numbers_and_one_hot_vectors_are_alike():
    losses = []
    for y in (Y, torch.nn.functional.one_hot(Y, 3).float()):
        pair = make()
        pv.fit(pair, (X * 255).byte(), y, steps=3, batch_size=4, progress=False)
        losses.append(bound(pair, X, y))
    assert losses[0] == losses[1]


def test_replicas_and_resuming(tmp_path):
    pairs = [make(), make()]
    pv.fit(pairs, X, Y, steps=4, batch_size=4, seed=[5, 6], engine="graph", progress=False)
    alone = make()
    pv.fit(alone, X, Y, steps=4, batch_size=4, seed=6, engine="graph", progress=False)
    for one, other in zip(pairs[1].parameters(), alone.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    pv.fit(make(), X, Y, steps=4, out=tmp_path, progress=False)
    with pytest.raises(pv.InputError, match="data checksum"):
        pv.fit(make(), X, Y.flip(0), steps=4, out=tmp_path, resume=True, progress=False)


def test_the_condition_changes_what_is_drawn_and_cleaned():
    pair = make()
    assert pv.sample(pair, 4, y=2).shape == (4, 8)
    assert not torch.allclose(pv.sample(pair, 4, y=2), pv.sample(pair, 4, y=1))
    assert torch.equal(pv.sample(pair, 3, y=torch.tensor([2, 2, 2])), pv.sample(pair, 3, y=2))
    found = pv.clean(pair, X, Y, batch_size=4)
    assert torch.allclose(found.mean, pv.clean(pair, X, Y).mean, atol=1e-6)
    assert not torch.allclose(found.mean, pv.clean(pair, X, Y.flip(0)).mean)


def test_importance_weights_are_conditional_too():
    pair = make()
    pair.objective = pv.ImportanceWeighted(4)
    assert pv.fit(pair, X, Y, steps=2, progress=False).step == 2
    assert "mine" in pair.describe()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "y is missing: mine takes a condition, 3 entries per datum or labels below 3"),
        (torch.full((10,), 3), "whole, 0 to 2"),
        (torch.full((10,), -1), "whole, 0 to 2"),
        (torch.rand(10), "whole, 0 to 2"),
        (torch.rand(10, 2), r"must be their labels, or of shape \(10, 3\)"),
        (torch.zeros(9).long(), "9"),
        ([0] * 10, "list|y has 10 entries"),
        (torch.full((10, 3), float("nan")), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(y, message):
    with pytest.raises(pv.InputError, match=message):
        pv.fit(make(), X, y, steps=1, progress=False)


def test_an_unconditional_pair_takes_none():
    pair = pv.l2_vae(8, 2, (3,))
    for call in (pv.fit, pv.clean):
        with pytest.raises(pv.InputError, match="l2_vae takes no condition"):
            call(pair, X, Y)
    with pytest.raises(pv.InputError, match="takes no condition"):
        pv.sample(pair, 3, y=1)
