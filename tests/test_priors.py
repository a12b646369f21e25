"""Learned priors: densities against sums and quadrature, moments, and the priors that they contain."""

import math

import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

import pyro_vaes as pv
from pyro_vaes.inference.posterior import bound
from pyro_vaes.models.priors import MixturePrior, VampPrior
from pyro_vaes.nn.mlp import GaussianEncoder

F64 = torch.float64
D, K, COMPONENTS = 4, 2, 5


def prior_of(name, components=COMPONENTS):
    torch.manual_seed(0)
    encoder = GaussianEncoder(D, (6,), K, torch.nn.Tanh)
    prior = MixturePrior(K, components) if name == "mixture" else VampPrior(encoder, D, components)
    with torch.no_grad():
        for p in prior.parameters():
            p += 0.5 * torch.randn_like(p)
    return prior.double()


def parts_of(prior):
    """Log-weights, centres and scales, from the parameters."""
    with torch.no_grad():
        if isinstance(prior, MixturePrior):
            return prior.logits.log_softmax(0), prior.loc.clone(), prior.log_scale.exp()
        u = 1 / (1 + torch.exp(-prior.raw))
        return torch.full((len(u),), -math.log(len(u)), dtype=F64), *prior.encoder(u)


@pytest.mark.parametrize("name", ["mixture", "vamp"])
class TestPrior:
    def test_density_is_the_sum_of_its_parts(self, name):
        prior, z = prior_of(name), torch.randn(3, 7, K, dtype=F64)
        weights, centres, scales = (t.numpy() for t in parts_of(prior))
        each = norm.logpdf(z.numpy()[..., None, :], centres, scales).sum(-1)
        expected = torch.as_tensor(logsumexp(each + weights, axis=-1))
        found = prior().log_prob(z)
        assert found.shape == (3, 7)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-10)

    def test_density_integrates_to_one(self, name):
        axis = torch.linspace(-9, 9, 361, dtype=F64)
        with torch.no_grad():
            mass = prior_of(name)().log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * 0.05**2
        assert mass == pytest.approx(1.0, abs=1e-4)

    def test_draws_have_its_moments(self, name):
        prior = prior_of(name)
        weights, centres, scales = parts_of(prior)
        mean = (weights.exp()[:, None] * centres).sum(0)
        variance = (weights.exp()[:, None] * (scales**2 + (centres - mean) ** 2)).sum(0)
        p = prior()
        z = p((20_000,))
        assert not z.requires_grad
        error = 5 * (variance / len(z)).sqrt()
        assert ((z.mean(0) - mean).abs() < error).all()
        assert torch.allclose(z.var(0), variance, rtol=0.1)
        torch.testing.assert_close(p.mean.detach(), mean)

    def test_bad_arguments_are_refused(self, name):
        with pytest.raises(pv.InputError, match="components is 0"):
            pv.variant(f"{name}_vae")(data_dim=4, components=0)


# --- what they contain ------------------------------------------------------------------------------------------


def test_one_component_at_the_standard_normal_is_the_vae():
    sizes = {"data_dim": D, "latent_dim": K, "hidden": (6,)}
    pair, vae = pv.mixture_vae(**sizes, components=1).double(), pv.vae(**sizes).double()
    vae.model.decoder, vae.guide = pair.model.decoder, pair.guide
    with torch.no_grad():
        pair.model.prior.loc.zero_()
        pair.model.prior.log_scale.zero_()
    x = torch.rand(9, D, dtype=F64).round()
    losses = []
    for one, objective in ((pair, pv.ELBO()), (vae, pv.ELBO(sampled=["z"]))):
        torch.manual_seed(1)
        losses.append(objective(one.model, one.guide, x))
    for term in ("x", "z"):
        torch.testing.assert_close(losses[0].terms[term], losses[1].terms[term], rtol=1e-12, atol=1e-12)


def test_one_pseudo_input_that_is_the_datum_makes_the_prior_the_posterior():
    """p(z) = q(z | u) and u = x: log q - log p is 0 at every draw, and the bound is E log p(x | z)."""
    prior, x = prior_of("vamp", 1), torch.rand(1, D, dtype=F64).clamp(0.02, 0.98)
    prior.place(x)
    q = torch.distributions.Normal(*prior.encoder(x))
    z = q.sample((50,))
    torch.testing.assert_close(prior().log_prob(z), q.log_prob(z).sum(-1), rtol=1e-12, atol=1e-12)


