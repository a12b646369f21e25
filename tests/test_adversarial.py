"""One loss, two players: each gets its own gradient, its own rate, and the steps of its own optimiser."""

import math
import os
import signal

import pytest
import torch
from torch import nn

import pyro_vaes as pv
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.optimiser import factors, rule
from pyro_vaes.inference.track import CHECKPOINT

OPTIONS = {"steps": 13, "batch_size": 7, "progress": False, "log_every": 1, "checkpoint_every": 4}
RATE = 0.5


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return pv.wae_gan(8, 3, (6, 5), **({"discriminator_hidden": (5, 4)} | arguments))


def two_losses(pair, x, seed=1):
    """Both players' losses by hand, each with its own graph."""
    weight, D = pair.objective.weight.to(x.dtype), pair.objective.discriminator
    torch.manual_seed(seed)
    z = pair.guide.encoder(x)
    draws = torch.normal(torch.zeros_like(z), torch.ones_like(z))
    error = 0.5 * (x - pair.model.decoder(z)).square().sum(-1) + 4 * math.log(2 * math.pi)
    generator = error.mean() - weight * torch.log(torch.sigmoid(D(z))).mean()
    discriminator = -torch.log(torch.sigmoid(D(draws))).mean() - torch.log(torch.sigmoid(-D(z))).mean()
    return generator, discriminator


def split(pair):
    """The parameters of the two players."""
    own = set(map(id, pair.objective.discriminator.parameters()))
    return [p for p in pair.parameters() if id(p) not in own], list(pair.objective.discriminator.parameters())


