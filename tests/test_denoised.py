"""Denoising and free bits: by hand, as reductions, in every engine."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import pyro_vaes as pv
from pyro_vaes.data.augment import SaltAndPepper


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return pv.vae(data_dim=6, latent_dim=3, hidden=(5,)).double()


X = (torch.rand(9, 6, generator=torch.Generator().manual_seed(1)) > 0.5).double()


def loss_of(pair, objective, x=X, seed=1, **options):
    pair.objective = objective
    torch.manual_seed(seed)
    return pair(x, **options)


# --- denoising ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [pv.ELBO(), pv.ELBO(beta=0.3), pv.ImportanceWeighted(4)])
def test_without_corruption_it_is_the_objective(pair, inner):
    assert loss_of(pair, pv.Denoised(inner, lambda x: x)).total == loss_of(pair, inner).total


def test_by_hand(pair):
    """q at the corrupted datum, p at the clean one."""
    flipped = 1 - X
    loss = loss_of(pair, pv.Denoised(pv.ELBO(), lambda x: 1 - x))
    loc, scale = pair.guide.encoder(flipped)
    torch.manual_seed(1)
    z = loc + scale * torch.randn_like(loc)
    kl = kl_divergence(Normal(loc, scale), Normal(torch.zeros_like(loc), 1.0)).sum(-1)
    prob = torch.sigmoid(pair.model.decoder(z))
    log_p = torch.log(torch.where(X == 1, prob, 1 - prob)).sum(-1)
    assert loss.total.item() == pytest.approx((kl - log_p).mean().item(), rel=1e-12)


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_a_second_look_at_the_guide_sees_the_same_corruption(pair, estimator):
    """At K = 1 the estimators' gradients for the model are the plain one, if the corruption is not drawn twice."""
    grads = []
    for name in ("iwae", estimator):
        loss = loss_of(pair, pv.Denoised(pv.ImportanceWeighted(3, 0.0, name), "salt_and_pepper:0.3"))
        grads.append(torch.autograd.grad(loss.total, list(pair.model.parameters())))
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("engine", ["graph", "inductor"])
def test_fresh_in_every_engine(pair, engine):
    pair = pair.float()
    pair.objective = pv.Denoised(pv.ELBO(), "salt_and_pepper:0.3")
    history = pv.fit(pair, X.float(), steps=3, engine=engine, progress=False)
    assert history.engine.kind == engine, pv.describe(history.engine)


def test_salt_and_pepper_makes_as_much_salt_as_pepper():
    noisy = SaltAndPepper(0.4)(torch.full((200, 500), 0.5))
    assert (noisy == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (noisy == 1).float().mean().item() == pytest.approx(0.2, abs=0.01)


def test_the_trained_pair_is_asked_with_data_as_they_are(pair):
    pair.objective = pv.Denoised(pv.ELBO(), "salt_and_pepper:0.5")
    assert torch.equal(pv.clean(pair, X).mean, pv.clean(pair, X, seed=5).mean)


@pytest.mark.parametrize("corruption", [None, "salt:0.1", "salt_and_pepper:2", "salt_and_pepper:x"])
def test_bad_corruptions(corruption):
    with pytest.raises(pv.InputError):
        pv.Denoised(pv.ELBO(), corruption)


# --- free bits ----------------------------------------------------------------------------------------------------


def entries(pair, x=X):
    loc, scale = pair.guide.encoder(x)
    return kl_divergence(Normal(loc, scale), Normal(torch.zeros_like(loc), 1.0)).mean(0)


@pytest.mark.parametrize("particles", [1, 3])
def test_free_bits_by_hand(pair, particles):
    kl = entries(pair)
    free = kl.sort().values[1].item() + 1e-3  # above two entries, below the third
    loss = loss_of(pair, pv.ELBO(free_bits=free, particles=particles), size=90)
    assert loss.terms["z"].item() == pytest.approx(torch.clamp(kl, min=free).sum().item(), rel=1e-12)
    assert loss.terms["z"].item() > kl.sum().item()
    # The bound knows nothing of it.
    plain = loss_of(pair, pv.ELBO(particles=particles), size=90)
    assert loss.bound.item() == pytest.approx(plain.bound.item(), rel=1e-12)


def test_none_of_them_is_the_elbo(pair):
    plain = loss_of(pair, pv.ELBO()).total.item()
    assert loss_of(pair, pv.ELBO(free_bits=0.0)).total.item() == pytest.approx(plain, rel=1e-12)


def test_below_them_there_is_no_pull_towards_the_prior(pair):
    loss = loss_of(pair, pv.ELBO(free_bits=100.0))
    assert loss.terms["z"].item() == pytest.approx(300.0)
    kl_gradients = torch.autograd.grad(loss.terms["z"], list(pair.guide.parameters()), allow_unused=True)
    assert all(g is None or g.abs().max() == 0 for g in kl_gradients)


def test_a_site_without_a_closed_form_is_taken_as_a_whole(pair):
    loss = loss_of(pair, pv.ELBO(sampled=["z"], free_bits=100.0))
    assert loss.terms["z"].item() == pytest.approx(300.0)


def test_a_site_drawn_against_the_models_order_is_taken_as_a_whole():
    # KL[q(z_1 | x) || p(z_1 | z_2)] at a z_2 that came from z_1 is not the bound's term: floors must not bring it back.
    torch.manual_seed(0)
    pair = pv.iwae_2(data_dim=6, latent_dim=2, hidden=(5,), middle=3, middle_hidden=(4,)).double()
    plain = loss_of(pair, pv.ELBO()).terms
    free = plain["z_1"].item() / 4  # below the site's term, three entries together
    assert free > 0
    assert loss_of(pair, pv.ELBO(free_bits=free)).terms["z_1"].item() == pytest.approx(plain["z_1"].item(), rel=1e-12)
    assert loss_of(pair, pv.ELBO(free_bits=9.0)).terms["z_1"].item() == pytest.approx(27.0)


def test_they_can_follow_a_schedule(pair):
    pair = pair.float()
    pair.objective = pv.ELBO(free_bits=0.5)
    history = pv.fit(pair, X.float(), steps=4, engine="graph", schedules={"free_bits": (9.0, 1.0, 2)}, log_every=1,
                     progress=False)  # fmt: skip
    assert [round(row["terms"]["z"], 2) for row in history.rows[:3:2]] == [27.0, 3.0]


def test_bad_free_bits():
    with pytest.raises(pv.InputError, match="free_bits is -1"):
        pv.ELBO(free_bits=-1)
    assert repr(pv.ELBO(free_bits=0.5)) == "ELBO(free_bits=0.5)"
