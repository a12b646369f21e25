"""The prior that is fitted to the codes: its density, its moments, and when a fit puts it in place."""

import math
import os
import signal

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_vaes as pv
from pyro_vaes.cli import main
from pyro_vaes.distributions import ChannelNormal
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.densities import quietly, seed_at
from pyro_vaes.inference.empirical import channel_moments
from pyro_vaes.inference.state import state
from pyro_vaes.inference.track import CHECKPOINT
from pyro_vaes.models.priors import ChannelPrior

F64 = torch.float64
SIZES = {"data_dim": 8, "shape": (1, 8), "hidden": (6, 4), "latent_dim": 4, "sd": 0.25}  # two channels of two cells
PLAN = {"steps": 7, "batch_size": 9, "checkpoint_every": 3, "seed": 4, "progress": False}
MOMENTS = {"model.prior.loc", "model.prior.scale_tril"}


def make(name="empirical_cvae", seed=3, **arguments):
    torch.manual_seed(seed)
    return pv.variant(name)(**SIZES, **arguments)


def dense(prior=None, seed=3):
    """The same with small dense networks, or with N(0, I) and the bound alone: what is tested is the fit."""
    torch.manual_seed(seed)
    pair = pv.l2_vae(data_dim=8, latent_dim=4, hidden=(5,))
    if prior is None:
        pair.model.prior, pair.objective = ChannelPrior(2, 2), pv.EmpiricalPrior()
    return pair


def copy(pair):
    return {name: tensor.clone() for name, tensor in state(pair).items()}


def changed(before, pair):
    return {name for name, tensor in state(pair).items() if not torch.equal(tensor, before[name])}


