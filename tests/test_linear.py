"""The affine VAE: its optimum is probabilistic PCA, and it prunes what it does not need."""

import math

import pytest
import torch

import pyro_vaes as pv

F64 = torch.float64
D, RANK, NOISE = 6, 2, 0.4


def data(rows=80):
    """Centred rows whose covariance is exactly diag(4, 2.25, 0, ...) + 0.16 I, in a random basis."""
    torch.manual_seed(1)
    x = torch.randn(rows, D, dtype=F64)
    white = torch.linalg.qr(x - x.mean(0))[0] * math.sqrt(rows)
    basis = torch.linalg.qr(torch.randn(D, D, dtype=F64))[0]
    sd = (torch.tensor([4.0, 2.25, 0, 0, 0, 0], dtype=F64) + NOISE**2).sqrt()
    return white * sd @ basis.T + 0.5, basis[:, :RANK]


def closed_form(x, k, hidden=()):
    """The variant with the parameters of Tipping & Bishop's optimum, and its evidence per datum."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    values, vectors = values.flip(0), vectors.flip(1)
    gamma = values[k:].mean()
    w, b = vectors[:, :k] * (values[:k] - gamma).clamp(min=0).sqrt(), x.mean(0)
    pair = pv.affine_vae(D, k, hidden=hidden).double()
    encoder, spread = pair.guide.encoder, (gamma / ((w**2).sum(0) + gamma)).sqrt()
    with torch.no_grad():
        pair.model.decoder.weight.copy_(w), pair.model.decoder.bias.copy_(b)
        pair.model.scale.log_excess.copy_(torch.log(gamma.sqrt() - pair.model.scale.minimum))
        encoder.loc.weight.copy_((w / ((w**2).sum(0) + gamma)).T), encoder.loc.bias.copy_(-encoder.loc.weight @ b)
        encoder.raw_scale.weight.zero_(), encoder.raw_scale.bias.copy_(torch.expm1(spread - 1e-5).log())
    normal = torch.distributions.MultivariateNormal(b, w @ w.T + gamma * torch.eye(D, dtype=F64))
    return pair, normal.log_prob(x).mean(), gamma


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_optimum_is_probabilistic_pca(k, monkeypatch):
    """At the closed form the bound is the exact log-likelihood, and no parameter of p or q wants to move.

    The noise is +-sqrt(k) along each axis of the code, so that the mean over it is exact for a quadratic.
    """
    x, _ = data()
    pair, evidence, gamma = closed_form(x, k)
    points = math.sqrt(k) * torch.cat([torch.eye(k, dtype=F64), -torch.eye(k, dtype=F64)])
    noise = points.repeat_interleave(len(x), 0)
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: noise)
    loss = pair(x.repeat(len(points), 1))
    torch.testing.assert_close(-loss.total, evidence, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pair.model.scale().square(), gamma[None])
    loss.total.backward()
    for name, p in pair.named_parameters():
        assert p.grad.abs().max() < 1e-9, name
    with torch.no_grad():
        pair.model.scale.log_excess += 0.1
    assert pair(x.repeat(len(points), 1)).total > loss.total + 1e-3


def test_training_finds_it_and_prunes_what_is_superfluous():
    """Five codes for two dimensions: gamma, the column space and the bound are those of two; three codes are noise.

    A code that is used has the posterior variance gamma / (eigenvalue): 0.04 and 0.07 here.
    """
    x, basis = data()
    torch.manual_seed(0)
    pair = pv.affine_vae(D, 5, hidden=()).double()
    pv.fit(pair, x, steps=1000, batch_size=80, lr=0.03, progress=False)
    gamma = pair.model.scale().item() ** 2
    assert gamma == pytest.approx(NOISE**2, rel=0.05)
    w, spread = pair.model.decoder.weight.detach(), pair.guide.encoder(x)[1].square().mean(0)
    used = spread < 0.5
    assert used.sum() == RANK and (spread[~used] > 0.9).all()
    assert (w[:, ~used].norm(dim=0) < 0.1 * w[:, used].norm(dim=0).min()).all()
    cosines = torch.linalg.svdvals(torch.linalg.qr(w[:, used])[0].T @ basis)
    assert cosines.min() > 0.995
    _, evidence, _ = closed_form(x, RANK)
    with torch.no_grad():
        bound = -torch.stack([pair(x).total for _ in range(200)]).mean().item()
    assert evidence - 0.1 < bound < evidence + 0.02


def test_an_unknown_scale_is_named():
    with pytest.raises(pv.InputError, match="did you mean 'gamma'"):
        pv.affine_vae(4, scale="gama")
    with pytest.raises(pv.InputError, match="affine"):
        pv.induced_ae(4, affine=1)


def test_an_affine_induced_ae_takes_real_data():
    pair = pv.induced_ae(4, 2, (3,), affine=True, width=8.0)
    assert isinstance(pair.model.decoder, torch.nn.Linear)
    assert torch.isfinite(pair(5 * torch.randn(7, 4)).total)
    with pytest.raises(pv.InputError):
        pv.fit(pv.induced_ae(4, 2, (3,)), 5 * torch.randn(7, 4), steps=1, progress=False)
