"""Masked: the bound of the observed entries by hand, NaN in training data, every variant, every engine."""

import math

import pytest
import torch
from test_condition import by_hand, holes
from test_contract import SMALL, batch, condition, make
from torch.distributions import Normal, kl_divergence

import pyro_vaes as pv

REFUSED = {
    "vae_gan",
    "crvae_gan",
    "ae_classifier",
    "vae_classifier",
    "crvae_classifier",
    "two_stage_vae",
    "datum_t_vae",
}


def loss_of(pair, objective, x, seed=1, **options):
    pair.objective = objective
    torch.manual_seed(seed)
    return pair(x, **options)


@pytest.mark.parametrize("name", ["vae", "l2_vae", "t_vae", "rvae", "ic_vae", "indexed_ic_vae"])
def test_the_bound_of_the_observed_entries_by_hand(name):
    pair = make(name).double()
    x, seen = holes(batch(name).double())
    inner = pair.objective
    loss = loss_of(pair, pv.Masked(inner, lambda x: torch.ones_like(x).bool(), fill=0.125 if name != "vae" else 0.0), x)
    shown = torch.where(seen, x, 0.125 if name != "vae" else 0.0)
    loc, scale = pair.guide.encoder(shown)
    torch.manual_seed(1)
    z = loc + scale * torch.randn_like(loc)
    kl = kl_divergence(Normal(loc, scale), Normal(torch.zeros_like(loc), 1.0)).sum(-1)
    log_p = torch.where(seen, by_hand(name, pair, z, shown), 0.0).sum(-1)
    torch.testing.assert_close(loss.total, (kl - log_p).mean())
    # And the gradient.
    ours = torch.autograd.grad(loss.total, pair.model.decoder.parameters())
    hand = torch.autograd.grad((kl - log_p).mean(), pair.model.decoder.parameters())
    for a, b in zip(ours, hand, strict=True):
        torch.testing.assert_close(a, b)


def test_the_importance_weighted_bound_by_hand():
    pair = make("l2_vae").double()
    x, seen = holes(batch("l2_vae").double())
    loss = loss_of(pair, pv.Masked(pv.ImportanceWeighted(3), lambda x: ~x.isnan()), x)
    loc, scale = pair.guide.encoder(x.nan_to_num())
    torch.manual_seed(1)
    z = loc + scale * torch.randn(3, *loc.shape, dtype=torch.float64)
    log_p = torch.where(seen, by_hand("l2_vae", pair, z, x.nan_to_num()), 0.0).sum(-1)
    log_w = log_p + (Normal(0.0, 1.0).log_prob(z) - Normal(loc, scale).log_prob(z)).sum(-1)
    torch.testing.assert_close(loss.bound, (log_w.logsumexp(0) - math.log(3)).mean())


@pytest.mark.parametrize("name", SMALL)
def test_every_variant(name):
    pair, x, y = make(name), holes(batch(name))[0], condition(name)
    if name in REFUSED:
        with pytest.raises(pv.InputError):
            loss_of(pair, pv.Masked(pair.objective), x, y=y)
        return
    inner = pair.objective
    # What is hidden is not looked at, and where nothing is hidden it is the objective.
    whole = loss_of(pair, pv.Masked(inner, lambda x: torch.ones_like(x).bool()), batch(name), y=y)
    torch.testing.assert_close(whole.total, loss_of(pair, inner, batch(name), y=y).total)
    loss = loss_of(pair, pv.Masked(inner, 0.3), x, y=y)
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in pair.parameters())


def test_a_share_is_hidden():
    seen = []
    pair = make("l2_vae")
    pair.objective = pv.Masked(lambda model, guide, x, y, size: seen.append(model.seen), 0.3)
    pair(torch.rand(500, 8))
    assert abs(seen[0].float().mean() - 0.7) < 0.05


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_training_data_may_have_holes(engine, tmp_path):
    x = holes(batch("l2_vae", 40))[0]
    pair = make("l2_vae")
    with pytest.raises(pv.InputError, match="nan"):
        pv.fit(pair, x, steps=2, progress=False)
    pair.objective = pv.Masked(pair.objective, 0.2)
    history = pv.fit(pair, x, steps=6, batch_size=8, engine=engine, progress=False, out=tmp_path / "run")
    assert history.step == 6
    more = make("l2_vae")
    more.objective = pv.Masked(more.objective, 0.2)
    pv.fit(more, x, steps=6, batch_size=8, engine=engine, progress=False, out=tmp_path / "run", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(pair.parameters(), more.parameters(), strict=True))
    with pytest.raises(pv.InputError, match="inf"):
        pv.fit(pair, x.nan_to_num(nan=math.inf), steps=2, progress=False)


def test_holes_with_dynamic_pixels_and_in_replicas():
    x = holes(batch("l2_vae", 30))[0]
    pair = make("vae")
    pair.objective = pv.Masked(pair.objective, 0.2)
    assert pv.fit(pair, x, steps=3, batch_size=10, augment="dynamic", progress=False).step == 3
    histories = pv.fit(pair, x.round(), steps=3, batch_size=10, replicas=2, progress=False)
    assert [h.step for h in histories] == [3, 3]
    first = [dict(h.pair.named_parameters())["model.decoder.0.weight"] for h in histories if h.pair is not None]
    assert len(first) < 2 or not torch.equal(*first)


def test_bad_input():
    for text, options in {
        "share": {"share": 1.0},
        "fill": {"fill": torch.ones(2, 2)},
        "objective": {"objective": 3},
    }.items():
        with pytest.raises(pv.InputError, match=text):
            pv.Masked(**({"objective": pv.ELBO()} | options))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*was not registered in the param store")
def test_a_guide_that_was_trained_with_holes_guesses_better():
    """Digits, half of every image hidden, one decoder for both guides, five seeds."""
    x = pv.load("digits").x
    train, test = x[:1500], x[1500:]
    seen = torch.rand(test.shape, generator=torch.Generator().manual_seed(0)) >= 0.5
    shown = torch.where(seen, test, 0.0)
    torch.manual_seed(0)
    for history in pv.fit(pv.gaussian_vae(64, 6, (64,)), train, steps=1500, replicas=5, progress=False):
        pair = history.pair
        before = (pv.reconstruct(pair, shown)[0] - test)[~seen].square().mean()
        pair.model.requires_grad_(False)
        pair.objective = pv.Masked(pv.ELBO(), 0.5)
        pv.fit(pair, train, steps=800, engine="graph", progress=False)
        assert (pv.reconstruct(pair, shown)[0] - test)[~seen].square().mean() < before