def some(channels=3, cells=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(channels, cells, cells, generator=g, dtype=F64)
    return torch.randn(channels, cells, generator=g, dtype=F64), a @ a.mT + 0.1 * torch.eye(cells, dtype=F64)


# --- the distribution -------------------------------------------------------------------------------------------


def test_the_density_is_the_product_over_channels():
    mean, covariance = some()
    p, z = ChannelNormal(mean, torch.linalg.cholesky(covariance)), torch.randn(5, 7, 12, dtype=F64)
    each = MultivariateNormal(mean, covariance)
    torch.testing.assert_close(p.log_prob(z), each.log_prob(z.unflatten(-1, (3, 4))).sum(-1))
    torch.testing.assert_close(p.expand((5, 7)).log_prob(z), p.log_prob(z))
    assert p.expand((5, 7)).log_prob(z[0, 0]).shape == (5, 7)
    torch.testing.assert_close(p.expand((2,)).mean, mean.flatten().expand(2, 12))
    torch.testing.assert_close(p.variance, each.variance.flatten())


def test_draws_have_its_moments():
    mean, covariance = some()
    p = ChannelNormal(mean, torch.linalg.cholesky(covariance)).expand((50,))
    z = p.sample((2000,)).reshape(-1, 12)
    found = np.cov(z.numpy(), rowvar=False)
    exact = torch.block_diag(*covariance).numpy()
    # The standard error of an entry of a covariance.
    error = np.sqrt((exact**2 + np.outer(exact.diagonal(), exact.diagonal())) / len(z))
    assert (np.abs(found - exact) < 5 * error).all()
    assert ((z.mean(0) - mean.flatten()).abs() < 5 * p.variance[0].sqrt() / math.sqrt(len(z))).all()


def test_the_divergence_is_that_of_two_gaussians():
    mean, covariance = some()
    p = ChannelNormal(mean, torch.linalg.cholesky(covariance)).expand((6,))
    m, s = torch.randn(6, 12, dtype=F64), torch.rand(6, 12, dtype=F64) + 0.1
    q = MultivariateNormal(m.unflatten(-1, (3, 4)), s.unflatten(-1, (3, 4)).square().diag_embed())
    exact = kl_divergence(q, MultivariateNormal(mean, covariance)).sum(-1)
    torch.testing.assert_close(kl_divergence(pyro_normal(m, s), p), exact)
    with pytest.raises(NotImplementedError):
        kl_divergence(torch.distributions.Independent(torch.distributions.Laplace(m, s), 1), p)


def pyro_normal(m, s):
    import pyro.distributions as dist

    return dist.Normal(m, s).to_event(1)


# --- the prior and its fit --------------------------------------------------------------------------------------


def test_before_the_fit_it_is_the_convolutional_vae(data):
    pair, plain = make(), make("cvae_conv")
    assert changed({**copy(plain), **{n: state(pair)[n] for n in MOMENTS}}, pair) == set()
    losses = []
    for one in (pair, plain):
        torch.manual_seed(5)
        losses.append(one(data))
    torch.testing.assert_close(losses[0].terms, losses[1].terms)
    torch.testing.assert_close(losses[0].bound, losses[1].bound)


@pytest.mark.parametrize("draws", [1, 3])
def test_the_moments_are_numpys(draws, data):
    pair = make()
    before = copy(pair)
    pv.fit_prior(pair, data, draws=draws, batch_size=8, seed=6)
    assert changed(before, pair) == MOMENTS
    codes = []
    with quietly(pair):
        for number, part in enumerate(data.split(8)):
            for again in range(draws):
                seed_at(6, number, again)
                codes.append(pair.guide(part).reshape(-1, 2, 2))
    codes = torch.cat(codes).double().numpy()
    assert len(codes) == 20 * draws
    for k, (mean, a) in enumerate(zip(pair.model.prior.loc, pair.model.prior.scale_tril, strict=True)):
        np.testing.assert_allclose(mean, codes[:, k].mean(0), atol=1e-6)
        np.testing.assert_allclose(a @ a.T, np.cov(codes[:, k], rowvar=False), atol=1e-6)


def test_codes_far_from_zero_lose_nothing():
    """In one pass, squares would cancel: 1e6 in mean, 1 in spread, in float32."""
    z = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)).double() + 1e6
    mean, covariance = channel_moments(z.split(700), 2)
    for k in range(2):
        np.testing.assert_allclose(covariance[k], np.cov(z[:, 3 * k : 3 * k + 3].numpy(), rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(mean.flatten(), z.mean(0), rtol=1e-12)


def test_what_is_generated_has_the_codes_moments(data):
    """Linear decoder, so that the moments of what is drawn are known: W mu + b and W Sigma W^T."""
    torch.manual_seed(0)
    pair = pv.affine_vae(data_dim=8, latent_dim=4)
    x = data @ torch.randn(8, 8)
    fitted = pv.with_empirical_prior(pair, x, channels=2, seed=1)
    a = fitted.model.prior.scale_tril
    covariance = torch.block_diag(*(a @ a.mT))
    with torch.no_grad():
        w, b = (t.double() for t in (pair.model.decoder.weight, pair.model.decoder.bias))
        drawn = pv.sample(fitted, 100_000).double()
    mean, exact = w @ fitted.model.prior.loc.flatten().double() + b, w @ covariance.double() @ w.T
    assert (drawn.mean(0) - mean).abs().max() < 0.02 * exact.diagonal().max().sqrt()
    assert (torch.cov(drawn.T) - exact).abs().max() < 0.02 * exact.diagonal().max()


def test_the_likelihood_is_that_under_the_fitted_prior(data):
    """Importance sampling and annealing against the evidence, which a linear Gaussian model has in closed form."""
    torch.manual_seed(0)
    pair = pv.with_empirical_prior(pv.affine_vae(data_dim=8, latent_dim=4), data, channels=2, seed=1).double()
    x, p = data[:6].double(), pair.model.prior
    covariance = torch.block_diag(*(p.scale_tril @ p.scale_tril.mT))
    with torch.no_grad():
        w, b = pair.model.decoder.weight, pair.model.decoder.bias
        noise = pair.model.scale(torch.zeros(1, 4).double()).square().expand(8).diag()
        exact = MultivariateNormal(w @ p.loc.flatten() + b, w @ covariance @ w.T + noise).log_prob(x)
    found = pv.log_likelihood(pair, x, samples=4000)
    assert ((found.value - exact).abs() < 5 * found.se + 1e-3).all()
    assert pv.bound(pair, x) < exact.mean()


def test_too_few_codes_still_make_a_density():
    """Three codes, four cells: of rank two. Nothing below the floor stays, and what is above it does."""
    prior, z = ChannelPrior(2, 4), torch.randn(3, 8, dtype=F64)
    mean, covariance = channel_moments([z], 2)
    prior.place(mean, covariance)
    values = torch.linalg.eigvalsh(prior.scale_tril.double() @ prior.scale_tril.double().mT)
    floor = 1e-6 * covariance.diagonal(dim1=1, dim2=2).mean(1)
    assert (values[:, 0] > floor * 0.3).all() and (values[:, 0] < 3 * floor).all()
    torch.testing.assert_close(values[:, 2:], torch.linalg.eigvalsh(covariance)[:, 2:], rtol=1e-4, atol=0.0)
    assert torch.isfinite(prior().log_prob(torch.randn(5, 8))).all()
    # No variance at all is a spike; a covariance that is one is left as it is.
    prior.place(torch.zeros(2, 4), torch.zeros(2, 4, 4))
    assert 5e-4 < prior.scale_tril[0, 0, 0] < 5e-3
    _, regular = some(2, 4)
    prior = prior.double()
    prior.place(torch.zeros(2, 4), regular)
    assert torch.equal(prior.scale_tril, torch.linalg.cholesky(regular))


def test_a_copy_is_fitted_and_the_pair_stays(data):
    pair = make("cvae_conv").train()
    before = copy(pair)
    fitted = pv.with_empirical_prior(pair, data, channels=2)
    assert not changed(before, pair) and isinstance(fitted.model.prior, ChannelPrior) and pair.training
    assert not {id(t) for t in fitted.parameters()} & {id(t) for t in pair.parameters()}
    one = make()
    pv.fit_prior(one, data)
    for name in MOMENTS:
        assert torch.equal(state(fitted)[name], state(one)[name])
    # Not one covariance for all channels, and not none.
    whole, apart = (pv.with_empirical_prior(pair, data, channels=c).model.prior.scale_tril.shape for c in (1, 4))
    assert (whole, apart) == ((1, 4, 4), (4, 1, 1))
    # A second site is no hindrance, a deterministic code neither, a condition is handed on.
    for name in ("t_vae", "autoencoder", "cvae"):
        torch.manual_seed(0)
        other = pv.variant(name)(data_dim=8, latent_dim=3, hidden=(5,))
        y = torch.arange(20) % 10 if name == "cvae" else None
        again = pv.with_empirical_prior(other, (data > 0.5).float(), y)
        assert pv.sample(again, 3, None if y is None else y[:3]).shape == (3, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: pv.fit_prior(make("cvae_conv"), x), "a StandardPrior as its prior: a ChannelPrior can be fitted"),
        (lambda x: pv.fit_prior(make(), x[:1]), "1 code: a covariance needs two"),
        (lambda x: pv.fit_prior(make(), x[:, :5]), "x has 5 entries"),
        (lambda x: pv.fit_prior(make(), x, draws=0), "draws is 0"),
        (lambda x: pv.fit_prior(make(), x, torch.arange(20)), "takes no condition"),
        (lambda x: pv.fit_prior(None, x), "a Pair is needed"),
        (lambda x: pv.with_empirical_prior(make("cvae_conv"), x, channels=3), "it must divide the 4 entries"),
        (lambda x: pv.with_empirical_prior(make("bcvae", blocks=2), x), "has no site 'z'"),
        (lambda x: pv.with_empirical_prior(make(), x), "a ChannelPrior as its prior: N"),
        (lambda x: pv.with_empirical_prior(pv.mixture_vae(8), x), "a MixturePrior as its prior"),
        (lambda x: pv.with_empirical_prior(None, x), "a Pair is needed"),
        (lambda x: make(draws=0), "draws is 0"),
        (lambda x: make(beta=-1.0), "beta is -1"),
        (lambda x: ChannelPrior(2, 2).place(torch.zeros(2, 2), torch.full((2, 2, 2), math.nan)), "covariance is"),
        (lambda x: ChannelPrior(2, 2).place(torch.zeros(3), torch.zeros(2, 2, 2)), "mean is"),
        (lambda x: pv.Pair(pv.l2_vae(8).model, pv.l2_vae(8).guide, pv.EmpiricalPrior(draws=True)), "draws is True"),
    ],
)
def test_bad_arguments_are_refused(call, message, data):
    with pytest.raises(pv.InputError, match=message):
        call(data)


