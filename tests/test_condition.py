"""condition: the log-density of the observed entries, by hand, against obs_mask, and with Pyro's own algorithms."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from test_complete import SEEN, linear_pair, posterior
from test_contract import SMALL, batch, condition, make
from torch.distributions import Bernoulli, Normal, StudentT

import pyro_vaes as pv


def holes(x, share=0.4, seed=5):
    seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) >= share
    return torch.where(seen, x, torch.nan), seen


def scored(program, z):
    trace = poutine.trace(poutine.condition(program, {"z": z})).get_trace()
    return trace.log_prob_sum(), trace


def prior(z):
    return Normal(0.0, 1.0).log_prob(z).sum()


def by_hand(name, pair, z, x):
    """log p(x_j | z), entry by entry."""
    mu = pair.model.decoder(z)
    if name == "vae":
        return Bernoulli(logits=mu).log_prob(x)
    if name in ("l2_vae", "lc_vae"):
        return Normal(mu, pair.model.scale(z)).log_prob(x)
    if name == "t_vae":
        return StudentT(pair.model.dof(z), mu, pair.model.scale(z)).log_prob(x)
    if name == "rvae":
        share, broad = pair.model.share(z), pair.model.broad(z)
        clean = Normal(mu, pair.model.scale(z)).log_prob(x) + share.log()
        return torch.logaddexp(clean, Normal(0.0, broad).log_prob(x) + (1 - share).log())
    floor = pair.model.floor(z)
    kernel = -0.5 * ((x - mu).square() + floor.square()).log() - (2 * torch.asinh(1 / floor)).log()
    return kernel if name == "ic_vae" else kernel - 0.5 * (1 + torch.tensor(2 * torch.pi).log())


@pytest.mark.parametrize("name", ["vae", "l2_vae", "lc_vae", "t_vae", "rvae", "ic_vae", "indexed_ic_vae"])
def test_the_observed_entries_and_no_others(name):
    pair, x = make(name).double(), batch(name).double()
    x, seen = holes(x)
    z = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = prior(z) + torch.where(seen, by_hand(name, pair, z, x.nan_to_num()), 0.0).sum()
        found, trace = scored(pv.condition(pair, x), z)
        again, _ = scored(pv.condition(pair, x.nan_to_num(), seen), z)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again, expected)
    latent = poutine.trace(pv.condition(pair, x)).get_trace().stochastic_nodes
    assert set(latent) - {"data", "rows"} == {"z"}
    assert torch.equal(trace.nodes["x_filled"]["value"][seen], x[seen])


def test_gradients_are_those_of_the_density_too():
    for name in ("vae", "t_vae", "rvae", "ic_vae", "indexed_ic_vae"):
        pair = make(name).double()
        x, seen = holes(batch(name).double())
        z = torch.randn(10, 3, dtype=torch.float64).requires_grad_()
        (found,) = torch.autograd.grad(scored(pv.condition(pair, x), z)[0], z)
        hand = prior(z) + torch.where(seen, by_hand(name, pair, z, x.nan_to_num()), 0.0).sum()
        torch.testing.assert_close(found, torch.autograd.grad(hand, z)[0])


@pytest.mark.parametrize("name", SMALL)
def test_every_variant_can_be_conditioned(name):
    pair, x = make(name), batch(name, 4)
    program = pv.condition(pair, holes(x)[0], None, condition(name, 4))
    assert poutine.trace(program).get_trace().log_prob_sum().isfinite()


def test_a_model_with_obs_mask_says_the_same():
    pair = make("l2_vae").double()
    x, seen = holes(batch("l2_vae").double())
    z = torch.randn(10, 3, dtype=torch.float64)

    def hand():
        with pyro.plate("data", 10, dim=-2):
            code = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)).squeeze(-2)
            with pyro.plate("pixels", 8, dim=-1):
                fn = dist.Normal(pair.model.decoder(code), pair.model.scale(code))
                pyro.sample("x", fn, obs=x.nan_to_num(), obs_mask=seen)

    with torch.no_grad():
        trace = poutine.trace(poutine.condition(hand, {"z": z[:, None]})).get_trace()
        trace.compute_log_prob()
        theirs = trace.nodes["z"]["log_prob_sum"] + trace.nodes["x_observed"]["log_prob_sum"]
        torch.testing.assert_close(scored(pv.condition(pair, x), z)[0], theirs)
        missing = trace.nodes["x_unobserved"]["log_prob_sum"]
        torch.testing.assert_close(trace.log_prob_sum(), theirs + missing)


@pytest.fixture
def linear():
    pair = linear_pair()
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return pair, x, pv.condition(pair, x, SEEN)


@pytest.mark.slow
def test_nuts_and_predictive_are_stock(linear):
    pair, x, program = linear
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(program), num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run()
    z = mcmc.get_samples()["z"]
    mean, cov, image, sd = posterior(pair, x)
    assert ((z.mean(0) - mean).abs() < 0.15).all()
    torch.testing.assert_close(z.std(0), cov.diagonal().sqrt().expand(2, -1), rtol=0.25, atol=0)
    filled = Predictive(program, {"z": z})()["x_filled"]
    assert torch.equal(filled[:, :, SEEN], x[:, SEEN].expand(300, -1, -1))
    assert ((filled.mean(0) - image)[:, ~SEEN].abs() < 0.2).all()
    wide = (sd.square() + 0.25).sqrt()[~SEEN].expand(2, -1)
    torch.testing.assert_close(filled.std(0)[:, ~SEEN], wide, rtol=0.25, atol=0)
    together = Predictive(program, {"z": z}, parallel=True)()["x_filled"]
    assert together.shape == filled.shape


@pytest.mark.slow
def test_svi_with_a_guide_of_ones_own_trains_no_decoder(linear):
    pair, x, program = linear
    before = [p.clone() for p in pair.parameters()]
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    guide = AutoMultivariateNormal(program)
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(program, guide, pyro.optim.ClippedAdam({"lr": 0.03, "lrd": 0.995}), elbo)
    for _ in range(500):
        svi.step()
    assert all("decoder" not in name for name in pyro.get_param_store())
    pyro.clear_param_store()
    found = guide.get_posterior()
    mean, cov, *_ = posterior(pair, x)
    torch.testing.assert_close(found.mean.detach().reshape(2, 2), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(found.covariance_matrix[:2, :2].detach(), cov, atol=0.05, rtol=0.3)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))


def test_bad_input():
    pair = make("l2_vae")
    with pytest.raises(pv.InputError, match="shape"):
        pv.condition(pair, torch.rand(3, 8), torch.ones(5))
    with pytest.raises(pv.InputError, match="row 0, column 0"):
        pv.condition(pair, torch.full((3, 8), 2.0))