def test_one_backward_pass_gives_the_gradients_of_two(data):
    pair, x = make().double(), data[:9].double()
    torch.manual_seed(1)
    loss = pair(x)
    ours = torch.autograd.grad(loss.total, [*split(pair)[0], *split(pair)[1]])
    generator, discriminator = two_losses(pair, x)
    expected = torch.autograd.grad(generator, split(pair)[0], retain_graph=True)
    expected += torch.autograd.grad(discriminator, split(pair)[1])
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert b.abs().max() > 0
    torch.testing.assert_close(loss.total, generator + discriminator)  # its value is the sum, and means nothing
    torch.testing.assert_close(loss.terms["discriminator"], discriminator)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_steps_are_those_of_two_adams_with_two_rates(engine, data):
    """Both from the same parameters, simultaneously."""
    pair, other, x = make().double(), make().double(), data[:9].double()
    pv.fit(pair, x, steps=6, batch_size=9, lr=0.01, schedule="constant", engine=engine, progress=False, seed=4)
    sides = split(other)
    optimisers = [
        torch.optim.Adam(side, lr, betas=(0.5, 0.999)) for side, lr in zip(sides, (0.01, 0.01 * RATE), strict=True)
    ]
    for step in range(6):
        # The prior's draws are the only noise: the state of the generator goes on from one step to the next.
        if step == 0:
            torch.manual_seed(4)
            state = torch.get_rng_state()
        torch.set_rng_state(state)
        z = other.guide.encoder(x)
        draws, state = torch.normal(torch.zeros_like(z), torch.ones_like(z)), torch.get_rng_state()
        D, weight = other.objective.discriminator, other.objective.weight
        error = 0.5 * (x - other.model.decoder(z)).square().sum(-1).mean()
        losses = (
            error - weight * torch.log(torch.sigmoid(D(z))).mean(),
            -torch.log(torch.sigmoid(D(draws))).mean() - torch.log(torch.sigmoid(-D(z))).mean(),
        )
        for side, loss in zip(sides, losses, strict=True):
            found = torch.autograd.grad(loss, side, retain_graph=True)
            for p, g in zip(side, found, strict=True):
                p.grad = g
        for optimiser in optimisers:
            optimiser.step()
    for a, b in zip(pair.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_a_factor_is_a_rate_of_ones_own(name):
    torch.manual_seed(0)
    start = [torch.randn(3), torch.randn(2), torch.randn(4)]
    together = rule(name)([p.clone() for p in start], 0.05, factors=[1.0, 2.5, 1.0])
    apart = [rule(name)([p.clone()], 0.05 * f) for p, f in zip(start, (1.0, 2.5, 1.0), strict=True)]
    plain = rule(name)([p.clone() for p in start], 0.05)
    for _ in range(5):
        gradients = [torch.randn_like(p) for p in start]
        together.step(gradients)
        plain.step(gradients)
        for one, g in zip(apart, gradients, strict=True):
            one.step([g])
    for i, one in enumerate(apart):
        torch.testing.assert_close(together.parameters[i], one.parameters[0], rtol=1e-6, atol=1e-7)
        assert torch.equal(together.parameters[i], plain.parameters[i]) == (i != 1)


def test_who_has_a_rate_of_its_own():
    pair = make()
    named = dict(zip([n for n, _ in pair.named_parameters()], factors(pair), strict=True))
    assert {n for n, f in named.items() if f == RATE} == {n for n in named if n.startswith("objective.discriminator.")}
    assert set(named.values()) == {1.0, RATE}
    assert factors(pv.l2_vae(4)) == factors(make(rate=1.0)) == []
    pair.objective = pv.Denoised(pair.objective, "impulse:0.1")  # found in an objective inside of another
    assert set(factors(pair)) == {1.0, RATE}
    pair.objective.rate_factors = {"nobody": 2.0}
    with pytest.raises(pv.InputError, match="has no parameter that learns"):
        factors(pair)
    pair.objective.rate_factors = {"objective": 0.0}
    with pytest.raises(pv.InputError, match="above 0"):
        factors(pair)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_interrupted_is_uninterrupted(engine, data, tmp_path):
    whole, cut = make(), make(1)
    pv.fit(whole, data, **OPTIONS, engine=engine, out=tmp_path / "whole")

    def interrupt(step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    pv.fit(make(), data, **OPTIONS, engine=engine, out=tmp_path / "cut", on_step=interrupt)
    pv.fit(cut, data, **OPTIONS, engine=engine, out=tmp_path / "cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))
    one, other = (checkpoint.load(tmp_path / folder / CHECKPOINT)[0] for folder in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in one.items())


def test_the_graph_is_the_program(data):
    pairs = [make() for _ in range(2)]
    histories = [pv.fit(p, data, **OPTIONS, engine=e) for p, e in zip(pairs, ("eager", "graph"), strict=True)]
    assert histories[1].engine.kind == "graph"
    for a, b in zip(*(p.parameters() for p in pairs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for row, other in zip(*(h.rows for h in histories), strict=True):
        assert row["terms"] == pytest.approx(other["terms"], rel=1e-4) and row["seen"] == other["seen"]
        assert set(row["terms"]) == {"x", "z", "discriminator"} and set(row["seen"]) == {"accuracy"}
        assert sum(row["terms"].values()) == pytest.approx(row["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [False, True], ids=["one rate", "two rates"])
def test_replicas_are_single_runs(grid, data):
    rates = [0.002, 0.004] if grid else [0.002, 0.002]
    pairs = [make(r) for r in range(2)]
    histories = pv.fit(pairs, data, **OPTIONS, lr=rates if grid else 0.002, engine="graph")
    assert histories[0].engine.kind == "graph"
    for r, pair in enumerate(pairs):
        alone = make(r)
        pv.fit(alone, data, **OPTIONS, lr=rates[r], seed=r, engine="eager")
        for a, b in zip(pair.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def quantiles(n=400):
    return torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(n) + 0.5) / n)[:, None].double()


def test_the_best_discriminator_is_the_log_ratio():
    """Between N(0, 1) and N(1, 1) that is 1/2 - u."""
    real = quantiles()
    D, fake = nn.Linear(1, 1).double(), real + 1
    optimiser = torch.optim.LBFGS(D.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = pv.players(D, real, fake).discriminator
        loss.backward()
        return loss

    optimiser.step(closure)
    assert D.weight.item() == pytest.approx(-1, abs=0.02) and D.bias.item() == pytest.approx(0.5, abs=0.02)
    found = pv.players(D, real, fake)
    assert found.accuracy.item() == pytest.approx(0.6915, abs=0.01)  # Phi(1/2)
    assert not found.accuracy.requires_grad


class Squares(nn.Module):
    """The logit of two Gaussians: a quadratic function."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, z):
        return self.linear(torch.cat([z, z**2], -1))


@pytest.mark.parametrize("saturating", [False, True])
def test_the_generator_moves_its_codes_to_the_prior(saturating):
    """From N(2, 0.5^2) to N(0, 1), by simultaneous steps with the rates of two players."""
    torch.manual_seed(0)
    u, D = quantiles(200), Squares().double()
    mean, log_sd = torch.tensor(2.0, dtype=torch.float64), torch.tensor(-0.7, dtype=torch.float64)
    leaves = [mean.requires_grad_(), log_sd.requires_grad_(), *D.parameters()]
    adam = rule("adam", (0.5, 0.999))(leaves, 0.01, factors=[1.0, 1.0, 5.0, 5.0])
    for step in range(1500):
        found = pv.players(D, u, mean + log_sd.exp() * u, saturating=saturating)
        adam.lr.fill_(0.01 * (1 - step / 1500))
        adam.step(torch.autograd.grad(found.generator + found.discriminator, leaves))
    assert abs(mean.item()) < 0.1 and abs(log_sd.item()) < 0.1


def test_a_discriminator_of_another_shape_is_refused():
    with pytest.raises(pv.InputError, match="one logit each"):
        pv.players(nn.Linear(2, 2), torch.zeros(3, 2), torch.zeros(3, 2))