# --- when a fit does it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_fit_ends_with_the_prior_of_its_codes(engine, data, tmp_path):
    pair, plain, seen = dense(), dense("N(0, I)"), []
    history = pv.fit(
        pair, data, **PLAN, engine=engine, out=tmp_path / "a",
        on_step=lambda _: seen.append(torch.equal(pair.model.prior.scale_tril, torch.eye(2).repeat(2, 1, 1))),
    )  # fmt: skip
    assert seen == [True] * 7 and history.step == 7
    # The networks are those of the pair without a finish, as far as two ways to add up a divergence let them be.
    pv.fit(plain, data, **PLAN, engine=engine)
    for name, tensor in plain.named_parameters():
        torch.testing.assert_close(tensor, state(pair)[name], rtol=1e-3, atol=1e-4)
    after = copy(pair)
    assert changed({**after, **{n: copy(dense())[n] for n in MOMENTS}}, pair) == MOMENTS
    pv.fit_prior(pair, data, seed=PLAN["seed"])
    assert not changed(after, pair)
    kept = checkpoint.load(tmp_path / "a" / CHECKPOINT)[0]
    assert all(torch.equal(kept[f"pair.{name}"], tensor) for name, tensor in after.items())


def whole_and_cut(data, folder, **options):
    whole = dense()
    pv.fit(whole, data, **PLAN, out=folder / "whole")
    return copy(whole), dense()