def test_pseudo_inputs_at_all_data_make_the_divergence_at_most_log_n():
    """The mean over data of KL[q(z | x) || mean_i q(z | x_i)] is the information of z on which datum it was."""
    n, prior = 6, prior_of("vamp", 6)
    x = torch.rand(n, D, dtype=F64).clamp(0.02, 0.98)
    prior.place(x)
    information = []
    with torch.no_grad():
        for shift in (0.0, -12.0):
            prior.encoder.raw_scale.bias += shift
            q = torch.distributions.Normal(*prior.encoder(x))
            z = q.sample((20_000,))
            information.append((q.log_prob(z).sum(-1) - prior().log_prob(z)).mean().item())
    assert 0 < information[0] < information[1] <= math.log(n) + 1e-9
    assert information[1] == pytest.approx(math.log(n), abs=1e-3), "codes that do not overlap tell the datum"


# --- the pseudo-inputs ------------------------------------------------------------------------------------------


def test_model_and_guide_share_one_encoder():
    pair = pv.vamp_vae(data_dim=D, latent_dim=K, hidden=(6,), components=3)
    assert pair.model.prior.encoder is pair.guide.encoder
    # The prior alone moves the encoder: both uses give it a gradient.
    prior = pair.model.prior
    prior().log_prob(torch.zeros(K)).backward()
    assert pair.guide.encoder.loc.weight.grad.abs().max() > 0 and prior.raw.grad.abs().max() > 0


def test_pseudo_inputs_start_where_they_were_told_to():
    torch.manual_seed(0)
    prior = VampPrior(torch.nn.Identity(), 100, 500)
    u = prior.inputs().detach()
    assert u.mean() == pytest.approx(0.05, abs=0.002) and u.std() == pytest.approx(0.01, abs=0.001)
    x = torch.rand(500, 100).round()
    prior.place(x)
    assert torch.allclose(prior.inputs(), x.clamp(0.01, 0.99)) and prior.raw.requires_grad


@pytest.mark.parametrize(
    ("x", "message"), [(torch.zeros(2, D), "of shape"), (torch.full((3, D), 1.5), r"lie in \[0, 1\]")]
)
def test_pseudo_inputs_that_are_no_data_are_refused(x, message):
    prior = VampPrior(torch.nn.Identity(), D, 3)
    before = prior.raw.clone()
    with pytest.raises(pv.InputError, match=message):
        prior.place(x)
    assert torch.equal(prior.raw, before)


@pytest.mark.parametrize("grey", [0.0, 1.0, float("nan")])
def test_a_grey_that_no_sigmoid_reaches_is_refused(grey):
    with pytest.raises(pv.InputError, match="grey is"):
        pv.vamp_vae(data_dim=D, grey=grey)


# --- what they buy ----------------------------------------------------------------------------------------------


def test_learned_priors_raise_the_bound_on_data_of_separate_kinds():
    """Four kinds of data, each with its own pattern and a little noise: codes come in clumps.

    Pseudo-inputs start at data: from their grey start they stay alike here, and bring nothing over the VAE.
    """
    g = torch.Generator().manual_seed(0)
    patterns = torch.rand(4, 20, generator=g).round()
    flips = torch.rand(400, 20, generator=g) < 0.02
    x = (patterns.repeat(100, 1) - flips.float()).abs()
    bounds = {}
    for name, options in {"vae": {}, "mixture_vae": {"components": 8}, "vamp_vae": {"components": 8}}.items():
        torch.manual_seed(1)
        pair = pv.variant(name)(data_dim=20, latent_dim=2, hidden=(16,), **options)
        if name == "vamp_vae":
            pair.model.prior.place(x[:8])
        pv.fit(pair, x, steps=500, batch_size=100, lr=1e-2, progress=False, engine="graph")
        bounds[name] = bound(pair, x.repeat(10, 1))
    assert min(bounds["mixture_vae"], bounds["vamp_vae"]) > bounds["vae"] + 0.1, bounds