@pytest.mark.parametrize("stop", [2, 7])
def test_interrupted_before_it_is_as_if_it_had_not_been(stop, data, tmp_path):
    """Also right after the last step: then the prior is not fitted yet, and no step is left."""
    whole, cut = whole_and_cut(data, tmp_path)

    def interrupt(step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    history = pv.fit(cut, data, **PLAN, out=tmp_path / "cut", on_step=interrupt)
    assert history.interrupted == signal.SIGINT and history.step == stop
    assert torch.equal(cut.model.prior.loc, torch.zeros(2, 2))
    again = dense(seed=9)
    assert pv.fit(again, data, **PLAN, out=tmp_path / "cut", resume=True).interrupted is None
    assert not changed(whole, again)
    kept = checkpoint.load(tmp_path / "cut" / CHECKPOINT)[0]
    assert all(torch.equal(kept[f"pair.{name}"], tensor) for name, tensor in whole.items())


def test_a_crash_within_it_costs_nothing(data, tmp_path, monkeypatch):
    whole, cut = whole_and_cut(data, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(ChannelPrior, "place", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pv.fit(cut, data, **PLAN, out=tmp_path / "cut")
    again = dense(seed=9)
    pv.fit(again, data, **PLAN, out=tmp_path / "cut", resume=True)
    assert not changed(whole, again)
    # And of a finished run nothing changes when it is resumed.
    third = dense(seed=10)
    pv.fit(third, data, **PLAN, out=tmp_path / "cut", resume=True)
    assert not changed(whole, third)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_every_replica_gets_its_own(engine, data):
    pairs = [dense(seed=s) for s in (3, 4)]
    pv.fit(pairs, data, **PLAN, engine=engine)
    for r, pair in enumerate(pairs):
        after = copy(pair)
        pv.fit_prior(pair, data, seed=PLAN["seed"] + r)
        assert not changed(after, pair)
    assert not torch.equal(pairs[0].model.prior.loc, pairs[1].model.prior.loc)


def test_an_objective_around_it_hides_it_not(data):
    pair = dense()
    pair.objective = pv.Recycled(pair.objective)
    pv.fit(pair, data, **PLAN, engine="eager")
    assert pair.model.prior.loc.any()


def test_it_sees_the_data_as_a_step_does(data):
    """Bytes become floats, and data that are drawn anew are drawn for it too."""
    torch.manual_seed(3)
    pair = pv.empirical_cvae(**{**SIZES, "sd": None})
    seen = []
    pair.guide.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pv.fit(pair, (data * 255).to(torch.uint8), **PLAN, augment="dynamic", engine="eager")
    assert seen[-1].shape == (20, 8) and bool(((seen[-1] == 0) | (seen[-1] == 1)).all())
    assert pair.model.prior.loc.any()


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--hidden", "[4]", "--latent_dim", "16", "--limit", "60", "--sd", "0.25", "--engine", "eager"]
    assert main(["fit", "empirical_cvae", *words, "--steps", "4", "--batch_size", "20", "--out", "run"]) == 0
    pair, x = pv.Run.open("run").pair(), pv.load("digits", limit=60).x
    after = copy(pair)
    assert after["model.prior.scale_tril"].shape == (1, 16, 16)
    pv.fit_prior(pair, x)
    assert not changed(after, pair)
    assert main(["sample", "run", "--draws", "5"]) == 0
    assert np.load("run/samples.npy").shape == (5, 8, 8)
    assert main(["evaluate", "run", "--likelihood", "20", "--rows", "10"]) == 0
    assert "log p(x) (nats per datum)" in capsys.readouterr().out
    before, values = checkpoint.load("run/" + CHECKPOINT)
    assert main(["fit", "--resume", "run"]) == 0
    again = checkpoint.load("run/" + CHECKPOINT)
    assert again[1] == values and all(torch.equal(again[0][name], tensor) for name, tensor in before.items())
